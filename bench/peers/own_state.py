"""Optimizers that hold parameters and states of their own, made like those of the workspace."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from bench.gate import Call
from bench.shapes import Workspace

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def step_of(work: Workspace, make: Make, dtype: torch.dtype = torch.float32) -> Call:
    """Steps of an optimizer on parameters of a type, whose gradients stay."""
    parameters = [nn.Parameter(p.to(dtype, copy=True)) for p in work.initial["params"]]
    for p, g in zip(parameters, work.initial["grads"], strict=True):
        p.grad = g.to(dtype)
    optimizer = make(parameters)

    def step() -> None:
        with torch.enable_grad():  # torchao compiles its step, which it must see with gradients on
            optimizer.step()

    return Call(step, view=lambda _: [p.detach() for p in parameters])
