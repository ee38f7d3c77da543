"""Loads the native module, declares ops to the torch dispatcher, and says what runs where.

The dispatcher is the only dispatch: an op's schema and PyTorch reference are registered once
(``CompositeExplicitAutograd``, so they serve every device), and the native kernels, where the module
was built, at ``CPU`` above them. (``ops.engines.launch`` foresees its choice for lists of plain tensors.)
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

NUMERICS_VERSION = 1
"""Version of the numeric contract (docs/numerics.md). Stored in every checkpoint."""


def _load_native() -> tuple[Any, str]:  # the module, whose names only the compiler knows, or None
    if os.environ.get("FASTGRAD_NATIVE") == "0":
        return None, "switched off by FASTGRAD_NATIVE=0"
    try:
        import fastgrad._native as _native
    except ImportError as error:
        return None, f"not built or not loadable ({error}); `pip install -e .` builds it"
    if _native.numerics_version != NUMERICS_VERSION:
        built = _native.numerics_version
        return None, f"built for numerics version {built}, this package is {NUMERICS_VERSION}: build again"
    return _native, "loaded"


native, native_state = _load_native()
if native is None:
    warnings.warn(f"fastgrad: native module {native_state}. The PyTorch references are used.", stacklevel=2)


def _make_reader() -> Any:
    exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)  # torch 2.10 and later
    if exchange is None or not hasattr(native, "TensorReader"):
        return None
    try:
        return native.TensorReader(exchange, (torch.Tensor, torch.nn.Parameter))
    except (TypeError, ValueError):  # of a later version than the module knows
        return None


_reader = _make_reader()


class ListRead(NamedTuple):
    """What csrc/tensor_list.h reads of a list: 64-bit integers, one for every tensor, and what is true of all."""

    addresses: bytes
    sizes: bytes
    types: bytes
    contiguous: bool
    floats: bool  # float32, bfloat16 or float16


def read_list(tensors: Sequence[torch.Tensor]) -> ListRead | None:
    """A list of plain tensors on the CPU, in one native call; None where it is not that, or cannot be read so."""
    read = None if _reader is None else _reader.read(list(tensors))
    return None if read is None else ListRead(*read)


def read_rows(tensors: Sequence[torch.Tensor]) -> list[int] | None:
    """Sizes of dim 0, 0 for vectors and scalars; None as :func:`read_list`."""
    return None if _reader is None else _reader.rows(list(tensors))


def are_apart(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether :func:`read_list` reads them, they are contiguous, and no two have a byte in common."""
    return _reader is not None and _reader.are_apart(list(tensors))


def _choose_instruction_set() -> str:
    if native is None:
        return "none"
    available = native.instruction_sets()
    wanted = os.environ.get("FASTGRAD_CPU")
    if wanted is None:
        return available[0]
    if wanted not in available:
        raise ValueError(f"FASTGRAD_CPU: '{wanted}' cannot run here; this machine and build have {available}")
    return wanted


_instruction_set = _choose_instruction_set()


def instruction_set() -> str:
    """Name of the instruction set whose kernels run: avx512, avx2, baseline, or none."""
    return _instruction_set


@contextlib.contextmanager
def use_instruction_set(name: str) -> Iterator[None]:
    """Runs a block on the kernels of another instruction set (the results are the same bits)."""
    global _instruction_set
    available = native.instruction_sets() if native is not None else []
    if name not in available:
        raise ValueError(f"name: '{name}' cannot run here; this machine and build have {available}")
    before, _instruction_set = _instruction_set, name
    try:
        yield
    finally:
        _instruction_set = before


_library = torch.library.Library("fastgrad", "DEF")
# Compiled code gives the ops inputs with the strides of eager code; torch 2.6 knows only the order of them.
_STRIDES = getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order)
_declared: dict[str, tuple[bool, bool]] = {}  # op -> has a kernel for the CPU, for CUDA devices


