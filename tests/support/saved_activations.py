"""Networks, and what a backward is given under compress_saved_tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgrad.activations import SavedMemory, compress_saved_tensors

# Largest error of one element against the largest of its block. The root mean square of the errors of normal numbers is
# at most half of it, their block's largest about 2.7 times their own.
STEPS = {"int8": 1 / 127, "fp8_e4m3": 1 / 14, "int4": 1 / 7}


def gradients(model: nn.Module, loss: Callable[[], Tensor], context=None) -> list[Tensor]:
    model.zero_grad()
    if context is None:
        value = loss()
    else:
        with context:
            value = loss()
    value.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten().double() for t in tensors])


def relative(got: list[Tensor], exact: list[Tensor]) -> float:
    return float((flat(got) - flat(exact)).norm() / flat(exact).norm())


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D]
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def transformer(width=64, heads=4, layers=2) -> tuple[nn.Module, Tensor]:
    return nn.Sequential(*(Block(width, heads) for _ in range(layers))), torch.randn(2, 128, width)


class Keep(torch.autograd.Function):
    """Saves x for the backward of something else, which hands what it gets back to a list."""

    @staticmethod
    def forward(ctx, x, source, got):
        ctx.save_for_backward(x)
        ctx.got = got
        return source.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.got.extend(ctx.saved_tensors)
        return None, gradient, None


def restored(*tensors: Tensor, format="int8", **options) -> tuple[list[Tensor], SavedMemory]:
    """What the backward is given for tensors that were saved one after the other, and the report."""
    got: list[Tensor] = []
    source = torch.zeros((), requires_grad=True)
    with compress_saved_tensors(format, **({"step": 0, "min_elements": 0} | options)) as saved:
        for x in tensors:
            source = Keep.apply(x, source, got)
    source.backward()
    return got[::-1], saved.measure()
