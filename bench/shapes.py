"""The tensor lists that are timed, and the data in them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.cached import LARGE, SMALL

Shape = tuple[int, ...]


def resnet56() -> list[Shape]:
    """ResNet-56 for CIFAR with shortcuts without parameters (option A): 167 tensors, 853,018 elements."""
    shapes: list[Shape] = [(16, 3, 3, 3), (16,), (16,)]
    width = 16
    for stage in (16, 32, 64):
        for _ in range(18):
            shapes += [(stage, width, 3, 3), (stage,), (stage,)]
            width = stage
    return [*shapes, (10, 64), (10,)]


def gpt() -> list[Shape]:
    """A transformer like GPT-2 small: 147 tensors, 109,632,000 elements.

    12 layers of width 768 with biases, a tied embedding of 32,000 tokens, no learned positions.
    """
    d = 768
    block: list[Shape] = [
        (d,), (d,), (3 * d, d), (3 * d,), (d, d), (d,), (d,), (d,), (4 * d, d), (4 * d,), (d, 4 * d), (d,),
    ]  # fmt: skip
    return [(32000, d), *block * 12, (d,), (d,)]


def one() -> list[Shape]:
    """One tensor of 64 M elements (67,108,864)."""
    return [(8192, 8192)]


def tiny() -> list[Shape]:
    """For tests of the benchmark itself: odd sizes."""
    return [(16, 3, 3, 3), (16,), (127, 63), (20001,), (300, 64)]


def cached(rows: int) -> list[Shape]:
    """One matrix of the width of :func:`gpt` that lies in the second cache, with what is written beside it."""
    return [(rows, 768)]


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of gradients; parameters and momenta are float32

LISTS: dict[str, Callable[[], list[Shape]]] = {
    "resnet56": resnet56, "gpt": gpt, "one": one, "tiny": tiny,
    SMALL: functools.partial(cached, 7), LARGE: functools.partial(cached, 53),
}  # fmt: skip


@dataclass
class Workspace:
    """Gradients, parameters and momentum buffers that all contestants of a row share.

    One set of tensors for all: no contestant has better pages than another. ``reset`` restores the first
    values, which ``initial`` keeps.
    """

    name: str
    grads: list[Tensor]
    params: list[Tensor]
    momenta: list[Tensor]
    initial: dict[str, list[Tensor]]
    dtype: str = "fp32"

    @functools.cached_property
    def moments(self) -> list[tuple[float, float]]:
        """Std and mean of every gradient, computed in float64."""
        pairs = (torch.std_mean(g.double(), correction=0) for g in self.initial["grads"])
        return [(float(std), float(mean)) for std, mean in pairs]

    @functools.cached_property
    def sigma(self) -> float:
        """Std of all gradients together."""
        sizes = [g.numel() for g in self.grads]
        mean = sum(n * m for n, (_, m) in zip(sizes, self.moments, strict=True)) / sum(sizes)
        square = sum(n * (s * s + (m - mean) ** 2) for n, (s, m) in zip(sizes, self.moments, strict=True))
        return math.sqrt(square / sum(sizes))

    @property
    def device(self) -> torch.device:
        return self.grads[0].device

    @property
    def elements(self) -> int:
        return sum(t.numel() for t in self.grads)

    def reset(self) -> None:
        for name, values in self.initial.items():
            torch._foreach_copy_(getattr(self, name), values)


def workspace(name: str, device: str = "cpu", dtype: str = "fp32") -> Workspace:
    """Normal numbers, the same everywhere; gradients with a std of 2^-12 to 2^-8 and a mean of a tenth of it.

    dtype: of the gradients.
    """
    shapes = LISTS[name]()
    generator = torch.Generator().manual_seed(20250)
    initial: dict[str, list[Tensor]] = {"grads": [], "params": [], "momenta": []}
    for i, shape in enumerate(shapes):
        scale = 2.0 ** (i % 5 - 12)
        initial["grads"].append(torch.randn(shape, generator=generator).add_(0.1).mul_(scale).to(DTYPES[dtype]))
        initial["params"].append(torch.randn(shape, generator=generator).mul_(0.05))
        initial["momenta"].append(torch.randn(shape, generator=generator).mul_(scale))
    initial = {name: [t.to(device) for t in tensors] for name, tensors in initial.items()}
    copies = {name: [t.clone() for t in tensors] for name, tensors in initial.items()}
    return Workspace(name, **copies, initial=initial, dtype=dtype)
