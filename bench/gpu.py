"""``python -m bench.gpu``: the rows of the benchmark on a GPU, timed by CUDA events.

Before any clock runs, what fastgrad computes there is compared with its CPU kernels, bit for bit, and every
contestant goes through the gate of ``bench.run``. ``--device cpu --sizes tiny`` is a dry run of all but the events.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor

from bench import device
from bench.race import counts, prepare
from bench.results import Record, Result, floor_of
from bench.rows import KINDS, ROWS, Contestant, Row
from bench.run import names, without_json
from bench.shapes import LISTS, Workspace, workspace

METHOD = """\
**time / floor**: the median over that of the fastest floor, plain kernels of torch that move the bytes stated beside
the title between two tensors of the same device. A list that fits into the L2 cache is timed in it, as are its
floors. A sample is the mean of calls in a row between two events; contestants are warmed up and take turns. The
table has the median of the samples and their quartiles. What fastgrad computed was equal to the results of its CPU
kernels, bit for bit, before it was timed; the others went through the checks of `bench/gate.py`."""


class Different(AssertionError):
    """A device does not compute what the CPU does."""


# --- rows


def rows() -> dict[str, Row]:
    """Those of ``bench.run`` with floors of the device in place of C++ loops."""
    found = {}
    for row in ROWS.values():
        ours = tuple(c for c in row.contestants if c.kind != "floor" and not c.name.startswith("only bare"))
        floors = device.floors(row.bytes(), row.name == "moments")
        found[row.name] = dataclasses.replace(row, contestants=(*floors, *ours))
    return found


# --- equal to the CPU, bit for bit


def tensors_in(value: object) -> Iterator[Tensor]:
    """All tensors of a result, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


