"""All that a training keeps from step to step, for comparing two of them bit by bit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgrad.optim.payload import payload_of


def kept_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Weights (codes and scales of int8 ones), then the optimizer's states, parameter by parameter."""
    kept = []
    for p in model.parameters():
        payload = payload_of(p.detach())
        kept += [payload.memory, *([] if payload.scales is None else [payload.scales])]
        kept += [t for t in optimizer.state.get(p, {}).values() if isinstance(t, Tensor)]
    return [t.clone() for t in kept]
