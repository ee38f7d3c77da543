"""What ``fastgrad.Monitor`` reports, as functions of the table (docs/numerics.md sections 8 and 10)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgrad import shrinkage
from fastgrad.shrinkage import column

_FORMULAS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "std": (shrinkage.std, ("n", "m2")),
    "norm": (shrinkage.norm, ("n", "mean", "m2")),
    "q": (shrinkage.projection, ("sum_yy", "sum_yq")),
    "norm_ratio": (shrinkage.norm_ratio, ("sum_yy", "sum_qq")),
    "cosine": (shrinkage.cosine, ("sum_yy", "sum_yq", "sum_qq")),
    "noise_variance": (shrinkage.noise_variance, ("n", "sum_yy", "sum_yq", "sum_qq")),
}
# fmt: off
QUANTITIES = (
    "n", "mean", "std", "norm", "min", "max", "nonfinite", "a", "c", "q", "norm_ratio", "cosine",
    "noise_variance", "zeroed", "saturated", "scale", "absmax", "k",
)
# fmt: on


def check_quantity(quantity: str, verb: str) -> None:
    """A quantity that does not exist is a ValueError that lists those that do."""
    if quantity not in QUANTITIES:
        raise ValueError(f"Monitor.{verb}: quantity must be one of {', '.join(QUANTITIES)}, got {quantity!r}")


def measure(
    tables: Tensor,  # [..., 16]
    quantity: str,  # one of QUANTITIES
) -> Tensor:  # [...] float64
    """One quantity of every row: a column, or a formula of ``fastgrad.shrinkage`` over columns."""
    if quantity in _FORMULAS:
        formula, names = _FORMULAS[quantity]
        return formula(*(column(tables, name) for name in names))
    return column(tables, quantity)


def measure_with_list(
    tables: Tensor,  # [S, 1 + L, 16], row 0 = the list
    quantity: str,  # one of QUANTITIES
) -> Tensor:  # [S, 1 + L] float64
    """``measure``, but the noise variance of the list is the mean over the elements of its quantized layers.

    The formula on the list's own row would divide sums of all layers by an n that may count only the
    normalized ones, and would count the differences between the layers' q_k as noise.
    """
    values = measure(tables, quantity).clone()
    if quantity == "noise_variance":
        layers = tables[:, 1:]
        n = torch.where(is_quantized(layers), column(layers, "n"), 0.0)
        total = (torch.where(n > 0, values[:, 1:], 0.0) * n).sum(1)
        values[:, 0] = total / n.sum(1).clamp(min=1)
    return values


def is_quantized(
    tables: Tensor,  # [..., 16]
) -> Tensor:  # [...] bool
    """sum_yy > 0: the row was quantized, and not all zero (zeros have no q_k to speak of)."""
    return column(tables, "sum_yy") > 0


def summary(
    table: Tensor,  # [1 + L, 16], row 0 = the list; NaN rows for layers without a gradient
) -> dict[str, float | int]:
    """The numbers of ``Monitor.latest`` without the step."""
    layers = table[1:]
    q = measure(layers, "q")[is_quantized(layers)]
    result: dict[str, float | int] = {
        "global_mean": measure(table[0], "mean").item(),
        "global_std": measure(table[0], "std").item(),
        "global_norm": measure(table[0], "norm").item(),
        "alpha": measure(table[0], "a").item(),
        "q_mean": q.mean().item() if len(q) else 1.0,
        "q_min": q.min().item() if len(q) else 1.0,
        "noise_variance": measure_with_list(table[None], "noise_variance")[0, 0].item(),
    }
    for name in ("saturated", "zeroed", "nonfinite"):
        # Counts of the list row are of all tensors, except that section 10 merges moments (and with them
        # nonfinite) over the normalized ones only; the sum over the layers is of all in every case.
        result[name] = int(column(layers, name).nansum())
    return result
