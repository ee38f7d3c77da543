"""SGD on shrunk, noisy gradients, many repetitions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastgrad.shrinkage_model.problems import Problem


@dataclass(frozen=True)
class Rounding:
    """The model of a quantizer: q_k drawn anew for every step and repetition, eps_k Gaussian and isotropic.

    kind  constant (q_min = q_max), uniform on [q_min, q_max], or two_point: either end, with equal chances
    """

    kind: str = "constant"
    q_min: float = 1.0
    q_max: float = 1.0
    s_e2: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "uniform", "two_point"):
            raise ValueError(f"kind: expected constant, uniform or two_point, got {self.kind!r}")
        if self.kind == "constant" and self.q_min != self.q_max:
            raise ValueError(f"a constant q has q_min = q_max, got {self.q_min} and {self.q_max}")

    def apply(self, g: np.ndarray, random: np.random.Generator) -> np.ndarray:  # [R, d]
        shape = (len(g), 1)
        if self.kind == "uniform":
            q = random.uniform(self.q_min, self.q_max, shape)
        elif self.kind == "two_point":
            q = np.where(random.random(shape) < 0.5, self.q_min, self.q_max)
        else:
            q = self.q_min
        if self.s_e2 == 0:
            return q * g
        return q * g + np.sqrt(self.s_e2 / g.shape[1]) * random.standard_normal(g.shape)


@dataclass
class Trace:
    """Objective and squared gradient before step k, by repetition."""

    k: np.ndarray  # [P], counted from 1
    gap: np.ndarray  # [P, R]  F(w_k) - infimum
    gradient2: np.ndarray  # [K, R]  |grad F(w_k)|^2 at every step; empty unless asked for


def sgd(
    problem: Problem,
    rounding: Rounding,
    mu: Sequence[float] | np.ndarray,  # [K]
    repetitions: int,
    random: np.random.Generator,
    *,
    points: int = 12,
    gradients: bool = False,
) -> Trace:
    """K steps w_{k+1} = w_k - mu_k (q_k g_k + eps_k) from ``problem.start``; the objective at ``points`` steps."""
    mu = np.asarray(mu, np.float64)
    w = np.repeat(problem.start[None], repetitions, 0)
    seen = np.unique(np.geomspace(1, len(mu), points).round().astype(int))
    gaps, squares = [], []
    for k, step in enumerate(mu, 1):
        if k in seen:
            gaps.append(problem.value(w) - problem.infimum)
        if gradients:
            squares.append((problem.gradient(w) ** 2).sum(1))
        w = w - step * rounding.apply(problem.sample(w, random), random)
    return Trace(seen, np.array(gaps), np.array(squares))


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the last axis, and its standard error."""
    return values.mean(-1), values.std(-1, ddof=1) / np.sqrt(values.shape[-1])
