"""What quantization does to a gradient: the quotients of docs/numerics.md section 8.

A list op returns one float64 table ``[T + 1, 16]`` (section 10). The functions here turn its columns into the
quantities of the paper. Every argument is a float64 tensor (or anything ``torch.as_tensor`` takes) of one
common shape ``[...]``; the result is float64 of that shape, on the same device. No function writes its
arguments.

With y the gradient before rounding and q after it, over the finite elements of one tensor:
``sum_yy = sum(y*y)``, ``sum_yq = sum(y*q)``, ``sum_qq = sum(q*q)``, in (gradient units) squared.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["COLUMNS", "column", "cosine", "noise_variance", "norm", "norm_ratio", "projection", "q", "std"]

# fmt: off
COLUMNS = (
    "n", "mean", "m2", "min", "max", "nonfinite", "a", "c",
    "sum_yy", "sum_yq", "sum_qq", "zeroed", "saturated", "scale", "absmax", "k",
)
# fmt: on


def column(
    table: Tensor,  # [..., 16]
    name: str,
) -> Tensor:  # [...], a view
    """``table[..., COLUMNS.index(name)]``; a name that is no column is a ValueError listing the columns.

    A ValueError, too, where the table is another one, such as that of :func:`fastgrad.gradient_moments`.
    """
    if name not in COLUMNS:
        raise ValueError(f"column: name must be one of {', '.join(COLUMNS)}, got {name!r}")
    shape = list(getattr(table, "shape", ()))
    if not shape or shape[-1] != len(COLUMNS):
        got = f"{table.dtype} {shape}" if isinstance(table, Tensor) else type(table).__name__
        raise ValueError(
            f"table: expected float64 [T+1, {len(COLUMNS)}], as of quantize, normalize_quantize_ or a step, got {got}"
        )
    return table[..., COLUMNS.index(name)]


def std(n: Tensor, m2: Tensor) -> Tensor:
    """Population standard deviation, gradient units:  sqrt(m2 / n). NaN where n = 0: nothing was measured."""
    n, m2 = _float64(n, m2)
    return torch.sqrt(m2 / n)


def norm(n: Tensor, mean: Tensor, m2: Tensor) -> Tensor:
    """Euclidean norm, gradient units:  sqrt(m2 + n * mean * mean)  (that of *clip*, section 7)."""
    n, mean, m2 = _float64(n, mean, m2)
    return torch.sqrt(m2 + n * mean * mean)


def projection(sum_yy: Tensor, sum_yq: Tensor) -> Tensor:
    """The shrinkage factor, no unit:  q_k = sum_yq / sum_yy, with 0/0 = 1.

    It is the part of y that is left in q: q = q_k * y + noise, the noise orthogonal to y. Unbiased rounding
    has E[q_k] = 1; a tensor of zeros (or one that was not quantized, whose sums are 0) loses nothing and
    has q_k = 1.
    """
    sum_yy, sum_yq = _float64(sum_yy, sum_yq)
    return torch.where(sum_yy == 0, _ones(sum_yy), sum_yq / sum_yy)


def q(
    table: Tensor,  # [..., 16], what a list op returns
) -> Tensor:  # [...]
    """:func:`projection` of every row: one q_k a tensor, and last that of all together."""
    return projection(column(table, "sum_yy"), column(table, "sum_yq"))


def norm_ratio(sum_yy: Tensor, sum_qq: Tensor) -> Tensor:
    """How much longer q is than y, no unit:  |q| / |y| = sqrt(sum_qq / sum_yy), with 0/0 = 1."""
    sum_yy, sum_qq = _float64(sum_yy, sum_qq)
    return torch.where((sum_yy == 0) & (sum_qq == 0), _ones(sum_yy), torch.sqrt(sum_qq / sum_yy))


def cosine(sum_yy: Tensor, sum_yq: Tensor, sum_qq: Tensor) -> Tensor:
    """Cosine of the angle between y and q:  sum_yq / sqrt(sum_yy * sum_qq).

    Both zero: 1 (equal vectors). Only one zero, as when every element of q was rounded to zero: 0 (no
    direction left).
    """
    sum_yy, sum_yq, sum_qq = _float64(sum_yy, sum_yq, sum_qq)
    # Two roots instead of the root of a product: the product of two tiny sums may be zero in float64.
    value = sum_yq / (torch.sqrt(sum_yy) * torch.sqrt(sum_qq))
    value = torch.where((sum_yy == 0) ^ (sum_qq == 0), torch.zeros_like(value), value)
    return torch.where((sum_yy == 0) & (sum_qq == 0), _ones(value), value)


def noise_variance(n: Tensor, sum_yy: Tensor, sum_yq: Tensor, sum_qq: Tensor) -> Tensor:
    """Mean square of the rounding noise, (gradient units) squared, per element:

        |q - q_k y|^2 / n  =  max(0, sum_qq - 2 q_k sum_yq + q_k^2 sum_yy) / n

    n is the count of finite elements. The maximum removes the negative rest that the float32 tile sums can
    leave where q = y. With n = 0 it is 0.
    """
    n, sum_yy, sum_yq, sum_qq = _float64(n, sum_yy, sum_yq, sum_qq)
    q_k = projection(sum_yy, sum_yq)
    residue = torch.clamp(sum_qq - 2 * q_k * sum_yq + q_k * q_k * sum_yy, min=0)
    return torch.where(n == 0, torch.zeros_like(residue), residue / n)


def _float64(*columns: Tensor) -> list[Tensor]:
    return [
        value.double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")
        for value in columns
    ]


def _ones(like: Tensor) -> Tensor:
    return torch.ones_like(like)
