"""The factored second moment. Section 13 of docs/numerics.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .formats import FLT_MAX, f32, square_root
from .moments import add, tree


@dataclass
class Factored:
    """Exact sums of the squares of a matrix, float64."""

    rows: Tensor  # [R], of a shard only its own
    columns: Tensor  # [C]
    whole_rows: int  # R of the whole tensor


def sums_of_squares(y: Tensor, rows: int, whole_rows: int, bound: float) -> Factored:
    """Sums of the rows and columns of y*y, each square rounded to a gap that makes every sum exact.

    y: flat float32 [rows * C]; bound: the largest |y| that is counted as it is, rounded to float32.
    """
    bound = float(f32(bound))
    matrix = y.view(rows, -1)
    longest = max(whole_rows, matrix.shape[1])
    if bound == 0.0 or y.numel() == 0:
        zero = torch.zeros_like(matrix, dtype=torch.float64)
        return Factored(zero.sum(1), zero.sum(0), whole_rows)
    exponent = max(math.frexp(bound)[1] - 1, -126)
    bits = (longest - 1).bit_length()
    magic = 1.5 * 2.0 ** (2 * exponent + 2 + bits)
    x = torch.where(torch.isfinite(matrix), matrix.double().abs(), 0.0).clamp(max=bound)
    t = (x * x + magic) - magic
    return Factored(t.sum(1), t.sum(0), whole_rows)


def factored_root(
    row_means: Tensor, column_means: Tensor, sums: Factored, beta2: float, age: int, first: bool
) -> Tensor:
    """Moves the means on, in place, and gives sqrt(v / (1 - beta2^t)) of every element, flat float32."""
    from .adamw import power

    columns = sums.columns.numel()
    for means, totals, count in ((row_means, sums.rows, columns), (column_means, sums.columns, sums.whole_rows)):
        before = torch.zeros_like(totals) if first else means.double()
        means.copy_((before + (1.0 - beta2) * (totals / count - before)).clamp(max=FLT_MAX).float())
    nothing = torch.zeros(1, dtype=torch.float64, device="cpu")
    total = float(tree(column_means.double()[:, None], add, nothing)[0]) / columns
    a = (square_root(row_means.double()) / math.sqrt(1.0 - power(beta2, age))).float()
    if total == 0.0:
        b = torch.ones_like(column_means)
    else:
        b = square_root(column_means.double() / total).float()
    return (a[:, None] * b[None, :]).view(-1)
