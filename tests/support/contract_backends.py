"""The backends that are held against the PyTorch reference, and ways to run on exactly one of them."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from contract_bits import assert_same_bits

from fastgrad import library
from fastgrad.reference import sweep as reference_module

THREADS = (1, 2, 3)
OPS = tuple(op for op in library.references if op != "next_step")  # which has no native kernel

# How many comparisons with the reference every backend has come through; printed at the end of the run.
compared: Counter[str] = Counter()


@dataclass(frozen=True)
class Backend:
    """The C++ of one instruction set on so many threads."""

    instruction_set: str
    threads: int

    def __str__(self) -> str:
        return f"C++ {self.instruction_set}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Runs a block on this backend; a call of the reference in it is an error."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with library.use_instruction_set(self.instruction_set), _without_reference():
                yield
        finally:
            torch.set_num_threads(before)

    def count(self) -> None:
        compared[str(self)] += 1


def _available() -> tuple[Backend, ...]:
    if library.native is None:
        return ()
    return tuple(Backend(name, n) for name in library.native.instruction_sets() for n in THREADS)


BACKENDS = _available()
needs_native = pytest.mark.skipif(not BACKENDS, reason=f"native module {library.native_state}")


@contextlib.contextmanager
def _without_reference() -> Iterator[None]:
    genuine = reference_module.sweep

    def refuse(grads, **arguments):
        assert not grads, "the reference was called where a native kernel should run"
        return genuine(grads, **arguments)  # of an empty list, which the ops answer themselves

    with mock.patch.object(reference_module, "sweep", refuse):
        yield


@contextlib.contextmanager
def reference_running() -> Iterator[None]:
    """Runs a block on the PyTorch reference, through the same public functions and the same dispatcher: the
    reference takes the native kernels' place at CPU, and the native module is out of reach."""
    override = torch.library.Library("fastgrad", "IMPL", "CPU")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of the override, once
            for op in OPS:
                override.impl(op, library.references[op], allow_override=True)
        with mock.patch.object(library, "native", None):
            yield
    finally:
        override._destroy()


def agree(run: Callable[[], list[torch.Tensor]], what: str, backends: tuple[Backend, ...] = BACKENDS) -> None:
    """`run`, which makes its own inputs and gives all results, has the reference's bits on every backend."""
    with reference_running():
        expected = run()
    for backend in backends:
        with backend.running():
            got = run()
        assert_same_bits(got, expected, f"{what} on {backend}")
        backend.count()
