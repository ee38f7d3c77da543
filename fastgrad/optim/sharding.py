"""States of parameters that are sharded over ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgrad.optim.payload import is_sharded, local_of


def empty_state(parameter: Tensor, shape: tuple[int, ...], dtype: torch.dtype, whole: bool = False) -> Tensor:
    """An empty state of a parameter whose dim 0 is the parameter's own, sharded as that is; `whole`: on every rank."""
    device = local_of(parameter).device
    if not is_sharded(parameter):
        return torch.empty(shape, dtype=dtype, device=device)
    from torch.distributed.tensor import DTensor, Replicate, Shard

    placements = [Replicate() if whole else placement for placement in parameter.placements]
    local_shape = shape
    if any(isinstance(placement, Shard) for placement in placements):
        local_shape = (local_of(parameter).shape[0], *shape[1:])
    local = torch.empty(local_shape, dtype=dtype, device=device)
    stride = torch.empty(shape, device="meta").stride()
    mesh, size = parameter.device_mesh, torch.Size(shape)
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=size, stride=stride)
