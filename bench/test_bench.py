"""The rows under pytest-benchmark: ``pytest bench --benchmark-only``, one table for each row.

Quick to use while working on a kernel. ``python -m bench.run`` interleaves them and watches the machine.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from importlib import metadata

import pytest
import torch

from bench import gate
from bench.rows import Contestant, Row
from bench.shapes import Workspace, workspace
from fastgrad import library

pytest.importorskip("pytest_benchmark")


@functools.lru_cache(maxsize=1)
def shared(name: str, dtype: str) -> Workspace:
    return workspace(name, dtype=dtype)


@pytest.fixture
def set_up(setting: tuple[str, str, int, str]) -> Iterator[Workspace]:
    """The workspace, under a number of threads and an instruction set of fastgrad's (torch keeps its own)."""
    name, dtype, threads, isa = setting
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    context = contextlib.nullcontext() if library.native is None else library.use_instruction_set(isa)
    with context, torch.no_grad():
        yield shared(name, dtype)
    torch.set_num_threads(before)


def test_bench(benchmark, set_up: Workspace, setting: tuple, row: Row, contestant: Contestant) -> None:
    if contestant.package:
        try:
            metadata.version(contestant.package)
        except metadata.PackageNotFoundError as error:
            pytest.skip(f"not installed: {error}")
    work = set_up
    benchmark.group = f"{row.title}, {row.bytes(work.dtype):.4g} bytes per element: {' '.join(map(str, setting))}"
    benchmark.name = contestant.name
    try:
        call = contestant.build(work)
        gate.run(work, call, contestant.check or row.check)
    except Exception as error:
        if contestant.package is None:
            raise
        pytest.skip(f"does not run here: {error}")
    work.reset()
    benchmark(call)
