"""Parameters of every kind of state, their gradients, and trainings of them, for the tests of optim.AdamW."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

# A convolution (blocks of 16), a matrix (blocks of 128), one of odd rows, a small one, a bias.
SHAPES = ((32, 16, 3, 3), (40, 128), (70, 67), (8, 16), (40,))
NAMES = ("conv", "matrix", "odd", "small", "bias")
STATE_FORMATS = ("fp32", "bf16", "fp16", "int8", "fp8_e4m3", "fp8_e5m2", "int4", "fp4_e2m1")


def parameters(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [Parameter((0.1 * torch.randn(shape, generator=generator)).to(dtype)) for shape in SHAPES]


def set_gradients(params: list[Parameter], step: int, scale: float = 1e-2) -> None:
    """Of another magnitude for every parameter."""
    generator = torch.Generator().manual_seed(1000 + step)
    for i, p in enumerate(params):
        g = torch.randn(p.shape, generator=generator) * (scale * 10.0**-i)
        p.grad = torch.empty_like(p).copy_(g)


def train(optimizer: torch.optim.Optimizer, params: list[Parameter], steps: range) -> list[Tensor]:
    """Weights and states after some steps."""
    for step in steps:
        set_gradients(params, step)
        optimizer.step()
    return everything(optimizer, params)


def everything(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> list[Tensor]:
    """Copies of weights and of all states there are."""
    states = [optimizer.state[p] for p in params if p in optimizer.state]
    return [t.detach().clone() for t in (*params, *(s[name] for s in states for name in sorted(s)))]