def same_bits(a: Tensor, b: Tensor) -> bool:
    a, b = (t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(a, b)


def _left_by(contestant: Contestant, work: Workspace) -> dict[str, list[Tensor]]:
    work.reset()
    call = contestant.build(work)
    work.reset()
    result = call()
    return {
        "result": list(tensors_in(result)), "grads": work.grads, "params": work.params, "momenta": work.momenta,
    }  # fmt: skip


def check_equal(contestant: Contestant, work: Workspace, truth: Workspace) -> None:
    """One call on the device and one on the CPU leave the same bits everywhere."""
    here, there = _left_by(contestant, work), _left_by(contestant, truth)
    for name, tensors in there.items():
        if len(here[name]) != len(tensors):
            raise Different(f"{name}: {len(here[name])} tensors, {len(tensors)} on the CPU")
        for i, (a, b) in enumerate(zip(here[name], tensors, strict=True)):
            if a.shape != b.shape or a.dtype != b.dtype or not same_bits(a, b):
                raise Different(f"{name}[{i}] {list(b.shape)} is not what the CPU computes")


# --- timing


def checked(row: Row, contestant: Contestant, work: Workspace, truth: Workspace) -> tuple[Callable | None, Result]:
    """A contestant's call, or None with what is wrong with it."""
    if contestant.kind == "ours":
        try:
            check_equal(contestant, work, truth)
        except Exception as error:
            text = str(error).strip().splitlines()
            failed = f"{type(error).__name__}: {text[0] if text else ''}"
            return None, {
                "contestant": contestant.name, "kind": contestant.kind, "package": None, "failed": failed,
            }  # fmt: skip
    return prepare(row, contestant, work)


def run_row(row: Row, work: Workspace, truth: Workspace, options: argparse.Namespace) -> list[Result]:
    calls: dict[str, Callable[[], object]] = {}
    results: list[Result] = []
    torch._dynamo.reset()
    for contestant in row.contestants:
        if options.kinds and contestant.kind not in options.kinds:
            continue
        call, result = checked(row, contestant, work, truth)
        results.append(result)
        if call is not None:
            calls[contestant.name] = call
    work.reset()
    timings = {}
    if calls and not options.check:
        timer = device.timer_for(work.device)
        timings = device.measure(calls, timer, options.repeats, seconds=options.seconds, warmup=options.warmup)
    for result in results:
        result |= {
            "row": row.name, "title": row.title, "traffic": row.traffic, "list": work.name, "threads": 0,
            "elements": work.elements, "tensors": len(work.grads), "bytes": row.bytes(),
        }  # fmt: skip
        if result["contestant"] in timings:
            timing = timings[result["contestant"]].record()
            result |= {key: timing[key] for key in ("calls", "samples", "q1", "median", "q3")}
    return results


# --- the report


def _cells(result: Result, floor: float | None) -> list[str]:
    if result["failed"]:
        return ["**failed**", "", "", "", result["failed"].replace("|", "\\|")]
    if "median" not in result:
        return ["checked", "", "", "", ""]
    times = [f"{result[key] * 1e6:,.1f}" for key in ("median", "q1", "q3")]
    ratio = f"{result['median'] / floor:.2f}" if floor else ""
    ratio = f"**{ratio}**" if result["kind"] == "ours" else ratio
    speed = f"{result['bytes'] * result['elements'] / result['median'] / 1e9:,.1f}"
    first = f"first call {result['cold_seconds']:.1f} s" if "cold_seconds" in result else ""
    return [ratio, times[0], f"{times[1]} to {times[2]}", speed, first]


def markdown(record: Record) -> str:
    facts = [f"| {name} | {value} |" for name, value in record["machine"].items()]
    lines = [f"# fastgrad on {record['machine']['device']}", "", f"`{record['command']}`, {record['date']}", ""]
    lines += [METHOD, "", f"Timed by {record['timer']}.", "", "| | |", "|---|---|", *facts]
    place = None
    for number, result in enumerate(record["results"]):
        if place != (result["list"], result["row"]):
            place = (result["list"], result["row"])
            lines += ["", f"## {result['list']}: {result['title']}", ""]
            lines.append(
                f"{result['tensors']} tensors, {result['elements']:,} elements; {result['traffic']}: "
                f"{result['bytes']:.4g} bytes per element"
            )
            clocks = record["clocks"].get(" ".join(place), {})
            if clocks:
                lines.append("Clocks after it: " + ", ".join(f"{name} {value}" for name, value in clocks.items()))
            lines += ["", "| | time / floor | µs | quartiles | GB/s | |", "|---|--:|--:|--:|--:|---|"]
        cells = _cells(result, floor_of(record, record["results"][number]) if "median" in result else None)
        lines.append(f"| {result['contestant']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    every = list(rows())
    a = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    a.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu: a dry run")
    a.add_argument("--sizes", type=names(list(LISTS)), default=["resnet56", "gpt", "one"], help="resnet56,gpt,one,tiny")
    a.add_argument("--rows", type=names(every), default=every, help=",".join(every))
    a.add_argument("--kinds", type=names(KINDS), default=None, help=",".join(KINDS))
    a.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    a.add_argument("--check", action="store_true", help="check everything and time nothing")
    a.add_argument("--repeats", type=int, default=31, help="samples per contestant (default 31)")
    a.add_argument("--seconds", type=float, default=0.02, help="length of a sample at least (default 0.02)")
    a.add_argument("--warmup", type=float, default=0.2, help="seconds of warming up per contestant (default 0.2)")
    a.add_argument("--json", type=Path, help="where to store the measurements")
    a.add_argument("--out", type=Path, help="where to store the tables (default: printed)")
    return a


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    place = torch.device(options.device)
    if place.type == "cuda":
        if not torch.cuda.is_available():
            print("bench.gpu: torch finds no CUDA device; --device cpu is a dry run", file=sys.stderr)
            return 2
        torch.cuda.set_device(place)
        place = torch.device("cuda", torch.cuda.current_device())
    if options.no_compile:
        options.kinds = [kind for kind in options.kinds or KINDS if kind != "compile"]
    given = sys.argv[1:] if argv is None else argv
    record: Record = {
        "format": 1,
        "command": shlex.join(["python", "-m", "bench.gpu", *_without_files(given)]),
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "machine": device.description(place),
        "timer": device.timer_for(place).name,
        "clocks": {},
        "results": [],
    }
    available = rows()
    for size in options.sizes:
        work, truth = workspace(size, str(place)), workspace(size)
        for name in options.rows:
            with torch.no_grad():
                record["results"] += run_row(available[name], work, truth, options)
            record["clocks"][f"{size} {name}"] = device.clocks(place)
            print(f"{size} {name}: done", file=sys.stderr, flush=True)
            _store(record, options)
        del work, truth
    if options.out is None:
        print(markdown(record))
    failed = [r for r in record["results"] if r["failed"]]
    for r in failed:
        print(f"failed: {r['list']} {r['row']} {r['contestant']}: {r['failed']}", file=sys.stderr)
    return int(any(map(counts, failed)))


def _without_files(arguments: list[str]) -> list[str]:
    renamed = ["--json" if a == "--out" else a.replace("--out=", "--json=", 1) for a in arguments]
    return without_json(renamed)


def _store(record: Record, options: argparse.Namespace) -> None:
    """After every row: an interrupted run leaves what it has measured."""
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.out:
        options.out.write_text(markdown(record))


if __name__ == "__main__":
    raise SystemExit(main())
