"""``python -m bench.report``: markdown tables and a plot of measurements, and what changed since others."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path

from bench import machine
from bench.cached import CACHED, instructions_alone, is_cached
from bench.compare import compare
from bench.results import PLACE, Record, Result, fastest_floor, groups, key, milliseconds, noise, setting
from bench.summary import write_summary

LIST_TITLES = {"resnet56": "ResNet-56", "gpt": "GPT", "one": "One tensor", "tiny": "Tiny"}
COLORS = {
    "ours": "#d62728", "eager": "#7f7f7f", "foreach": "#1f77b4", "fused": "#17becf", "compile": "#9467bd",
    "peer": "#8c564b", "reference": "#bcbd22",
}  # fmt: skip

METHOD = """\
**time / floor** is the headline: the median time of a contestant over that of the floor of its row. The
floor is the fastest of several plain C++ loops that move the same bytes (`bench/floors.cpp`: ordinary and
streaming stores, several orders of work), in the same run, on the same tensors, with the same number of
threads. They round nothing and draw no random numbers, so 1.0 is the speed of memory (or of the cache,
where the list fits into it) and not of an algorithm. It is measured, not a lower bound: a ratio may lie below 1.

A contestant is a whole call as a user writes it: Python, the dispatcher, the outputs it allocates. Every
one is checked against float64 first and is not timed if it fails (a std from `torch._foreach_norm` may be
off by 1 %, plain torch's q_k by 0.1 %, others by 0.01 %). What does less than the row asks for says in its
name what is missing, and that part which it does was checked. Then contestants and floors take turns
(those of AdamW, which hold much, run one after another). A sample is the mean of at least 0.05 s of calls
(one call, if that takes longer), after one that is not timed; the tables show the median of the samples
and their quartiles. Slow calls get two samples. A sample during which other processes used more than 10 %
of the CPUs is dropped and taken again; where some stayed disturbed, the last column says how many. GB/s is by the
bytes stated beside the title. Memory that a contestant frees stays with the process where jemalloc is installed
(`bench/allocator.py` says why; `--malloc system` does without).

*In the cache*, beside our calls, is what their instructions alone take, in ms: one thread's time for an element of a
tensor that lies in the second cache, times the elements of the list, over its threads. Where that is more than the
floor, no way to move bytes faster helps; where it is less, the two would have to overlap without a gap.

`torch.compile`, and libraries that compile, are timed warm; the first call, with an empty cache, stands beside
them. A graph of a whole list is made only where that has few tensors (`--compile-all` makes all).

Tables of *bf16* have bfloat16 gradients, whose floors move two bytes in their place; parameters and momenta
are float32. Optimizers that take no such gradients get a float32 copy, which is part of
their call. The instruction set is that of fastgrad's kernels and of torch's, and of what it compiles; floors are
compiled for the machine. The noise of the machine is how far a probe scatters: the same loop, timed in every row."""


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _row(r: Result, floor: float | None, cached: float | None = None) -> str:
    if r.get("left_out"):
        return f"| {r['contestant']} | | | | | | {r['left_out']} |"
    if r["failed"]:
        return f"| {r['contestant']} | **failed** | | | | | {r['failed']} |".replace("\n", " ")
    notes = []
    if r.get("cold_seconds") is not None:
        notes.append(f"first call {r['cold_seconds']:.1f} s")
    if r["disturbed"]:
        notes.append(f"{r['disturbed']} of {len(r['samples'])} disturbed")
    if cached is not None:
        notes.append(f"in the cache {milliseconds(cached)}")
    ratio = _ratio(r["median"] / floor) if floor else "-"
    if r["kind"] == "ours":
        ratio = f"**{ratio}**"
    cells = [
        r["contestant"],
        ratio,
        milliseconds(r["median"]),
        f"{milliseconds(r['q1'])} to {milliseconds(r['q3'])}",
        f"{r['median'] / r['elements'] * 1e9:.4f}",
        "" if r["kind"] == "reference" else f"{r['bytes'] * r['elements'] / r['median'] / 1e9:.1f}",
        ", ".join(notes),
    ]
    return f"| {' | '.join(cells)} |"


def _shown(r: Result, floor: float | None) -> bool:
    """Of the floors only the fastest, no probe."""
    return bool(r["failed"]) or r["kind"] not in ("floor", "probe") or (r["kind"] == "floor" and r["median"] == floor)


def tables(record: Record, results: Iterable[Result] | None = None) -> list[str]:
    """One table for each row, list, dtype, instruction set and number of threads."""
    lines = []
    for group in groups(record["results"] if results is None else results).values():
        floor, row = fastest_floor(group), group[0]
        title = f"{row['title']} ({row['traffic']}: {row['bytes']:.4g} bytes per element)"
        words = f"{LIST_TITLES.get(row['list'], row['list'])}, {setting(row)}"
        lines += [f"#### {title}", "", f"{words}:", ""]
        lines += [
            "| | time / floor | ms | quartiles | ns / element | GB/s | |",
            "|---|--:|--:|--:|--:|--:|---|",
        ]
        alone = {id(r): instructions_alone(record, r) for r in group if r["kind"] == "ours" and not is_cached(r)}
        lines += [_row(r, floor, alone.get(id(r))) for r in group if _shown(r, floor)]
        lines.append("")
    return lines


def markdown(record: Record, plot: str | None = None) -> str:
    lines = ["# Benchmarks", "", METHOD, "", "```", f"{record['command']} --json build/bench.json"]
    lines += [
        "python -m bench.report build/bench.json --out docs/benchmarks.md --plot docs/benchmarks.png",
        "```",
        "",
    ]
    lines += [f"Measured {record['date']}, in {record.get('seconds', 0) / 60:.0f} minutes, on:", ""]
    lines += [*machine.table(record["machine"]), ""]
    for place, part in noise(record).items():
        if place[0] in CACHED:
            continue
        words = f"{LIST_TITLES.get(place[0], place[0])}, {setting(dict(zip(PLACE, place, strict=True)))}"
        lines.append(f"Noise of the machine, {words}: {part:.1%}  ")
    lines.append("")
    if plot:
        lines += [f"![time over floor, per row and contestant]({plot})", ""]
    seen: dict[str, list[Result]] = {}
    for result in record["results"]:
        if not is_cached(result):
            seen.setdefault(result["list"], []).append(result)
    for name, results in seen.items():
        count, elements = results[0]["tensors"], results[0]["elements"]
        lines += [
            f"## {LIST_TITLES.get(name, name)}: {count} tensor{'s' * (count > 1)}, {elements:,} elements",
            "",
        ]
        lines += [line.replace("#### ", "### ") for line in tables(record, results)]
    return "\n".join(lines).rstrip() + "\n"


def draw(record: Record, path: Path) -> None:
    """time / floor of every contestant, one panel per list, of one setting."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    # The setting of the first result, which is that of most.
    drawn = key(record["results"][0])[1:4]
    found = {k: g for k, g in groups(record["results"]).items() if k[1:4] == drawn and fastest_floor(g)}
    lists = list(dict.fromkeys(k[0] for k in found))
    rows = list(dict.fromkeys(k[4] for k in found))
    figure, axes = plt.subplots(
        1, len(lists), figsize=(1.5 + 4.2 * len(lists), 1.8 + 0.4 * len(rows)), sharey=True, squeeze=False
    )
    for axis, list_name in zip(axes[0], lists, strict=True):
        for (name, *_, row), group in found.items():
            if name != list_name:
                continue
            floor = fastest_floor(group)
            for r in group:
                if r["kind"] in ("floor", "probe") or "median" not in r:
                    continue
                low, middle, high = (r[q] / floor for q in ("q1", "median", "q3"))
                axis.errorbar(
                    middle, rows.index(row), xerr=[[middle - low], [high - middle]], color=COLORS[r["kind"]],
                    fmt="D" if r["kind"] == "ours" else "|" if r["kind"] == "reference" else "o",
                    markersize=8 if r["kind"] == "ours" else 6, zorder=3 if r["kind"] == "ours" else 2,
                )  # fmt: skip
        axis.axvline(1, color="black", linewidth=1)
        axis.set_xscale("log")
        axis.grid(alpha=0.3)
        axis.set_title(LIST_TITLES.get(list_name, list_name))
        axis.set_xlabel("time / floor")
    axes[0][0].set_yticks(range(len(rows)), rows)
    axes[0][0].set_ylim(len(rows) - 0.5, -0.5)
    kinds = [k for k in COLORS if any(r["kind"] == k for g in found.values() for r in g)]
    handles = [
        plt.Line2D([], [], color=COLORS[k], marker="D" if k == "ours" else "o", linestyle="", label=k)
        for k in kinds
    ]  # fmt: skip
    words = {"ours": "fastgrad", "reference": "less work", "peer": "other libraries"}
    names = [words.get(k, f"torch {k}") for k in kinds]
    figure.legend(handles, names, loc="lower center", ncols=3, frameon=False)
    figure.suptitle(f"{record['machine']['cpu']}, {setting(record['results'][0])}")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    arguments.add_argument("input", type=Path, help="what bench.run --json wrote")
    arguments.add_argument("--out", type=Path, help="markdown file; without it the text is printed")
    arguments.add_argument("--plot", type=Path, help="picture of time / floor")
    arguments.add_argument("--summary", type=Path, help="file whose short tables are made anew, as README.md")
    arguments.add_argument(
        "--compare", type=Path, metavar="OLD.json", help="print changes beyond quartiles and noise; 1 if slower"
    )
    options = arguments.parse_args(argv)
    record = json.loads(options.input.read_text())
    if options.compare:
        lines = compare(record, json.loads(options.compare.read_text()))
        print("\n".join(lines) or "no change beyond the quartiles and the noise")
        return int(any(line.startswith("slower") for line in lines))
    if options.summary:
        write_summary(record, options.summary)
    if options.plot:
        draw(record, options.plot)
    folder = options.out.parent if options.out else Path()
    text = markdown(record, os.path.relpath(options.plot, folder) if options.plot else None)
    if options.out:
        options.out.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
