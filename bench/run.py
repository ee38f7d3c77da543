"""``python -m bench.run``: checks every contestant, then times all against the floor of their traffic."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path

import torch

from bench import gate, machine
from bench.contestants import ROWS, Contestant, Row
from bench.measure import DISTURBED, measure
from bench.report import floor_of, tables
from bench.shapes import LISTS, Workspace, workspace
from fastgrad import library

Result = dict[str, object]


def prepare(row: Row, contestant: Contestant, work: Workspace) -> tuple[Callable[[], object] | None, Result]:
    """Builds a contestant and sends it through the gate: its call, or None with what was wrong."""
    result: Result = {"contestant": contestant.name, "kind": contestant.kind, "failed": None}
    begin = time.perf_counter()
    try:
        call = contestant.build(work)
        if contestant.kind == "compile":
            begin = time.perf_counter()
            call()
            result["cold_seconds"] = time.perf_counter() - begin
        gate.run(work, call, contestant.check or row.check)
    except Exception as error:  # a contestant that cannot run is a result, too
        result["failed"] = (
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        )
        return None, result
    return call, result


def run_row(
    row: Row, work: Workspace, contestants: Iterable[Contestant], repeats: int, seconds: float, budget: float
) -> list[Result]:
    """Gate and timing of one row on one list, with torch's present number of threads."""
    calls: dict[str, Callable[[], object]] = {}
    results: list[Result] = []
    torch._dynamo.reset()
    for contestant in contestants:
        call, result = prepare(row, contestant, work)
        results.append(result)
        if call is not None:
            calls[contestant.name] = call
    work.reset()
    timings = measure(calls, repeats, seconds=seconds, budget=budget) if calls else {}
    for result in results:
        result |= {
            "row": row.name,
            "title": row.title,
            "traffic": row.traffic,
            "list": work.name,
            "threads": torch.get_num_threads(),
            "elements": work.elements,
            "tensors": len(work.grads),
            "bytes": row.bytes,
        }
        if result["contestant"] in timings:
            result |= timings[result["contestant"]].record()
    return results


def names(valid: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an option: some of these, separated by commas."""

    def parse(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in valid]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected some of {', '.join(valid)}")
        return text.split(",")

    return parse


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    arguments.add_argument("--rows", type=names(list(ROWS)), default=list(ROWS), help=",".join(ROWS))
    arguments.add_argument(
        "--lists",
        type=names(list(LISTS)),
        default=["resnet56", "gpt", "one"],
        help="resnet56,gpt,one (or tiny)",
    )
    arguments.add_argument("--repeats", type=int, default=21, help="samples per contestant (default 21)")
    arguments.add_argument(
        "--seconds", type=float, default=0.1, help="length of a sample at least (default 0.1)"
    )
    arguments.add_argument(
        "--budget", type=float, default=4.0, help="seconds after which 5 samples do (default 4)"
    )
    arguments.add_argument(
        "--threads", type=lambda text: [int(n) for n in text.split(",")], default=[torch.get_num_threads()],
        help="numbers of threads, e.g. 1,2 (default: torch's)",
    )  # fmt: skip
    arguments.add_argument(
        "--no-compile", action="store_true", help="leave out torch.compile (a minute per row)"
    )
    arguments.add_argument("--json", type=Path, help="where to store the measurements")
    return arguments


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if not options.no_compile:
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
    given = sys.argv[1:] if argv is None else argv
    record: dict[str, object] = {
        "format": 1,
        "command": shlex.join(["python", "-m", "bench.run", *without_json(given)]),
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "machine": machine.description() | {"used by others at the start": f"{busy:.0%}"},
        "results": [],
    }
    begin = time.perf_counter()
    for list_name in options.lists:
        work = workspace(list_name)
        for threads in options.threads:
            torch.set_num_threads(threads)
            for name in options.rows:
                row = ROWS[name]
                contestants = [c for c in row.contestants if not (options.no_compile and c.kind == "compile")]
                with torch.no_grad():
                    results = run_row(
                        row, work, contestants, options.repeats, options.seconds, options.budget
                    )
                record["results"] += results
                print("\n".join(tables(record, results)), flush=True)
                record["seconds"] = time.perf_counter() - begin
                if options.json:
                    options.json.write_text(json.dumps(record, indent=1))
        del work
    failed = [r for r in record["results"] if r["failed"]]
    # A library that is not installed, or does not run here, is a line of the table and no failure of ours.
    wrong = [r for r in failed if r["kind"] != "peer"]
    for r in failed:
        print(f"failed: {r['list']} {r['row']} {r['contestant']}: {r['failed']}", file=sys.stderr)
    without_floor = {
        (r["list"], r["row"], r["threads"]) for r in record["results"] if floor_of(record, r) is None
    }
    for key in sorted(without_floor):
        print(f"no floor for {key}", file=sys.stderr)
    return 1 if wrong else 0


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
