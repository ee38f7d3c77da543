"""One row on one list: every contestant goes through the gate, then they take turns under the clock."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bench import gate
from bench.measure import measure
from bench.results import Result
from bench.rows import Contestant, Row
from bench.shapes import Workspace
from fastgrad import library

FEW_TENSORS = 8  # a graph of more takes from 20 s to minutes to compile


@dataclass(frozen=True)
class Effort:
    """How long to measure, and what to compile."""

    repeats: int = 7  # samples of a contestant
    seconds: float = 0.05  # length of a sample at least
    budget: float = 0.6  # seconds of a contestant, after which 2 samples do
    compile: str = "few"  # torch.compile: none, few (graphs of whole lists only where these are short), or all

    def leaves_out(self, contestant: Contestant, work: Workspace, row: Row) -> str:
        """Why a contestant does not start here; empty if it does."""
        if self.compile == "none" and contestant.compiles in ("list", "tensor"):
            return "torch.compile was switched off"
        if self.compile == "few" and contestant.compiles == "list" and len(work.grads) > FEW_TENSORS:
            return f"not compiled for {len(work.grads)} tensors: --compile-all"
        whole = any(c.kind == "compile" and c.compiles == "list" for c in row.contestants)
        if contestant.kind == "compile" and contestant.compiles == "tensor" and len(work.grads) == 1 and whole:
            return "the list is one tensor"
        return ""


def prepare(row: Row, contestant: Contestant, work: Workspace) -> tuple[Callable[[], object] | None, Result]:
    """Builds a contestant and sends it through the gate: its call, or None with what was wrong."""
    result: Result = {
        "contestant": contestant.name, "kind": contestant.kind, "package": contestant.package, "failed": None,
    }  # fmt: skip
    begin = time.perf_counter()
    try:
        call = contestant.build(work)
        built = time.perf_counter() - begin
        first = gate.run(work, call, contestant.check or row.check)
        if contestant.compiles:
            result["cold_seconds"] = built + first
    except Exception as error:  # a contestant that cannot run is a result, too
        text = str(error).strip().splitlines()
        result["failed"] = f"{type(error).__name__}: {text[0] if text else ''}"
        return None, result
    return call, result


def counts(result: Result) -> bool:
    """Whether a failure is one of ours: a library that is missing, or does not run here, is none."""
    return bool(result["failed"]) and result.get("package") is None


def run_row(row: Row, work: Workspace, contestants: Sequence[Contestant], effort: Effort) -> list[Result]:
    """Gate and timing of one row on one list, with torch's present number of threads."""
    results: list[Result] = []
    torch._dynamo.reset()
    taking_part: list[Contestant] = []
    for contestant in contestants:
        if work.dtype not in contestant.dtypes:
            continue
        reason = effort.leaves_out(contestant, work, row)
        if reason:
            left_out = {"contestant": contestant.name, "kind": contestant.kind, "failed": None, "left_out": reason}
            results.append(left_out)
        else:
            taking_part.append(contestant)
    batches = [taking_part]
    if not row.together:
        loops = [c for c in taking_part if c.kind in ("floor", "probe")]
        batches = [loops, *([c] for c in taking_part if c not in loops)]
    for batch in batches:
        results += _together(row, work, batch, effort)
        gc.collect()
    order = {c.name: i for i, c in enumerate(contestants)}
    return described(sorted(results, key=lambda result: order[result["contestant"]]), row, work)


def _together(row: Row, work: Workspace, batch: list[Contestant], effort: Effort) -> list[Result]:
    calls: dict[str, Callable[[], object]] = {}
    results: list[Result] = []
    for contestant in batch:
        call, result = prepare(row, contestant, work)
        results.append(result)
        if call is not None:
            calls[contestant.name] = call
    work.reset()
    timings = {}
    if calls:
        timings = measure(calls, effort.repeats, seconds=effort.seconds, budget=effort.budget)
    for result in results:
        if result["contestant"] in timings:
            result |= timings[result["contestant"]].record()
    return results


def described(results: list[Result], row: Row, work: Workspace) -> list[Result]:
    """With what a reader must know to compare them: they are keyed by list, dtype, isa, threads, row, contestant."""
    for result in results:
        result |= {
            "row": row.name,
            "title": row.title,
            "traffic": row.traffic,
            "bytes": row.bytes(work.dtype),
            "list": work.name,
            "dtype": work.dtype,
            "isa": library.instruction_set(),
            "threads": torch.get_num_threads(),
            "elements": work.elements,
            "tensors": len(work.grads),
        }
    return results
