"""``python -m bench.run``: checks every contestant, then times all against the floor of their traffic."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path

import torch

from bench import allocator, machine
from bench.cached import is_cached
from bench.measure import DISTURBED
from bench.plan import BEST, Part, default_parts, instruction_sets
from bench.race import Effort, counts, run_row
from bench.report import tables
from bench.results import Record, Result, floor_of
from bench.rows import KINDS, ROWS
from bench.shapes import DTYPES, LISTS, workspace
from fastgrad import library


def names(valid: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an option: some of these, separated by commas."""

    def parse(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in valid]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected some of {', '.join(valid)}")
        return text.split(",")

    return parse


def add_matrix(arguments: argparse.ArgumentParser) -> None:
    """What to measure; without any of these options it is the selection of bench/plan.py."""
    arguments.add_argument("--rows", type=names(list(ROWS)), help=f"default all: {','.join(ROWS)}")
    arguments.add_argument("--lists", type=names(list(LISTS)), help="default resnet56,gpt,one; or tiny")
    arguments.add_argument(
        "--threads", type=lambda text: [int(n) for n in text.split(",")], help="e.g. 1,2 (default: torch's)"
    )
    arguments.add_argument("--isa", type=names(instruction_sets()), help=f"default {BEST}; {instruction_sets()}")
    arguments.add_argument("--dtype", type=names(list(DTYPES)), help="of the gradients: fp32,bf16 (default fp32)")
    arguments.add_argument("--kinds", type=names(KINDS), help=f"of contestants; default all: {','.join(KINDS)}")


def parts_of(options: argparse.Namespace) -> list[Part]:
    given = (options.rows, options.lists, options.threads, options.isa, options.dtype, options.kinds)
    if all(value is None for value in given):
        return default_parts()
    return [
        Part(
            tuple(options.lists or ("resnet56", "gpt", "one")),
            tuple(options.rows or ROWS),
            tuple(options.dtype or ("fp32",)),
            tuple(options.threads or (torch.get_num_threads(),)),
            isa,
            tuple(options.kinds or KINDS),
        )
        for isa in options.isa or [BEST]
    ]


def parser() -> argparse.ArgumentParser:
    effort = Effort()
    arguments = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    add_matrix(arguments)
    arguments.add_argument(
        "--repeats", type=int, default=effort.repeats, help=f"samples per contestant (default {effort.repeats})"
    )
    arguments.add_argument(
        "--seconds", type=float, default=effort.seconds,
        help=f"length of a sample at least (default {effort.seconds})",
    )  # fmt: skip
    arguments.add_argument(
        "--budget", type=float, default=effort.budget,
        help=f"seconds after which 2 samples do (default {effort.budget})",
    )  # fmt: skip
    compiling = arguments.add_mutually_exclusive_group()
    compiling.add_argument(
        "--no-compile", dest="compile", action="store_const", const="none", default="few",
        help="leave out torch.compile, and what calls it",
    )  # fmt: skip
    compiling.add_argument(
        "--compile-all", dest="compile", action="store_const", const="all",
        help="also graphs of long lists: a minute per row, list and contestant",
    )  # fmt: skip
    arguments.add_argument(
        "--malloc", choices=("keep", "system"), default="keep",
        help="keep (default): memory that was freed stays with the process, by jemalloc, where that is installed",
    )  # fmt: skip
    arguments.add_argument("--json", type=Path, help="where to store the measurements")
    return arguments


def run_here(part: Part, effort: Effort, done: Callable[[list[Result]], None]) -> None:
    """In this process; ``done`` gets the results of every row."""
    work = None
    for name, dtype, threads, row_name in part.settings():
        if work is None or (work.name, work.dtype) != (name, dtype):
            work = None  # two lists at once would not fit
            work = workspace(name, dtype=dtype)
        torch.set_num_threads(threads)
        with torch.no_grad():
            done(run_row(ROWS[row_name], work, part.contestants(row_name), effort))


def run_elsewhere(part: Part, options: argparse.Namespace, done: Callable[[list[Result]], None]) -> None:
    """In a process with the instruction set of the part, which torch, too, chooses when it starts."""
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "part.json"
        switch = {"none": ["--no-compile"], "few": [], "all": ["--compile-all"]}[options.compile]
        command = [
            *(sys.executable, "-m", "bench.run", *part.options(), *switch, "--json", str(stored)),
            *("--repeats", str(options.repeats), "--seconds", str(options.seconds), "--budget", str(options.budget)),
            *("--malloc", options.malloc),
        ]
        root = Path(__file__).parent.parent
        code = subprocess.run(command, env=part.environment(), cwd=root, stdout=subprocess.DEVNULL).returncode
        if not stored.exists():
            raise RuntimeError(f"bench.run --isa {part.isa} ended with {code} and left no measurements")
        done(json.loads(stored.read_text())["results"])


def new_record(arguments: list[str], busy: float) -> Record:
    return {
        "format": 2,
        "command": shlex.join(["python", "-m", "bench.run", *without_json(arguments)]),
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "machine": machine.description() | {"used by others at the start": f"{busy:.0%}"},
        "results": [],
    }


def verdict(record: Record) -> int:
    """Says what failed and what has no floor; 1 if a failure is ours."""
    results = record["results"]
    for r in results:
        if r["failed"]:
            place = " ".join(str(r[part]) for part in ("list", "dtype", "isa", "threads", "row", "contestant"))
            print(f"{'failed' if counts(r) else 'not here'}: {place}: {r['failed']}", file=sys.stderr)
    without = {
        (r["list"], r["row"], r["dtype"], r["threads"])
        for r in results
        if not is_cached(r) and floor_of(record, r) is None
    }
    for place in sorted(without):
        print(f"no floor for {place}", file=sys.stderr)
    return int(any(map(counts, results)))


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if argv is None and options.malloc == "keep":
        allocator.start_again("bench.run")
    if options.compile != "none":
        from torch._inductor import config

        warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
        config.force_disable_caches = True  # first calls are those of an empty cache
    busy = machine.idle_check()
    if busy > DISTURBED:
        print(
            f"warning: others use {busy:.0%} of the CPUs; samples they disturb are taken again",
            file=sys.stderr,
        )
    if library.native is None:
        print("warning: no native module, fastgrad's rows are its PyTorch reference", file=sys.stderr)
    record = new_record(sys.argv[1:] if argv is None else argv, busy)
    if options.json:  # its folder, before anything was measured
        options.json.parent.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()

    def done(results: list[Result]) -> None:
        record["results"] += results
        print("\n".join(tables(record, results)), flush=True)
        record["seconds"] = time.perf_counter() - begin
        if options.json:
            options.json.write_text(json.dumps(record, indent=1))

    effort = Effort(options.repeats, options.seconds, options.budget, options.compile)
    for part in parts_of(options):
        if part.isa == library.instruction_set():
            run_here(part, effort, done)
        else:
            run_elsewhere(part, options, done)
    return verdict(record)


def without_json(arguments: list[str]) -> list[str]:
    """The arguments but for the output file, whose place is nobody's business."""
    kept, skip = [], False
    for argument in arguments:
        if skip or argument.startswith("--json="):
            skip = False
            continue
        if argument == "--json":
            skip = True
            continue
        kept.append(argument)
    return kept


if __name__ == "__main__":
    raise SystemExit(main())
