"""The short tables of a run that the README shows: between two comments, so that they are never typed by hand."""

from __future__ import annotations

from pathlib import Path

from bench.cached import instructions_alone
from bench.results import Record, Result, fastest_floor, groups, milliseconds, place_of

BEGIN, END = "<!-- speed: made by `make bench-docs` -->", "<!-- speed: end -->"

# row of the benchmark -> what it is called here, which of our calls, the time / floor that is wanted: 1.15, and 1.3
# where every element needs noise.
ROWS: dict[str, tuple[str, str, float]] = {
    "moments": ("mean and std of every tensor", "fastgrad.gradient_moments", 1.15),
    "znorm": ("ZNorm in place", "fastgrad.normalize_", 1.15),
    "centralize": ("Gradient Centralization in place", "fastgrad.normalize_", 1.15),
    "autoscale": ("autoscale in place", "fastgrad.normalize_", 1.15),
    "clip": ("clipping to the norm of the list", "fastgrad.normalize_", 1.15),
    "bf16": ("stochastic rounding to bf16, q_k, into kept memory", "fastgrad.quantize(out=)", 1.3),
    "fp8_delayed": ("the same to fp8_e4m3, scale given", "fastgrad.quantize(out=)", 1.3),
    "int8": ("the same to int8, a scale per 256", "fastgrad.quantize(out=)", 1.3),
    "fp4": ("the same to fp4_e2m1, a power of two per 32", "fastgrad.quantize(out=)", 1.3),
    "momentum": ("SGD with momentum, no extras", "fastgrad.optim.SGD.step", 1.15),
    "chain": ("ZNorm, stochastic bf16, q_k, weight decay, momentum, update", "fastgrad.optim.SGD.step", 1.3),
    "adamw": ("AdamW, fp32", "fastgrad.optim.AdamW, fp32 (28 B)", 1.15),
    "activations": ("saved activations in int8: there and back", "fastgrad.compress_saved_tensors", 1.3),
}
OTHERS = ("eager", "foreach", "fused", "compile", "peer")  # those that do the work of the row


def _line(record: Record, group: list[Result], with_floor: bool) -> str | None:
    title, call, wanted = ROWS[str(group[0]["row"])]
    timed = [r for r in group if "median" in r and not r["failed"]]
    ours = next((r for r in timed if r["contestant"] == call), None)
    if ours is None:
        return None
    others = [r for r in timed if r["kind"] in OTHERS]
    if ", fp32" in call:  # a row whose contestants differ in the precision of what they keep
        others = [r for r in others if ", fp32" in str(r["contestant"])]
    best = min(others, key=lambda r: r["median"], default=None)
    cells = [title, f"{milliseconds(ours['median'])} ms"]
    floor = fastest_floor(group)
    if with_floor:
        alone = instructions_alone(record, ours)
        cells += [f"{ours['median'] / floor:.2f}" if floor else "-", f"{wanted}"]
        cells += [f"{milliseconds(floor)} ms" if floor else "-", "-" if alone is None else f"{milliseconds(alone)} ms"]
    cells.append(f"{best['contestant']}: {milliseconds(best['median'])} ms" if best else "-")
    return f"| {' | '.join(cells)} |"


def _table(record: Record, name: str, heads: str, with_floor: bool) -> list[str]:
    found = groups(record["results"])
    place = (name, *place_of(record["results"][0])[1:])
    of_place = [found[(*place, row)] for row in ROWS if (*place, row) in found]
    lines = list(filter(None, (_line(record, group, with_floor) for group in of_place)))
    return [heads, "|---|--:|" + "--:|" * (4 * with_floor) + "---|", *lines] if lines else []


def summary(record: Record) -> list[str]:
    """Our calls of a run's first setting: over the long list beside their floors, then over that of small tensors."""
    heads = "| row | ours | time / floor | wanted | floor | in the cache | the fastest of the others |"
    long = _table(record, "gpt", heads, True)
    short = _table(record, "resnet56", "| ResNet-56: 167 small tensors | ours | the fastest of the others |", False)
    return [f"Measured {str(record['date'])[:10]} on {record['machine']['cpu']}.", "", *long, "", *short]


def write_summary(record: Record, path: Path) -> None:
    """Replaces what stands between the two comments of a file. ValueError where it lacks them."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{path}: expected one line '{BEGIN}' and one '{END}'")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text("\n".join([before + BEGIN, *summary(record), END]) + after)
