"""The backends that are held against the PyTorch reference, and ways to run on exactly one of them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from unittest import mock

import emulated_cuda
import pytest
import torch
from contract_bits import assert_same_bits

from fastgrad import library
from fastgrad.ops import device_sweeps, engines
from fastgrad.ops.engines import Engine
from fastgrad.reference import sweep as reference_module

THREADS = (1, 2, 3)
# One case in so many is interpreted by Triton: each takes up to 20 s. tests/test_contract_more.py takes one in ten.
TRITON_CASES = int(os.environ.get("FASTGRAD_TRITON_CASES", "40"))
OPS = tuple(engines.implementations)

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


@dataclass(frozen=True)
class EmulatedCuda:
    """The CUDA kernels, run on the CPU. Grids and the order in which blocks and lanes run are odd on purpose.

    schedule 0 is the order of their numbers; others are permutations, drawn anew for every block of code.
    """

    schedule: int
    resident_blocks: int
    multiprocessors: int

    def __str__(self) -> str:
        order = "in order" if self.schedule == 0 else "permuted"
        return f"CUDA emulated, {self.resident_blocks} blocks {order}"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        module, _ = emulated_cuda.load()
        module.set_schedule(self.schedule and self.schedule + compared[str(self)])
        module.set_resident_blocks(self.resident_blocks)
        module.set_device(multiprocessors=self.multiprocessors)
        engine = Engine(partial(device_sweeps.cuda_sweep, module), partial(device_sweeps.cuda_dequantize, module))
        with _ops_on(engine), _without_reference():
            yield


@dataclass(frozen=True)
class InterpretedTriton:
    """The Triton kernels, run by Triton's interpreter on the CPU: one case in `every`, for it is slow."""

    every: int

    def __str__(self) -> str:
        return f"Triton interpreted, one case in {self.every}"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        import triton_package

        kernels = triton_package.load()
        with _ops_on(Engine(kernels.sweep, kernels.dequantize)), _without_reference():
            yield

    def takes(self, test: str) -> bool:
        return zlib.crc32(test.encode()) % self.every == 0


AnyBackend = Backend | EmulatedCuda | InterpretedTriton


def _cpu_backends() -> tuple[Backend, ...]:
    if library.native is None:
        return ()
    return tuple(Backend(name, n) for name in library.native.instruction_sets() for n in THREADS)


def _gpu_backends() -> tuple[AnyBackend, ...]:
    if why := emulated_cuda.missing():
        print(f"the CUDA kernels are not tested: {why}")
        return ()
    return EmulatedCuda(0, 3, 1), EmulatedCuda(1, 5, 7)


def _triton_backends() -> tuple[AnyBackend, ...]:
    if importlib.util.find_spec("triton") is None:
        print("the Triton kernels are not tested: triton is not installed")
        return ()
    if not library.has_recent_triton():
        print("the Triton kernels are not tested: this triton is older than 3.6")
        return ()
    return (InterpretedTriton(TRITON_CASES),)


CPU_BACKENDS = _cpu_backends()
BACKENDS = CPU_BACKENDS + _gpu_backends()
TRITON_BACKENDS = _triton_backends()
COMPARED_BACKENDS = BACKENDS + TRITON_BACKENDS  # with the reference, case by case
needs_native = pytest.mark.skipif(not CPU_BACKENDS, reason=f"native module {library.native_state}")


@contextlib.contextmanager
def _without_reference() -> Iterator[None]:
    genuine = reference_module.sweep

    def refuse(grads, **arguments):
        assert not grads, "the reference was called where a native kernel should run"
        return genuine(grads, **arguments)  # of an empty list, which the ops answer themselves

    with mock.patch.object(reference_module, "sweep", refuse):
        yield


@contextlib.contextmanager
def _without_native() -> Iterator[None]:
    def refuse(*arguments):
        raise AssertionError("the C++ for the CPU was called where another engine should run")

    with contextlib.ExitStack() as stack:
        for name in ("sweep", "dequantize") if library.native is not None else ():
            stack.enter_context(mock.patch.object(library.native, name, refuse))
        yield


@contextlib.contextmanager
def _ops_on(engine: Engine) -> Iterator[None]:
    """Runs a block with every op on an engine, through the same public functions, past the dispatcher and through it:
    it takes the place of the C++ at CPU, a call of which in the block is an error."""
    override = torch.library.Library("fastgrad", "IMPL", "CPU")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of the override, once
            for op, implementation in engines.implementations.items():
                _override(override, op, torch.no_grad()(partial(implementation, engine)))
        with mock.patch.object(engines, "CPU", engine), _without_native():
            yield
    finally:
        override._destroy()


def _override(library_: torch.library.Library, op: str, function: Callable) -> None:
    if "allow_override" in inspect.signature(library_.impl).parameters:
        library_.impl(op, function, allow_override=True)
    else:  # torch 2.6 remembers by names what Python has registered
        torch.library._impls.discard(f"fastgrad/{op}/CPU")
        library_.impl(op, function)


@contextlib.contextmanager
def reference_running() -> Iterator[None]:
    """Runs a block on the PyTorch reference; the native module is out of reach."""
    with _ops_on(engines.REFERENCE), mock.patch.object(library, "native", None):
        yield


def agree(
    run: Callable[[], list[torch.Tensor]],
    what: str,
    backends: tuple[AnyBackend, ...] = COMPARED_BACKENDS,
    emulated_every: int = 1,
) -> None:
    """`run`, which makes its own inputs and gives all results, has the reference's bits on every backend.

    emulated_every: where a test is long, the emulated GPU takes one in so many of its cases.
    """
    test = os.environ["PYTEST_CURRENT_TEST"]
    with reference_running():
        expected = run()
    for backend in backends:
        if isinstance(backend, InterpretedTriton) and not backend.takes(test):
            continue
        if isinstance(backend, EmulatedCuda) and zlib.crc32(test.encode()) % emulated_every:
            continue
        with backend.running():
            got = run()
        assert_same_bits(got, expected, f"{what} on {backend}")
        compared[str(backend)] += 1
