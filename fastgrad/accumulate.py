"""The sum of the gradients of micro-batches, kept in few bits."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgrad.ops.quantize import Quantized, dequantize, quantize
from fastgrad.optim.payload import local_of


class Accumulator:
    """A sum that is rounded stochastically after every micro-batch:  s = Q(s + g), unbiased.

    format: fp32, bf16 or fp16 without scales; fp8, fp4 and integers with scales of blocks of 128.
    """

    def __init__(self, format: str, seed: int) -> None:
        self.format, self.seed = format, seed
        self.count = 0
        self._sum: Quantized | None = None

    def add(self, gradient: Tensor, place: int, step: int) -> Tensor:
        """Adds a gradient; gives the row of the rounding's table. place, step: what the noise belongs to."""
        self.count += 1
        total = self._with(gradient)
        scaled = self.format not in ("fp32", "bf16", "fp16")
        self._sum, table = quantize(
            total,
            self.format,
            scale="block" if scaled else "none",
            block=128,
            seed=self.seed,
            step=step,
            slot=self.count,
            ids=[place],
        )
        return table[0]

    def take(self, gradient: Tensor | None) -> Tensor:
        """The sum with a last gradient, float32; nothing is kept."""
        total = self._with(gradient)
        self.count, self._sum = 0, None
        return total

    def _with(self, gradient: Tensor | None) -> Tensor:
        if self._sum is None:
            assert gradient is not None, "an empty sum has nothing to give"
            return local_of(gradient).float()
        total = dequantize(self._sum, dtype=torch.float32)
        if gradient is None:
            return total
        return total.add_(local_of(gradient))
