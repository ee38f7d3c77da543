"""How sure a mean is: confidence intervals by resampling whole patients.

Questions about one patient are not independent; drawing questions instead of patients makes intervals too narrow.
(Efron 1979; for clustered data Field & Welsh 2007)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_AT_ONCE = 4_000_000  # draws in memory


@dataclass(frozen=True)
class Interval:
    """mean of n values out of so many clusters; [low, high] holds it with LEVEL confidence. low and high are None where
    there is one cluster: nothing can be said then."""

    mean: float
    low: float | None
    high: float | None
    n: int
    clusters: int

    def to_dict(self) -> dict:
        return asdict(self)

    def ends(self, form: str = ".1f") -> str:
        """In percent, each in the form; nothing where there are none."""
        if self.low is None or self.high is None:
            return ""
        return f"{100 * self.low:{form}} to {100 * self.high:{form}}"


def interval(values: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0) -> Interval:
    """Of one column of :func:`intervals`."""
    return intervals({"": values}, clusters, seed=seed)[""]


def intervals(
    columns: Mapping[str, Sequence[float | None]],  # one value a row; None: the row has none in this column
    clusters: Sequence[Hashable],  # one a row
    *,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap of the mean of every column. Clusters are drawn with replacement as many times as there are,
    RESAMPLES times; a resample's mean is the sum of its values over their number, and one without values is left out.
    Equal seeds, equal intervals. Columns without a value are left out.

    Raises ValueError where a column has not one entry a cluster.
    """
    for name, values in columns.items():
        if len(values) != len(clusters):
            raise ValueError(f"{name}: expected {len(clusters)} values, one a cluster, got {len(values)}")
    numbers: dict[Hashable, int] = {}
    places = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], int)
    table = np.array([[np.nan if value is None else value for value in values] for values in columns.values()], float)
    there = ~np.isnan(table) if len(columns) else np.zeros((0, 0), bool)
    kept = np.any(there, axis=1).tolist()
    names = [name for name, any_there in zip(columns, kept, strict=True) if any_there]
    if not names:
        return {}
    table, there = np.nan_to_num(table[kept]), there[kept]
    sums = np.stack([np.bincount(places, values, len(numbers)) for values in table], axis=1)  # [clusters, columns]
    counts = np.stack([np.bincount(places, values, len(numbers)) for values in there.astype(float)], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.concatenate([(draws @ sums) / (draws @ counts) for draws in _draws(len(numbers), seed)])
    ends = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)  # [2, columns]
    found = {}
    for column, name in enumerate(names):
        n, of = int(counts[:, column].sum()), int((counts[:, column] > 0).sum())
        low, high = (None, None) if of == 1 else (float(ends[0, column]), float(ends[1, column]))
        found[name] = Interval(float(sums[:, column].sum() / n), low, high, n, of)
    return found


def paired_difference(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0
) -> Interval:
    """Of two models on the same questions, second minus first: resampled together, what both find hard cancels."""
    if len(first) != len(second):
        raise ValueError(f"second: expected {len(first)} values, one a question as in first, got {len(second)}")
    return interval([b - a for a, b in zip(first, second, strict=True)], clusters, seed=seed)


def _draws(clusters: int, seed: int) -> Iterator[np.ndarray]:
    """[resamples, clusters] how often each was drawn, in blocks."""
    rng = np.random.default_rng(seed)
    block = max(1, min(RESAMPLES, _AT_ONCE // clusters))
    chances = np.full(clusters, 1 / clusters)
    for start in range(0, RESAMPLES, block):
        yield rng.multinomial(clusters, chances, size=min(block, RESAMPLES - start)).astype(float)