def define(
    schema: str, *, reference: Callable, fake: Callable, cpu: Callable | None = None, cuda: Callable | None = None
) -> None:
    """Declares an op.

    schema: the torch schema, without namespace.
    reference: plain PyTorch; documentation, oracle and fallback of every device.
    fake: outputs without data, for tracing.
    cpu: calls the native module; registered only where that is loaded.
    cuda: finds out, when it is first called on a device, what can compute there.

    Writing ops must bump the versions of what they write themselves: a bare Library kernel does not,
    and a backward through the old value would then be silently wrong.
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag, _STRIDES))
    # None of these ops is differentiable: what the reference does inside must not be recorded.
    reference = torch.no_grad()(reference)
    _library.impl(name, reference, "CompositeExplicitAutograd")
    if cpu is not None and native is not None:
        _library.impl(name, cpu, "CPU")
    if cuda is not None:
        _library.impl(name, cuda, "CUDA")
    # The differentiable functions are built of these ops (ops/backward.py).
    _library.impl(name, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"fastgrad::{name}", fake, lib=_library)
    _declared[name] = (cpu is not None and native is not None, cuda is not None)


@functools.cache
def _probe_cuda(device: int) -> tuple[str, str]:
    """What computes on a CUDA device, and why: the native module, else Triton, else the PyTorch references."""
    if native is None:
        why = f"native module {native_state}"
    elif not hasattr(native, "cuda_unavailable"):
        why = "the native module was built without CUDA"
    else:
        why = native.cuda_unavailable(device)
        if not why:
            return "CUDA", "compiled into the native module"
    if not torch.cuda.is_available():
        # Nothing can be on such a device; said as it would be.
        return "PyTorch reference", f"{why}; torch finds no CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "PyTorch reference", f"{why}; triton is not installed"
    if not has_recent_triton():
        version = importlib.import_module("triton").__version__
        return "PyTorch reference", f"{why}; triton {version} is too old (3.6 is the first)"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        return "PyTorch reference", f"{why}; compute capability {capability[0]}.{capability[1]} is too old for Triton"
    return "Triton", why


def has_recent_triton() -> bool:
    """Whether the installed Triton has what the kernels are written with: 3.6, that of torch 2.10, is the first."""
    triton, language = importlib.import_module("triton"), importlib.import_module("triton.language")
    return hasattr(triton, "constexpr_function") and hasattr(language, "mul")


OLDEST_CAPABILITY = (8, 0)
"""What Triton's kernels need."""


def cuda_kernel(device: int | None) -> str:
    """CUDA, Triton or PyTorch reference: what computes on a CUDA device. Found out once."""
    return _probe_cuda(device or 0)[0]


@dataclass(frozen=True)
class OpInfo:
    """Which kernel an op runs on a device, and why."""

    op: str
    device: str
    kernel: str
    reason: str


def op_infos() -> list[OpInfo]:
    """One row per op and device."""
    rows = []
    for op, (has_cpu, has_cuda) in _declared.items():
        if has_cpu:
            rows.append(OpInfo(op, "cpu", f"C++ {instruction_set()}", "best instruction set this machine runs"))
        else:
            rows.append(OpInfo(op, "cpu", "PyTorch reference", f"native module {native_state}"))
        kernel, reason = _probe_cuda(0) if has_cuda else ("PyTorch reference", "has no kernel of its own")
        rows.append(OpInfo(op, "cuda", kernel, reason))
    return rows


def info() -> dict[str, str]:
    """Versions, instruction set and threads, as `fastgrad info` prints them."""
    from fastgrad import __version__

    return {
        "fastgrad": __version__,
        "numerics version": str(NUMERICS_VERSION),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "native module": native_state,
        "compiler": native.compiler if native is not None else "-",
        "instruction set": instruction_set(),
        "instruction sets": ", ".join(native.instruction_sets()) if native is not None else "-",
        "threads": str(torch.get_num_threads()),
        "threads run by": native.parallel_engine() if native is not None else "-",
        "CUDA kernels": f"{_probe_cuda(0)[0]}: {_probe_cuda(0)[1]}",
        "CUDA device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
