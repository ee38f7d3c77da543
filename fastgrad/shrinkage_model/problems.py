"""Random problems whose smoothness, convexity, gradient variance and minimum are known.

Weights are [R, d] everywhere: R repetitions side by side, one row each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Problem(Protocol):
    """``L``, ``c`` (None: not convex), ``s2`` and ``infimum`` are those of ``fastgrad.theory.Constants``."""

    name: str
    L: float
    c: float | None
    s2: float
    infimum: float
    start: np.ndarray  # [d]

    def value(self, w: np.ndarray) -> np.ndarray: ...  # [R]

    def gradient(self, w: np.ndarray) -> np.ndarray: ...  # [R, d]

    def sample(self, w: np.ndarray, random: np.random.Generator) -> np.ndarray: ...  # [R, d], unbiased


@dataclass
class Quadratic:
    """F(w) = sum_i lambda_i w_i^2 / 2 with Gaussian gradient noise of variance exactly s2, s2/d in every coordinate.

    The spectrum is log-uniform between its ends c and L, which it contains. (Axes need not be turned: SGD and isotropic
    noise do not know them.)
    """

    eigenvalues: np.ndarray  # [d]
    s2: float
    start: np.ndarray  # [d]
    name: str = "quadratic"
    infimum: float = 0.0

    @classmethod
    def random(cls, random: np.random.Generator, dimension: int = 20) -> Quadratic:
        condition = 10 ** random.uniform(0.3, 2)
        spectrum = condition ** -np.concatenate([[0, 1], random.uniform(0, 1, dimension - 2)])
        scale = 10 ** random.uniform(-1, 1)
        return cls(scale * spectrum, 10 ** random.uniform(-2, 1), random.normal(size=dimension))

    @property
    def L(self) -> float:
        return float(self.eigenvalues.max())

    @property
    def c(self) -> float:
        return float(self.eigenvalues.min())

    def value(self, w: np.ndarray) -> np.ndarray:
        return w**2 @ self.eigenvalues / 2

    def gradient(self, w: np.ndarray) -> np.ndarray:
        return w * self.eigenvalues

    def sample(self, w: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return self.gradient(w) + np.sqrt(self.s2 / w.shape[1]) * random.standard_normal(w.shape)


class _Sampled:
    """F(w) = (1/n) sum_i phi(a_i . w - b_i) + r |w|^2 / 2; a sample is the gradient of one term drawn uniformly.

    The variance of that gradient is at most its data part's second moment, and |phi'| <= slope, so
    s2 = slope^2 mean|a_i|^2 holds at every w; with |phi''| <= curvature, L = curvature eig_max(A^T A / n) + r.
    """

    slope: float
    curvature: float

    def __init__(self, a: np.ndarray, b: np.ndarray, ridge: float, start: np.ndarray) -> None:
        self.a, self.b, self.ridge, self.start = a, b, ridge, start  # [n, d], [n], scalar, [d]
        self.L = self.curvature * float(np.linalg.eigvalsh(a.T @ a / len(a))[-1]) + ridge
        self.s2 = self.slope**2 * float((a**2).sum(1).mean())

    def value(self, w: np.ndarray) -> np.ndarray:
        return self.phi(w @ self.a.T - self.b).mean(1) + self.ridge * (w**2).sum(1) / 2

    def gradient(self, w: np.ndarray) -> np.ndarray:
        return self.phi_slope(w @ self.a.T - self.b) @ self.a / len(self.a) + self.ridge * w

    def sample(self, w: np.ndarray, random: np.random.Generator) -> np.ndarray:
        i = random.integers(len(self.a), size=len(w))
        a = self.a[i]
        return self.phi_slope((a * w).sum(1) - self.b[i])[:, None] * a + self.ridge * w


class Logistic(_Sampled):
    """l2-regularized logistic regression: phi(z) = log(1 + exp(-z)) with a_i = y_i x_i, b = 0; c is the ridge.

    |phi'| <= 1, 0 <= phi'' <= 1/4. The minimum is Newton's, to the last digits of float64.
    """

    name, slope, curvature = "logistic", 1.0, 0.25

    def __init__(self, a: np.ndarray, ridge: float, start: np.ndarray) -> None:
        super().__init__(a, np.zeros(len(a)), ridge, start)
        self.c = ridge
        self.infimum = float(self.value(self._minimum()[None])[0])

    @classmethod
    def random(cls, random: np.random.Generator, samples: int = 100, dimension: int = 8) -> Logistic:
        x = random.normal(size=(samples, dimension)) * 10 ** random.uniform(-0.5, 0.5)
        true = random.normal(size=dimension)
        y = np.where(random.uniform(size=samples) < 1 / (1 + np.exp(-x @ true)), 1.0, -1.0)
        return cls(y[:, None] * x, 10 ** random.uniform(-2, 0), random.normal(size=dimension))

    @staticmethod
    def phi(z: np.ndarray) -> np.ndarray:
        return np.logaddexp(0, -z)

    @staticmethod
    def phi_slope(z: np.ndarray) -> np.ndarray:
        return (np.tanh(z / 2) - 1) / 2  # -1 / (1 + exp(z)), without its overflow

    def _minimum(self) -> np.ndarray:  # [d]
        w = np.zeros(self.a.shape[1])
        for _ in range(100):
            g = self.gradient(w[None])[0]
            p = -self.phi_slope(self.a @ w)
            hessian = (self.a.T * (p * (1 - p))) @ self.a / len(self.a) + self.ridge * np.eye(len(w))
            step = np.linalg.solve(hessian, g)
            # Halved until it descends: Newton's full step may overshoot far from the minimum.
            while self.value((w - step)[None])[0] > self.value(w[None])[0] and np.abs(step).max() > 1e-15:
                step /= 2
            w = w - step
            if np.abs(step).max() <= 1e-15 * max(1.0, np.abs(w).max()):
                break
        return w


class Robust(_Sampled):
    """Robust regression, not convex: phi(z) = z^2 / (1 + z^2); F >= 0, so the infimum taken is 0.

    |phi'| <= 3 sqrt(3) / 8 (at z^2 = 1/3), |phi''| <= 2 (at 0).
    """

    name, slope, curvature = "robust", 3 * 3**0.5 / 8, 2.0
    c, infimum = None, 0.0

    @classmethod
    def random(cls, random: np.random.Generator, samples: int = 60, dimension: int = 6) -> Robust:
        x = random.normal(size=(samples, dimension)) * 10 ** random.uniform(-0.5, 0.5)
        b = x @ random.normal(size=dimension) + 0.3 * random.standard_t(2, size=samples)
        return cls(x, b, 0.0, 2 * random.normal(size=dimension))

    @staticmethod
    def phi(z: np.ndarray) -> np.ndarray:
        return z**2 / (1 + z**2)

    @staticmethod
    def phi_slope(z: np.ndarray) -> np.ndarray:
        return 2 * z / (1 + z**2) ** 2
