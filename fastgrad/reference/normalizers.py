"""The coefficients of the affine maps y = (x - c) * a. Section 7 of docs/numerics.md.

Everything here is float64 on the host (python floats: one IEEE operation each); a and c are then rounded.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

METHODS = ("none", "centre", "znorm", "clip", "autoscale", "centralize")
ALPHAS = ("ratio_first", "ratio_max", "sigma", "inverse_log", "log", "one_plus", "one", "given")
LARGEST_FACTOR = 2.0**126


def check_names(method: str, alpha_rule: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if alpha_rule not in ALPHAS:
        raise ValueError(f"alpha must be one of {', '.join(ALPHAS)}, got {alpha_rule!r}")


def log64(x: float) -> float:
    """Natural logarithm of a positive normal float64, the same bits everywhere (section 7).

    `x = f * 2^k` with `sqrt(1/2) <= f < sqrt(2)`; `log x = k*log 2 + 2*artanh(u)`, `u = (f - 1)/(f + 1)`.
    """
    f, k = math.frexp(x)
    if f < 0.7071067811865476:
        f, k = f * 2.0, k - 1
    u = (f - 1.0) / (f + 1.0)
    square = u * u
    p = 0.0
    for j in range(21, 0, -2):
        p = p * square + 1.0 / j
    return k * 0.6931471805599453 + 2.0 * u * p


def alpha(rule: str, sigma: float, state: tuple[float, float]) -> tuple[float, tuple[float, float]]:
    """alpha(sigma), and the new state (first sigma > 0, largest sigma), updated before use (section 7)."""
    check_names("none", rule)
    first, largest = state
    if rule == "given":  # the factor itself, made by the caller
        return min(max(first, 0.0), LARGEST_FACTOR), state
    if first == 0.0:
        first = sigma  # still 0 if sigma is
    largest = max(largest, sigma)
    state = (first, largest)
    if sigma == 0.0:
        return 1.0, state
    if rule == "ratio_first":
        value = sigma / first
    elif rule == "ratio_max":
        value = sigma / largest
    elif rule == "sigma":
        value = sigma
    elif rule == "one_plus":
        value = 1.0 + sigma
    elif rule == "one":
        value = 1.0
    else:
        minus_log = -log64(min(max(sigma, 2.0**-126), 1.0 - 2.0**-10))
        value = minus_log if rule == "log" else 1.0 / minus_log
    return min(max(value, 0.0), LARGEST_FACTOR), state


@dataclass
class Coefficients:
    """a and c of every tensor (float32 [T]), the factor common to the list, and the new alpha state."""

    a: Tensor
    c: Tensor
    whole: float
    state: tuple[float, float]


def coefficients(
    method: str,
    own: Tensor,
    whole: Tensor,
    normalized: list[bool],
    *,
    eps: float,
    max_norm: float,
    alpha_rule: str,
    state: tuple[float, float],
) -> Coefficients:
    """a and c from the moments `own` [T, 6] of the tensors and `whole` [6] of the list (section 7).

    A tensor that is not normalized, or without a finite element, has a = 1 and c = 0. So has centralize here:
    its c are the means of the rows.
    """
    n_all, mean_all, m2_all = whole[:3].tolist()
    common = 1.0
    if method == "clip" and n_all > 0:
        norm = math.sqrt(m2_all + n_all * mean_all * mean_all)
        common = min(1.0, max_norm / (norm + 1e-6))
    elif method == "autoscale" and n_all > 0:
        common, state = alpha(alpha_rule, math.sqrt(m2_all / n_all), state)
    a, c = [], []
    for (n, mean, m2, *_), wanted in zip(own.tolist(), normalized, strict=True):
        a_i, c_i = 1.0, 0.0
        if wanted and n > 0:
            if method in ("centre", "znorm", "autoscale"):
                c_i = mean
            if method in ("clip", "autoscale"):
                a_i = common
            elif method == "znorm":
                spread = math.sqrt(m2 / n) + eps
                a_i = min(1.0 / spread, LARGEST_FACTOR) if spread > 0 else LARGEST_FACTOR
        a.append(a_i)
        c.append(c_i)
    a32, c32 = (torch.tensor(values, dtype=torch.float64, device="cpu").to(torch.float32) for values in (a, c))
    common32 = torch.tensor(common, dtype=torch.float64, device="cpu").to(torch.float32).item()
    return Coefficients(a32, c32, common32, state)
