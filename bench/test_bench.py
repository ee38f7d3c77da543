"""The rows under pytest-benchmark: ``pytest bench --benchmark-only``, one table for each row.

Quick to use while working on a kernel. ``python -m bench.run`` interleaves them and watches the machine.
"""

from __future__ import annotations

import functools

import pytest
import torch

from bench import gate
from bench.contestants import Contestant, Row
from bench.shapes import Workspace, workspace

pytest.importorskip("pytest_benchmark")


@functools.lru_cache(maxsize=1)
def shared(name: str) -> Workspace:
    return workspace(name)


@torch.no_grad()
def test_bench(benchmark, list_name: str, row: Row, contestant: Contestant) -> None:
    work = shared(list_name)
    benchmark.group = (
        f"{row.title}, {row.bytes} bytes per element: {list_name}, {torch.get_num_threads()} threads"
    )
    benchmark.name = contestant.name
    call = contestant.build(work)
    gate.run(work, call, contestant.check or row.check)
    work.reset()
    benchmark(call)
