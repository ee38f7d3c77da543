"""How sure a mean is: confidence intervals by resampling whole patients.

Questions about one patient are not independent; drawing questions instead of patients makes intervals too narrow.
(Efron 1979; for clustered data Field & Welsh 2007)
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """mean of n values out of so many clusters; [low, high] holds it with LEVEL confidence. low and high are nan where
    there is one cluster: nothing can be said then."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int


def interval(values: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean: clusters are drawn with replacement as many times as there are, RESAMPLES
    times; a resample's mean is the sum of its values over their number. Equal seeds, equal intervals.

    Raises ValueError for no values, or not one cluster a value.
    """
    sums, counts = _by_cluster(values, clusters)
    mean = float(sums.sum() / counts.sum())
    if len(sums) == 1:
        return Interval(mean, float("nan"), float("nan"), int(counts.sum()), 1)
    means = np.concatenate([draws @ sums / (draws @ counts) for draws in _draws(len(sums), seed)])
    return Interval(mean, *_ends(means), int(counts.sum()), len(sums))


def paired_difference(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0
) -> Interval:
    """Of two models on the same questions, second minus first: resampled together, what both find hard cancels."""
    if len(first) != len(second):
        raise ValueError(f"second: expected {len(first)} values, one a question as in first, got {len(second)}")
    return interval([b - a for a, b in zip(first, second, strict=True)], clusters, seed=seed)


def _by_cluster(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    if not len(values) or len(values) != len(clusters):
        raise ValueError(f"values: expected at least one and one cluster each, got {len(values)} and {len(clusters)}")
    numbers: dict[Hashable, int] = {}
    places = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    return np.bincount(places, np.asarray(values, float)), np.bincount(places).astype(float)


def _draws(clusters: int, seed: int):
    """[resamples, clusters] how often each was drawn, in blocks that stay small."""
    rng = np.random.default_rng(seed)
    block = max(1, min(RESAMPLES, 4_000_000 // clusters))
    chances = np.full(clusters, 1 / clusters)
    for start in range(0, RESAMPLES, block):
        yield rng.multinomial(clusters, chances, size=min(block, RESAMPLES - start)).astype(float)


def _ends(means: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
