"""Markdown of a record of ``bench.memory``: one table for each shape, and how it was measured."""

from __future__ import annotations

from bench import machine
from bench.memory_tiers.contestants import CONTESTANTS
from bench.memory_tiers.resident import MALLOC
from bench.memory_tiers.shapes import SHAPES

METHOD = """\
Every contestant runs in a process of its own: it imports its libraries and takes two steps of a tiny model, so that
what loads at first use is loaded; the resident memory at this point is *imports* and is subtracted from the peaks.
Then a Llama with random weights is made one module at a time, never in a wider type than its own, and trained with
batch 1, {length} tokens, gradient checkpointing on (non-reentrant), words of this repository's documents from a
`DataLoader` in the same process; threads: {threads}.

- **persistent** is counted from tensors, each storage once: weights, the gradients that are held when backward is
  over (none with gradient release), and everything the optimizer keeps.
- **all-in peak** is the largest resident memory (`VmHWM`) while it trains, all steps, less *imports*: activations,
  logits, gradients in flight, work space of kernels and dequantization, loader, and what the allocator wastes.
- *with construction* is the largest since the imports, less *imports*: it holds the making of the model, too.
- *CPU s* are seconds of all threads of the process, which others on the machine disturb less than the clock's.
  *optimizer* is the median step less the median forward and backward of the same process with the gradients dropped,
  so its noise is that of two larger numbers. *first step* holds a compiler's time where a contestant compiles (its
  cache is empty).

B is bytes per parameter. Unless a title says fastgrad, the loss is that of transformers, which makes all logits, in
float32, too. The allocator is the same for all, {malloc}:
freed tensors go back to the system, so a peak is made of what lives. Compilers that a contestant starts are processes
of their own and not counted."""


def _bytes(value: float, parameters: int) -> str:
    return f"{value / parameters:.3f}"


def _seconds(times: dict[str, float] | None, kind: str) -> str:
    return "" if times is None else f"{times[kind]:.2f}"


def _row(result: dict) -> str:
    contestant = CONTESTANTS[result["contestant"]]
    title = f"**{contestant.title}**" if contestant.ours else contestant.title
    if result["failed"]:
        return f"| {title} | {result['failed'].replace('|', '/')} |" + " |" * 11
    n, counted, seconds = result["parameters"], result["counted"], result["seconds"]
    persistent, peak = _bytes(result["persistent"], n), _bytes(result["all-in peak"], n)
    if contestant.wanted and result["shape"] == "llama-1.1b":
        persistent, peak = (
            f"{found} (wanted {wanted:g})" for found, wanted in zip((persistent, peak), contestant.wanted, strict=True)
        )
    cells = [
        title,
        *(_bytes(counted[name], n) for name in ("weights", "gradients", "state")),
        f"**{persistent}**",
        f"**{peak}**",
        _bytes(result["overall peak"], n),
        _bytes(counted["other tensors"], n),
        f"{result['resident']['imports'] / 2**20:.0f}",
        _seconds(seconds["step"], "wall"),
        _seconds(seconds["step"], "cpu"),
        _seconds(seconds["optimizer"], "cpu"),
        f"{seconds['first step']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _table(results: list[dict]) -> list[str]:
    names = [
        "", "weights B", "gradients B", "state B", "persistent B", "all-in peak B", "with construction B",
        "other tensors B", "imports MiB", "step s", "step CPU s", "optimizer CPU s", "first step s",
    ]  # fmt: skip
    order = list(CONTESTANTS)
    results = sorted(results, key=lambda r: order.index(r["contestant"]))
    return [f"| {' | '.join(names)} |", "|---" + "|--:" * (len(names) - 1) + "|", *map(_row, results)]


def markdown(record: dict) -> str:
    results = record["results"]
    lines = ["## Bytes per parameter", ""]
    malloc = ", ".join(f"`{name}={value}`" for name, value in MALLOC.items())
    settings = {name: ", ".join(sorted({str(r[name]) for r in results})) for name in ("length", "threads")}
    lines += [METHOD.format(malloc=malloc, **settings), ""]
    for name, shape in SHAPES.items():
        of_shape = [r for r in results if r["shape"] == name]
        if not of_shape:
            continue
        counts = {r["parameters"] for r in of_shape if not r["failed"]}
        size = f", {counts.pop():,} parameters" if counts else ""
        lines += [f"### {shape.title[0].upper()}{shape.title[1:]}{size}", "", *_table(of_shape), ""]
        disturbed = [r["others"] for r in of_shape if not r["failed"]]
        if disturbed:
            lines += [f"Others took up to {max(disturbed):.0%} of the CPUs while these steps ran.", ""]
    versions = {name: v for r in results if not r["failed"] for name, v in r["versions"].items()}
    lines += ["```", *record["commands"], "python -m bench.memory report FILE.json --out docs/memory.md", "```", ""]
    lines += [", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + ".", ""]
    lines += [f"Measured {record['date']} on:", "", *machine.table(record["machine"])]
    return "\n".join(lines)
