"""SGD on g~ = alpha_t P g (autoscale: one factor, layer-wise centring) held against ``theory.projected_gradient``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgrad import theory
from fastgrad.shrinkage_model.problems import Robust
from fastgrad.shrinkage_model.simulate import mean_and_error

LAYERS = 2  # the weights of the problems below are so many layers of equal size
A_MIN, A_MAX = 0.5, 1.5


def centre(g: np.ndarray) -> np.ndarray:  # [R, d] -> [R, d]
    """P: every layer less its mean."""
    layers = g.reshape(len(g), LAYERS, -1)
    return (layers - layers.mean(2, keepdims=True)).reshape(g.shape)


def autoscale(repetitions: int, seed: int) -> dict[str, Any]:
    """bound: rows (index, k, measured, error, allowed, holds) over 20 random problems, alpha_t = sigma_{t-1} / sigma_1
    clipped to [0.5, 1.5]; stationary: the first limit; correlation: the second."""
    return {
        "bound": [row for index in range(20) for row in _bound(index, repetitions, seed)],
        "stationary": stationary(),
        "correlation": correlation(seed),
    }


def _bound(index: int, repetitions: int, seed: int, steps: int = 300) -> list[dict[str, Any]]:
    random = np.random.default_rng((seed, index, 7))
    problem = Robust.random(random)
    eta = random.uniform(0.1, 1) / (problem.L * A_MAX)
    w = np.repeat(problem.start[None], repetitions, 0)
    gap = float(problem.value(w[:1])[0])
    squares = np.empty((steps, repetitions))
    first = before = None  # sigma of the first step and of the step before, [R, 1]
    for t in range(steps):
        squares[t] = (centre(problem.gradient(w)) ** 2).sum(1)
        g = problem.sample(w, random)
        alpha = 1.0 if before is None else np.clip(before / first, A_MIN, A_MAX)
        w = w - eta * alpha * centre(g)
        before = g.std(1, keepdims=True)
        first = before if first is None else first
    count = np.arange(1, steps + 1)
    mean, error = mean_and_error(np.cumsum(squares, 0) / count[:, None])
    allowed = theory.projected_gradient(problem.L, problem.s2, A_MIN, A_MAX, eta, gap, count)
    return [{"index": index, "k": int(k), "measured": float(mean[k - 1]), "error": float(error[k - 1]),
             "allowed": float(allowed[k - 1]), "holds": bool(mean[k - 1] <= allowed[k - 1])}
            for k in (1, 10, 100, steps)]  # fmt: skip


def stationary() -> dict[str, float]:
    """F(w) = |w - b|^2 / 2 without noise: centring keeps every layer's mean, so the iterates end where P grad F = 0 and
    F is as large as the means demand. Full precision would end at 0."""
    b = np.array([1.0, 2.0, 3.0, -1.0, 0.0, 4.0])
    w = np.zeros((1, 6))
    for _ in range(200):
        w = w - 0.5 * centre(w - b)
    gradient = w - b
    return {"projected_gradient2": float((centre(gradient) ** 2).sum()), "gradient2": float((gradient**2).sum()),
            "objective": float((gradient**2).sum() / 2)}  # fmt: skip


def correlation(seed: int, samples: int = 200_000) -> dict[str, float]:
    """alpha from the same mini-batch: E[alpha g] - E[alpha] E[g] for a gradient whose large samples point one way.

    In units of its standard error (|z| of the largest component): far from 0 with alpha = std(g), within a few with the
    alpha of an independent batch (the last step's).
    """
    random = np.random.default_rng((seed, 11))
    heavy = random.exponential(size=(samples, 1))
    g = heavy * np.array([1.0, 0.5, -0.5, -1.0]) + 0.1 * random.standard_normal((samples, 4))
    own, lagged = g.std(1), np.roll(g.std(1), 1)
    scores = {}
    for name, alpha in (("same_batch", own), ("lagged", lagged)):
        product = (alpha - alpha.mean())[:, None] * (g - g.mean(0))
        mean, error = mean_and_error(product.T)
        scores[name] = float(np.abs(mean / error).max())
    return scores
