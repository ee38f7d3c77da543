"""The table of what ``bench.medclm_training run`` left."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.machine import description
from bench.medclm_training.contestants import CONTESTANTS


def read(folder: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for file in sorted(folder.glob("*-*.json")):
        record = json.loads(file.read_text())
        found.setdefault(record["contestant"], []).append(record)
    if "fp32" not in found:
        raise SystemExit(f"{folder}: expected runs of fp32, which the others are compared with")
    return found


def markdown(runs: Path, times: Path | None) -> str:
    found = read(runs)
    timed = read(times) if times else found
    base, base_seconds = found["fp32"], _median(timed["fp32"], "seconds")
    one = base[0]
    base_peak, base_loss = _peak(base), _losses(base)
    lines = [
        f"{one['parameters'] / 1e6:.1f} M parameters (`{one['settings']['model']}`), all of them trained; batch "
        f"{one['settings']['batch']}, {one['settings']['max_steps']} steps, learning rate {one['settings']['lr']:g} "
        f"with a cosine to a tenth, {_threads(base)}, {len(base)} seeds; the same questions and stages in the "
        "same order. The loss is that of the objective on questions of the val split behind the last step, mean over "
        f"the stages. Machine: {description()['cpu']}.",
        "",
        "| | peak, MiB | of fp32 | seconds a step | of fp32 | final loss, mean (deviation) | against fp32 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, contestant in CONTESTANTS.items():
        if name not in found:
            continue
        peak, loss, seconds = _peak(found[name]), _losses(found[name]), _median(timed[name], "seconds")
        pairs = [b / a - 1 for a, b in zip(base_loss, loss, strict=False)]
        change = "" if name == "fp32" else f"{100 * statistics.mean(pairs):+.1f} % ({_list(pairs)})"
        lines.append(
            f"| {contestant.title} | {peak:,.0f} | {100 * peak / base_peak:.0f} % | {seconds:.2f} | "
            f"{seconds / base_seconds:.2f} | {statistics.mean(loss):.4f} ({_deviation(loss):.4f}) | {change} |"
        )
    imports = statistics.median(record["imports"] for records in found.values() for record in records) / 2**20
    noise = max(record["others"] for records in timed.values() for record in records)
    lines += [
        "",
        "Peak: largest resident memory of the process from its start to its end (loading, training, evaluation, the "
        f"checkpoint), less the {imports:,.0f} MiB of the bare imports. Seconds: median of the steps but the first "
        f"three, {_threads(timed['fp32'])}; others took at most {100 * noise:.0f} % of the machine meanwhile.",
    ]
    return "\n".join(lines)


def _peak(records: Sequence[dict]) -> float:
    """MiB, the largest of the seeds."""
    return max(record["peak"] - record["imports"] for record in records) / 2**20


def _losses(records: Sequence[dict]) -> list[float]:
    return [record["validation"][-1]["mean"] for record in records]


def _threads(records: Sequence[dict]) -> str:
    count = records[0]["threads"]
    return f"{count} thread{'s' if count > 1 else ''}"


def _median(records: Sequence[dict], key: str) -> float:
    return statistics.median(record[key] for record in records)


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _list(parts: Sequence[float]) -> str:
    return ", ".join(f"{100 * part:+.1f}" for part in parts)
