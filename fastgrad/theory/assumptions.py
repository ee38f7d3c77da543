"""The constants of a problem, and the checks that every bound shares."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# 1/(L q_max) is computed by whoever chooses the step: the last bits must not decide.
ROUNDING = 1e-12


def require(holds: bool | np.bool_, assumption: str, numbers: str) -> None:
    """Raise the one kind of error of this package unless ``holds``."""
    if not holds:
        raise ValueError(f"assumption violated: {assumption}; got {numbers}")


@dataclass(frozen=True)
class Constants:
    """What is known about the loss, its gradients and their shrinkage. Checked when it is made.

    Assumed of the loss F: it is L-smooth, |grad F(v) - grad F(w)| <= L |v - w|, and bounded below; where ``c`` is
    given, it is c-strongly convex (the Polyak-Lojasiewicz inequality |grad F|^2 >= 2c (F - F*) is all that is
    used).

    Assumed of step k, given everything before it: E[g_k] = grad F(w_k); E|g_k - grad F(w_k)|^2 <= s2; q_k lies in
    [q_min, q_max] and is independent of g_k; E[eps_k | g_k, q_k] = 0; E|eps_k|^2 <= s_e2. No number can show these:
    they are the caller's to know. (Rounding to nearest has a bias, and a q_k measured on g_k itself depends on it.)

    Args:
        L: smoothness, > 0, [F]/[w]^2.
        s2: bound on the variance of g_k (the sum over its elements), >= 0, ([F]/[w])^2.
        q_min, q_max: range of the shrinkage factor, 0 < q_min <= q_max <= 1.
        s_e2: bound on E|eps_k|^2, >= 0, ([F]/[w])^2.
        c: strong convexity, 0 < c <= L, [F]/[w]^2; None: F need not be convex.

    Raises:
        ValueError: a constant outside its range; the message names the assumption and the numbers.
    """

    L: float
    s2: float
    q_min: float = 1.0
    q_max: float = 1.0
    s_e2: float = 0.0
    c: float | None = None

    def __post_init__(self) -> None:
        for name in ("L", "s2", "q_min", "q_max", "s_e2"):
            require(math.isfinite(getattr(self, name)), f"{name} is a finite number", repr(getattr(self, name)))
        require(self.L > 0, "F is L-smooth with L > 0", f"L = {self.L:g}")
        require(self.s2 >= 0, "the variance of g is bounded by s2 >= 0", f"s2 = {self.s2:g}")
        require(self.s_e2 >= 0, "the noise has E|eps|^2 <= s_e2 with s_e2 >= 0", f"s_e2 = {self.s_e2:g}")
        q = f"q_min = {self.q_min:g}, q_max = {self.q_max:g}"
        require(self.q_min > 0, "shrinkage is bounded away from zero, q_min > 0", q)
        require(self.q_min <= self.q_max, "q_min <= q_max", q)
        require(
            self.q_max <= 1,
            "shrinkage has q_max <= 1 (larger factors: put q_max into the step and divide q and eps by it)",
            q,
        )
        if self.c is not None:
            require(0 < self.c <= self.L, "F is c-strongly convex with 0 < c <= L", f"c = {self.c:g}, L = {self.L:g}")

    @property
    def S(self) -> float:
        """Bound on the noise of the treated gradient:  S = q_max^2 s2 + s_e2,  ([F]/[w])^2."""
        return self.q_max**2 * self.s2 + self.s_e2

    @property
    def full_precision(self) -> Constants:
        """The same problem with q = 1 and no noise of quantization."""
        return dataclasses.replace(self, q_min=1.0, q_max=1.0, s_e2=0.0)

    def convexity(self) -> float:
        """c, or a ValueError where it was not given."""
        require(self.c is not None, "F is c-strongly convex", "c = None")
        return float(self.c)  # type: ignore[arg-type]


def check_steps(constants: Constants, steps: ArrayLike, name: str = "mu") -> NDArray[np.float64]:
    """``steps`` as float64, each in (0, 1/(L q_max)]."""
    steps = np.asarray(steps, np.float64)
    require(steps.size > 0 and bool((steps > 0).all()), f"every step {name} > 0", _extreme(steps, np.min))
    limit = 1 / (constants.L * constants.q_max)
    require(
        bool((steps <= limit * (1 + ROUNDING)).all()),
        f"{name} <= 1/(L q_max) = {limit:g}",
        f"{_extreme(steps, np.max)} (L = {constants.L:g}, q_max = {constants.q_max:g})",
    )
    return steps


def check_gap(value: float, what: str) -> float:
    """A difference of losses: finite and not negative."""
    require(math.isfinite(value) and value >= 0, f"{what} >= 0", f"{value:g}")
    return float(value)


def check_count(k: ArrayLike, what: str) -> NDArray[np.float64]:
    """Positive whole numbers, as float64."""
    k = np.asarray(k, np.float64)
    require(k.size > 0 and bool(((k >= 1) & (k == np.floor(k))).all()), f"{what} is a whole number >= 1", f"{k}")
    return k


def plain(values: NDArray[np.float64]) -> float | NDArray[np.float64]:
    """A float for one number, the array for several."""
    return float(values) if np.ndim(values) == 0 else values


def _extreme(steps: NDArray[np.float64], which: Callable) -> str:
    return f"{which(steps):g}" if steps.size else "no step"
