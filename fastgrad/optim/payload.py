"""The memory of a parameter: what the kernels read and write of a plain tensor, of int8 weights, of a shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from fastgrad.weights import Int8Weight

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Payload:
    """What the kernels read and write of a parameter."""

    memory: Tensor  # numbers, or int8 codes
    scales: Tensor | None = None  # of int8 codes

    @property
    def rows(self) -> int:
        return self.memory.shape[0] if self.memory.dim() > 1 else 1

    @property
    def row_length(self) -> int:
        return self.memory.numel() // self.rows if self.rows else 0


def payload_of(parameter: Tensor) -> Payload:
    """The memory of a parameter on this rank."""
    local = local_of(parameter)
    if isinstance(local, Int8Weight):
        return Payload(local.codes, local.scales)
    return Payload(local)


def is_sharded(t: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor. (Told without importing torch.distributed.)"""
    return hasattr(t, "to_local")


def local_of(t: Tensor) -> Tensor:
    """The part of a DTensor that this rank has; a plain tensor itself."""
    return t.to_local() if is_sharded(t) else t


def none_like(t: Tensor) -> Tensor:
    """What stands for a state that a parameter does not have."""
    return torch.empty(0, dtype=torch.float32, device=t.device)
