"""What every test gets: seeds of its own, poisoned work space, the thread count it started with."""

from __future__ import annotations

import importlib
import os
import random
import zlib
from types import ModuleType
from typing import Any

import pytest

# Three threads on two busy cores: a waiting thread must sleep, not spin. Read when torch loads its OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Triton kernels are interpreted, on the CPU. Read when triton is imported and when a kernel is declared.
os.environ.setdefault("TRITON_INTERPRET", "1")

import contract_backends
import torch

_OP_MODULES = (
    "checks",
    "device_sweeps",
    "gradient_moments",
    "layout",
    "normalize_quantize",
    "quantize",
    "sgd_step",
    "sweeps",
)
POISON_BYTE = 0xAB


def _poison(t: torch.Tensor) -> torch.Tensor:
    """NaN in every float, 0xAB in every integer."""
    if isinstance(t, torch._subclasses.FakeTensor) or t.is_meta:
        return t
    if t.is_floating_point():
        return t.fill_(torch.nan)
    if t.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        return t.fill_(POISON_BYTE - (256 if t.dtype == torch.int8 else 0))
    return t


class PoisonedTorch(ModuleType):
    """``torch`` as an op page sees it: unwritten memory holds NaN or 0xAB, not the last call's results."""

    def __init__(self) -> None:
        super().__init__("torch")

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)

    @staticmethod
    def empty(*arguments, **options) -> torch.Tensor:
        return _poison(torch.empty(*arguments, **options))

    @staticmethod
    def empty_like(*arguments, **options) -> torch.Tensor:
        return _poison(torch.empty_like(*arguments, **options))

    @staticmethod
    def empty_strided(*arguments, **options) -> torch.Tensor:
        return _poison(torch.empty_strided(*arguments, **options))


@pytest.fixture(autouse=True)
def poisoned_memory():
    """An output that a kernel does not write cannot pass by luck.

    Dynamo has to read the op pages as they are: the poison is gone from a test's first torch.compile on.
    """
    poisoned, new_empty, compile_ = PoisonedTorch(), torch.Tensor.new_empty, torch.compile
    with pytest.MonkeyPatch.context() as patch:

        def compile_unpoisoned(*arguments, **options):
            patch.undo()
            return compile_(*arguments, **options)

        for name in _OP_MODULES:
            patch.setattr(importlib.import_module(f"fastgrad.ops.{name}"), "torch", poisoned)
        patch.setattr(torch.Tensor, "new_empty", lambda self, *a, **k: _poison(new_empty(self, *a, **k)))
        patch.setattr(torch, "compile", compile_unpoisoned)
        yield


@pytest.fixture(autouse=True)
def seeds_and_threads(request: pytest.FixtureRequest):
    """Seeds from the test's own name, so that a test gives the same result alone and among others."""
    seed = zlib.crc32(request.node.nodeid.encode())
    random.seed(seed)
    torch.manual_seed(seed)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=contract_backends.BACKENDS or [None], ids=str)
def backend(request: pytest.FixtureRequest):
    """Every instruction set with 1, 2 and 3 threads, and the GPU kernels; the block runs on it."""
    if request.param is None:
        pytest.skip("native module not built")
    with request.param.running():
        yield request.param


# Several processes may share a run (pytest -n): what each has compared is added up in the one that reports.
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["compared"] = dict(contract_backends.compared)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    contract_backends.compared.update(getattr(node, "workeroutput", {}).get("compared", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not contract_backends.compared:
        return
    terminalreporter.write_line("contract cases equal to the reference, bit for bit:")
    for backend in contract_backends.COMPARED_BACKENDS:
        terminalreporter.write_line(f"  {backend}: {contract_backends.compared[str(backend)]:,}")
