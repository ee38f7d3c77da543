"""What happens exactly, in expectation, on a quadratic: no bound but an equation. Derived by us.

F(w) - F* = (1/2) sum_i lambda_i x_i^2 in the eigenbasis of its Hessian. A step is
x_i <- (1 - mu q lambda_i) x_i - mu (q n_i + eps_i), so v_i = E x_i^2 follows (n_i, eps_i of mean zero, independent
of q)

    v_i <- (1 - 2 mu E[q] lambda_i + mu^2 E[q^2] lambda_i^2) v_i + mu^2 (E[q^2] s_i^2 + e_i^2)

whatever the distributions are and however the noises of different directions are correlated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgrad.theory.assumptions import require


@dataclass(frozen=True)
class Moments:
    """E[q] and E[q^2] of a shrinkage factor that is drawn anew, independently, at every step."""

    mean: float
    square: float

    def __post_init__(self) -> None:
        numbers = f"E[q] = {self.mean:g}, E[q^2] = {self.square:g}"
        require(0 < self.mean <= 1, "0 < E[q] <= 1", numbers)
        # the first half is Jensen's inequality, the second q <= 1
        require(
            self.mean**2 * (1 - 1e-12) <= self.square <= self.mean * (1 + 1e-12), "E[q]^2 <= E[q^2] <= E[q]", numbers
        )

    @classmethod
    def constant(cls, q: float) -> Moments:
        """Always q."""
        return cls(q, q * q)

    @classmethod
    def uniform(cls, low: float, high: float) -> Moments:
        """Uniform in [low, high]."""
        return cls((low + high) / 2, (low * low + low * high + high * high) / 3)

    @classmethod
    def two_point(cls, low: float, high: float, probability_of_low: float) -> Moments:
        """``low`` with the given probability, else ``high``."""
        p = probability_of_low
        return cls(p * low + (1 - p) * high, p * low * low + (1 - p) * high * high)


def expected_path(
    eigenvalues: ArrayLike,  # [d] > 0, [F]/[w]^2
    start: ArrayLike,  # [d], x_1 in the eigenbasis, [w]
    steps: ArrayLike,  # [K] > 0, [w]^2/[F]
    q: Moments,
    noise: ArrayLike,  # [d], variance s_i^2 of the gradient along each eigenvector, ([F]/[w])^2
    rounding: ArrayLike = 0.0,  # [d] or a number, e_i^2 = E eps_i^2, ([F]/[w])^2
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(E[F(w_k) - F*], E|grad F(w_k)|^2)``, each [K + 1], for k = 1 .. K + 1; in [F] and ([F]/[w])^2.

    Any step is allowed; one above 2 E[q] / (lambda E[q^2]) diverges, and so do the numbers.
    """
    eigenvalues, noise, rounding = _directions(eigenvalues, noise, rounding)
    v = np.broadcast_to(np.asarray(start, np.float64) ** 2, eigenvalues.shape)
    moments = [v]
    for mu in np.asarray(steps, np.float64):
        kept = 1 - 2 * mu * q.mean * eigenvalues + mu**2 * q.square * eigenvalues**2
        v = kept * v + mu**2 * (q.square * noise + rounding)
        moments.append(v)
    v = np.array(moments)
    return v @ eigenvalues / 2, v @ eigenvalues**2


def noise_floor(
    eigenvalues: ArrayLike,  # [d] > 0, [F]/[w]^2
    step: float,  # [w]^2/[F]
    q: Moments,
    noise: ArrayLike,  # [d], s_i^2, ([F]/[w])^2
    rounding: ArrayLike = 0.0,  # [d] or a number, e_i^2, ([F]/[w])^2
) -> float:
    """The gap that is left for k -> infinity at a fixed step, [F]:

        E[F - F*]  ->  sum_i  mu (E[q^2] s_i^2 + e_i^2) / ( 2 (2 E[q] - mu E[q^2] lambda_i) )

    With constant q and no eps it is about mu q s^2 / 4: it **falls** with q, as it must: such a run is one of full
    precision with step q mu. With eps it is about mu (q s^2 + s_e^2/q) / 4, and rises again once q < s_e/s
    (:func:`least_floor_q`).

    Raises:
        ValueError: the step is too large for the iterates to settle, mu E[q^2] lambda >= 2 E[q].
    """
    eigenvalues, noise, rounding = _directions(eigenvalues, noise, rounding)
    require(step > 0, "mu > 0", f"mu = {step:g}")
    rest = 2 * q.mean - step * q.square * eigenvalues
    limit = 2 * q.mean / (q.square * eigenvalues.max())
    require(bool((rest > 0).all()), f"the iterates settle, mu < 2 E[q]/(L E[q^2]) = {limit:g}", f"mu = {step:g}")
    return float((step * (q.square * noise + rounding) / (2 * rest)).sum())


def least_floor_q(s2: float, s_e2: float) -> float:
    """The constant q in (0, 1] with the lowest floor of a quadratic at one small fixed step:  min(1, s_e/s).

    It minimizes q s2 + s_e2/q, the floor to first order in mu L. Without eps there is none: the smaller q, the lower.

    Raises:
        ValueError: s2 <= 0 or s_e2 <= 0.
    """
    require(s2 > 0 and s_e2 > 0, "both noises are there, s2 > 0 and s_e2 > 0", f"s2 = {s2:g}, s_e2 = {s_e2:g}")
    return min(1.0, (s_e2 / s2) ** 0.5)


def _directions(eigenvalues: ArrayLike, noise: ArrayLike, rounding: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    eigenvalues = np.atleast_1d(np.asarray(eigenvalues, np.float64))
    require(bool((eigenvalues > 0).all()), "every eigenvalue > 0", f"{eigenvalues.min():g}")
    gradient, quantizer = (np.broadcast_to(np.asarray(v, np.float64), eigenvalues.shape) for v in (noise, rounding))
    variances = [gradient, quantizer]
    require(all(bool((value >= 0).all()) for value in variances), "every variance >= 0", f"{variances}")
    return eigenvalues, gradient, quantizer
