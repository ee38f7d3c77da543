"""What each part of the method does: the same run with and without it, some seeds each."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from medclm.problems import DataError
from medclm.schema import STAGES
from medclm.training.settings import Settings
from medclm.whole_files import write_whole

# Differences to the defaults. "no organ" is another set: `medclm convert .. --organs none`.
ARMS: dict[str, dict] = {
    "adaptive": {},
    "paper": {"scheduler": "paper"},
    "staged": {"scheduler": "staged"},
    "none": {"scheduler": "none"},
    "easy": {"scheduler": "mix:1,0,0"},
    "easy+medium": {"scheduler": "mix:1,1,0"},
    "no-reasoning": {"reasoning": False},
    "no-backward-rounding": {"backward_format": "none"},
    "no-compression": {"backward_format": "none", "activations": "none", "state_format": "fp32", "dtype": "fp32"},
    "box": {"box_weight": 0.1},
}


def compare(folder: Path, out: Path, arms: Sequence[str], seeds: Sequence[int], common: dict) -> Path:
    """Runs what is not there yet and writes ``out/ablation.md``. Raises DataError for an unknown arm."""
    from medclm.training.loop import train

    for arm in arms:
        if arm not in ARMS:
            raise DataError(f"arms: expected some of {', '.join(ARMS)}, got {arm!r}")
    found = {
        arm: [train(folder, out / f"{arm}-{seed}", Settings(**(common | ARMS[arm] | {"seed": seed}))) for seed in seeds]
        for arm in arms
    }
    path = out / "ablation.md"
    write_whole(path, lambda made: made.write_text(table(found, len(seeds))))
    return path


def table(found: dict[str, list[dict]], seeds: int) -> str:
    """Losses of the val split behind the last step, mean and standard deviation over seeds, and what was shown."""
    lines = [
        f"Loss on the val split by stage, {seeds} seeds: mean (standard deviation). A stage that an arm never asks for "
        "is not looked at.",
        "",
        f"| arm | {' | '.join(STAGES)} | shown {'/'.join(STAGES)} |",
        "|---|" + "--:|" * (len(STAGES) + 1),
    ]
    for arm, results in found.items():
        cells = [
            _cell([r["validation"][stage] for r in results if r["validation"] and stage in r["validation"]])
            for stage in STAGES
        ]
        shown = "/".join(f"{statistics.mean(r['shown'][stage] for r in results):.0f}" for stage in STAGES)
        lines.append(f"| {arm} | {' | '.join(cells)} | {shown} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ({statistics.stdev(values):.4f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"
