"""What computes: the reference, the C++ of the CPU, the kernels of a GPU. An op is written once, over any of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastgrad import library
from fastgrad.ops import checks, device_sweeps, sweeps


@dataclass(frozen=True)
class Engine:
    """The two functions that every op comes down to."""

    sweep: Callable
    dequantize: Callable


REFERENCE = Engine(sweeps.reference_sweep, sweeps.reference_dequantize)
CPU = Engine(sweeps.native_sweep, sweeps.native_dequantize)
CUDA = Engine(device_sweeps.sweep, device_sweeps.dequantize)

implementations: dict[str, Callable] = {}  # op -> function of (engine, *arguments of the op)


def declare(schema: str, implementation: Callable, fake: Callable) -> None:
    """Declares an op to torch with all engines; see :func:`fastgrad.library.define`."""
    library.define(
        schema,
        reference=partial(implementation, REFERENCE),
        cpu=partial(implementation, CPU),
        cuda=partial(implementation, CUDA),
        fake=fake,
    )
    implementations[schema.partition("(")[0]] = implementation


def launch(op: str, tensors: Sequence[Tensor], *arguments: Any) -> Any:
    """An op whose tensors are like ``tensors``. Where nothing listens to the dispatcher and it has nothing to do, that
    of the CPU is called directly: to make lists of small tensors into the dispatcher's and back takes a third of their
    step."""
    listened = (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch.autograd._profiler_enabled()
        or torch._C._functorch.maybe_current_level() is not None
    )
    ours = library.native is not None and tensors[0].is_cpu
    if ours and not listened and checks.are_plain(tensors) and not checks.are_negated(tensors):
        return implementations[op](CPU, *arguments)
    return getattr(torch.ops.fastgrad, op)(*arguments)
