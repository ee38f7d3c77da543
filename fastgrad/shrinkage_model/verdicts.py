"""A mean over repetitions against a bound on the expectation, with the Monte-Carlo error told.

The expectation is not seen, only a mean over R independent repetitions with standard error e. With z such that all
comparisons of a study together go wrong by chance with probability 1/1000 (one-sided, Bonferroni, normal
approximation):

    holds      mean + z e <= bound     this study shows the bound to hold here
    undecided  in between
    violated   mean - z e > bound      this study shows the bound to be wrong

A gap is skewed to the right, so that a large mean comes with a large e: "violated" is the safer of the two claims. The
plain comparison mean <= bound is kept apart, as ``below``.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from fastgrad.shrinkage_model.problems import Array

FAMILY_LEVEL = 1e-3
# Float64 leaves this much of the first value of a run in a difference of losses, and in the bound.
ROUNDING = 1e-12
HOLDS, UNDECIDED, VIOLATED = VERDICTS = ("holds", "undecided", "violated")


def z_of(comparisons: int) -> float:
    """Standard errors that a mean may stray so that all ``comparisons`` together err with FAMILY_LEVEL."""
    return -NormalDist().inv_cdf(FAMILY_LEVEL / comparisons)


@dataclass
class Measured:
    """Means over repetitions beside their bounds, at the checkpoints of N problems."""

    at: Array  # [M], k or K
    mean: Array  # [N, M]
    error: Array  # [N, M], standard error of the mean
    bound: Array  # [N, M]
    repetitions: int

    @classmethod
    def of(cls, at: Array, values: Array, bound: Array) -> Measured:
        """From ``values`` [N, R, M]."""
        repetitions = values.shape[1]
        error = values.std(axis=1, ddof=1) / np.sqrt(repetitions)
        return cls(at, values.mean(axis=1), error, bound, repetitions)

    @property
    def ratio(self) -> Array:
        """[N, M]: mean / bound; 1 is a tight bound."""
        return self.mean / self.bound

    @property
    def below(self) -> Array:
        """[N, M] bool: mean <= bound, no error subtracted."""
        return self.mean <= self.bound + self._rounding()

    def verdicts(self, z: float) -> Array:
        """[N, M] of VERDICTS."""
        allowed = self.bound + self._rounding()
        # Said so that a mean which is not a number is a violation.
        holds, violated = self.mean + z * self.error <= allowed, ~(self.mean - z * self.error <= allowed)
        return np.where(holds, HOLDS, np.where(violated, VIOLATED, UNDECIDED))

    def _rounding(self) -> Array:
        return ROUNDING * np.maximum(self.bound, self.mean[:, :1])
