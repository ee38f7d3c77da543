"""The iteration, and what is measured along it. All problems and repetitions of one kind move together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.random import Generator

from fastgrad.shrinkage_model.problems import Array, Problems

Treat = Callable[[Array, Generator], Array]


def path(
    problems: Problems,
    treat: Treat,  # [N, R, d] -> [N, R, d]: q g + eps
    steps: Array,  # [N, K]
    repetitions: int,
    rng: Generator,
) -> Iterator[tuple[int, Array]]:
    """``(k, w_k)`` for k = 1 .. K + 1, w_k [N, R, d]:  w_{k+1} = w_k - mu_k (q_k g_k + eps_k)."""
    w = np.repeat(problems.start[:, None], repetitions, axis=1)
    for k in range(steps.shape[1]):
        yield k + 1, w
        w = w - steps[:, k, None, None] * treat(problems.sample(w, rng), rng)
    yield steps.shape[1] + 1, w


def gaps(problems: Problems, iterates: Iterator[tuple[int, Array]], at: Array) -> Array:
    """F(w_k) - F* for the k in ``at``: [N, R, len(at)]."""
    wanted = set(at.tolist())
    return np.stack([problems.gap(w) for k, w in iterates if k in wanted], axis=-1)


def mean_squared_gradients(
    gradient: Callable[[Array], Array], iterates: Iterator[tuple[int, Array]], steps: Array, at: Array
) -> Array:
    """(1/A_j) sum_{k<=j} mu_k |gradient(w_k)|^2 for the j in ``at``: [N, R, len(at)]."""
    wanted, total, weight, means = set(at.tolist()), 0.0, np.zeros(len(steps)), []
    for k, w in iterates:
        if k > steps.shape[1]:
            break
        weight = weight + steps[:, k - 1]
        total = total + steps[:, k - 1, None] * (gradient(w) ** 2).sum(-1)
        if k in wanted:
            means.append(total / weight[:, None])
    return np.stack(means, axis=-1)


def checkpoints(last: int, count: int = 12) -> Array:
    """About ``count`` whole numbers from 1 to ``last``, evenly spaced in their logarithm."""
    return np.unique(np.rint(np.geomspace(1, last, count)).astype(int))
