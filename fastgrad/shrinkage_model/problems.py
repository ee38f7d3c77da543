"""Random problems with known constants, N of one kind at a time: arrays begin with [N], iterates are [N, R, d]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng

Array = np.ndarray
KINDS = ("quadratic", "logistic", "robust")  # the place of a kind seeds its generators


class Problems(Protocol):
    """N losses of one kind. ``minimum`` stands for F* (convex) or for a lower bound F_inf of F."""

    @property
    def name(self) -> str: ...
    @property
    def L(self) -> Array:  # [N], smoothness
        ...
    @property
    def c(self) -> Array | None:  # [N], strong convexity; None: not convex
        ...
    @property
    def s2(self) -> Array:  # [N], E|g - grad F|^2 <= s2 at every w
        ...
    @property
    def start(self) -> Array:  # [N, d], w_1
        ...

    def gap(self, w: Array) -> Array:
        """F(w) - F* (or F_inf), [N, R], for w [N, R, d]."""

    def gradient(self, w: Array) -> Array:
        """grad F(w), [N, R, d]."""

    def sample(self, w: Array, rng: Generator) -> Array:
        """g with E[g] = grad F(w), [N, R, d], drawn independently for every problem and repetition."""


def generators(seed: int, kind: int, count: int) -> list[Generator]:
    """One generator per problem: problem i is the same whatever ``count`` is."""
    return [default_rng(SeedSequence(seed, spawn_key=(kind, i))) for i in range(count)]


def log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@dataclass
class Quadratics:
    """F(w) - F* = (w - w*)^T H (w - w*) / 2, gradients with additive noise B z, z standard normal.

    c and L are the extreme eigenvalues of H, s2 = trace(B B^T) exactly, everywhere.
    """

    hessian: Array  # [N, d, d]
    noise_root: Array  # [N, d, d], B
    optimum: Array  # [N, d], w*
    start: Array  # [N, d]
    eigenvalues: Array  # [N, d], ascending
    basis: Array  # [N, d, d], columns are the eigenvectors
    name: str = "quadratic"

    @property
    def L(self) -> Array:
        return self.eigenvalues[:, -1]

    @property
    def c(self) -> Array:
        return self.eigenvalues[:, 0]

    @property
    def s2(self) -> Array:
        return (self.noise_root**2).sum((1, 2))

    def gap(self, w: Array) -> Array:
        x = w - self.optimum[:, None]
        return (x * (x @ self.hessian)).sum(-1) / 2

    def gradient(self, w: Array) -> Array:
        return (w - self.optimum[:, None]) @ self.hessian

    def sample(self, w: Array, rng: Generator) -> Array:
        return self.gradient(w) + rng.standard_normal(w.shape) @ self.noise_root.swapaxes(1, 2)

    def noise_along_eigenvectors(self) -> Array:
        """[N, d]: the variance of g along each eigenvector of H."""
        return ((self.basis.swapaxes(1, 2) @ self.noise_root) ** 2).sum(-1)

    def start_along_eigenvectors(self) -> Array:
        """[N, d]: w_1 - w* in the eigenbasis."""
        return ((self.start - self.optimum)[:, None] @ self.basis)[:, 0]


def quadratics(seed: int, count: int, dim: int = 8) -> Quadratics:
    """Condition numbers 2 to 20, L 0.5 to 50; noise of random shape and rank, s2 1/1000 to 1 of the first |grad F|^2.

    The start is a random direction away from the minimum. (The bounds are attained at condition number 1, where a mean
    over repetitions lies above a true bound every second time: ``tests/shrinkage_model`` holds exact expectations
    against them there.)
    """
    spectra, bases, roots, optima, starts = [], [], [], [], []
    for rng in generators(seed, 0, count):
        L, kappa = log_uniform(rng, 0.5, 50), log_uniform(rng, 2, 20)
        inner = np.exp(rng.uniform(np.log(L / kappa), np.log(L), dim - 2))
        spectrum = np.sort([L / kappa, *inner, L])
        basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
        optimum, away = rng.standard_normal(dim), rng.standard_normal(dim)
        root = rng.standard_normal((dim, int(rng.integers(1, dim + 1))))
        root = np.pad(root, ((0, 0), (0, dim - root.shape[1])))
        squared_gradient = float((spectrum**2 * (basis.T @ away) ** 2).sum())
        root *= np.sqrt(log_uniform(rng, 1e-3, 1) * squared_gradient / (root**2).sum())
        spectra.append(spectrum)
        bases.append(basis)
        roots.append(root)
        optima.append(optimum)
        starts.append(optimum + away)
    eigenvalues, basis = np.array(spectra), np.array(bases)
    hessian = (basis * eigenvalues[:, None]) @ basis.swapaxes(1, 2)
    return Quadratics(hessian, np.array(roots), np.array(optima), np.array(starts), eigenvalues, basis)


@dataclass
class LogisticRegressions:
    """F(w) = mean_i log(1 + exp(-v_i.w)) + (c/2)|w|^2, v_i = y_i x_i; g from ``batch`` samples drawn with replacement.

    L = c + largest eigenvalue of X^T X / (4n), as the second derivative of log(1 + exp(-m)) is at most 1/4. A
    sample's gradient is -p v_i + c w with p in (0, 1): the second moment of -p v_i, and so its variance, is at most
    mean|x_i|^2 at **every** w (c w has no variance), hence s2 = mean|x_i|^2 / batch on the whole trajectory,
    without measuring it.
    """

    rows: Array  # [N, n, d], v_i
    c: Array  # [N]
    start: Array  # [N, d]
    optimum: Array  # [N, d]
    batch: int
    name: str = "logistic"

    def __post_init__(self) -> None:
        self.lowest = self._loss(self.optimum[:, None])[:, 0]

    @property
    def L(self) -> Array:
        return self.c + np.linalg.eigvalsh(_gram(self.rows))[:, -1] / 4

    @property
    def s2(self) -> Array:
        return (self.rows**2).sum(-1).mean(-1) / self.batch

    def gap(self, w: Array) -> Array:
        return self._loss(w) - self.lowest[:, None]

    def gradient(self, w: Array) -> Array:
        return _logistic_gradient(self.rows, self.c, w)

    def sample(self, w: Array, rng: Generator) -> Array:
        rows = _drawn(self.rows, w.shape[1], self.batch, rng)
        slope = -_sigmoid(-(rows @ w[..., None])[..., 0])
        return (slope[..., None, :] @ rows)[..., 0, :] / self.batch + self.c[:, None, None] * w

    def _loss(self, w: Array) -> Array:
        margins = w @ self.rows.swapaxes(1, 2)
        return np.logaddexp(0, -margins).mean(-1) + self.c[:, None] / 2 * (w**2).sum(-1)


def logistic_regressions(seed: int, count: int, dim: int = 5, samples: int = 40, batch: int = 2) -> LogisticRegressions:
    """Labels from a random linear rule with noise, inputs of random scales, L/c from 2 to 20."""
    rows, convexity, starts = [], [], []
    for rng in generators(seed, 1, count):
        x = rng.standard_normal((samples, dim)) * np.exp(rng.uniform(-0.7, 0.7, dim))
        y = np.where(x @ rng.standard_normal(dim) + rng.standard_normal(samples) > 0, 1.0, -1.0)
        rows.append(x * y[:, None])
        largest = np.linalg.eigvalsh(x.T @ x / samples)[-1] / 4
        convexity.append(largest / (log_uniform(rng, 2, 20) - 1))
        starts.append(3 * rng.standard_normal(dim))
    x, c = np.array(rows), np.array(convexity)
    return LogisticRegressions(x, c, np.array(starts), _newton(x, c), batch)


def _newton(rows: Array, c: Array, tolerance: float = 1e-13) -> Array:  # [N, d]
    """Minima of the regularized logistic losses: Newton's method, halved while the gradient does not shrink."""
    w = np.zeros((len(rows), 1, rows.shape[-1]))
    for _ in range(60):
        gradient = _logistic_gradient(rows, c, w)
        norm = np.linalg.norm(gradient, axis=-1, keepdims=True)
        if norm.max() <= tolerance:
            return w[:, 0]
        p = _sigmoid(w @ rows.swapaxes(1, 2))[:, 0]  # [N, n]
        hessian = (rows * (p * (1 - p))[..., None]).swapaxes(1, 2) @ rows / rows.shape[1]
        hessian += c[:, None, None] * np.eye(rows.shape[-1])
        direction = np.linalg.solve(hessian, gradient[:, 0, :, None])[:, None, :, 0]
        length = np.ones_like(norm)
        for _ in range(40):
            worse = np.linalg.norm(_logistic_gradient(rows, c, w - length * direction), axis=-1, keepdims=True) > norm
            length = np.where(worse & (norm > tolerance), length / 2, length)
            if not (worse & (norm > tolerance)).any():
                break
        w = w - length * direction
    raise RuntimeError(f"Newton's method left a gradient of {norm.max():g}, expected {tolerance:g}")


@dataclass
class RobustRegressions:
    """F(w) = mean_i rho(x_i.w - y_i), rho(r) = r^2/(1 + r^2): smooth, bounded, not convex; g from ``batch`` samples.

    rho'' = 2(1 - 3r^2)/(1 + r^2)^3 is in [-1/2, 2], so L = 2 * largest eigenvalue of X^T X / n. |rho'| = 2|r|/(1 +
    r^2)^2 is at most 9/(8 sqrt 3) (at r^2 = 1/3), so s2 = (81/192) mean|x_i|^2 / batch at every w. F_inf = 0.
    """

    rows: Array  # [N, n, d]
    targets: Array  # [N, n]
    start: Array  # [N, d]
    batch: int
    name: str = "robust"
    c: None = None

    @property
    def L(self) -> Array:
        return 2 * np.linalg.eigvalsh(_gram(self.rows))[:, -1]

    @property
    def s2(self) -> Array:
        return 81 / 192 * (self.rows**2).sum(-1).mean(-1) / self.batch

    def gap(self, w: Array) -> Array:
        r2 = (w @ self.rows.swapaxes(1, 2) - self.targets[:, None]) ** 2
        return (r2 / (1 + r2)).mean(-1)

    def gradient(self, w: Array) -> Array:
        residue = w @ self.rows.swapaxes(1, 2) - self.targets[:, None]
        return _rho_slope(residue) @ self.rows / self.rows.shape[1]

    def sample(self, w: Array, rng: Generator) -> Array:
        n, repetitions = len(self.rows), w.shape[1]
        drawn = rng.integers(self.rows.shape[1], size=(n, repetitions, self.batch))
        problem = np.arange(n)[:, None, None]
        rows = self.rows[problem, drawn]
        slope = _rho_slope((rows @ w[..., None])[..., 0] - self.targets[problem, drawn])
        return (slope[..., None, :] @ rows)[..., 0, :] / self.batch


def robust_regressions(seed: int, count: int, dim: int = 6, samples: int = 40, batch: int = 4) -> RobustRegressions:
    """A linear rule, a third of the targets replaced by outliers, starts near and far from the rule."""
    rows, targets, starts = [], [], []
    for rng in generators(seed, 2, count):
        x = rng.standard_normal((samples, dim)) * np.exp(rng.uniform(-0.7, 0.7, dim))
        truth = rng.standard_normal(dim)
        outlier = rng.uniform(size=samples) < 1 / 3
        y = x @ truth + 0.1 * rng.standard_normal(samples)
        rows.append(x)
        targets.append(np.where(outlier, 5 * rng.standard_normal(samples), y))
        starts.append(truth + log_uniform(rng, 0.1, 1) * rng.standard_normal(dim))
    return RobustRegressions(np.array(rows), np.array(targets), np.array(starts), batch)


def _gram(rows: Array) -> Array:  # [N, d, d]
    return rows.swapaxes(1, 2) @ rows / rows.shape[1]


def _drawn(rows: Array, repetitions: int, batch: int, rng: Generator) -> Array:  # [N, R, batch, d]
    n = len(rows)
    return rows[np.arange(n)[:, None, None], rng.integers(rows.shape[1], size=(n, repetitions, batch))]


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def _logistic_gradient(rows: Array, c: Array, w: Array) -> Array:
    slope = -_sigmoid(-(w @ rows.swapaxes(1, 2)))
    return slope @ rows / rows.shape[1] + c[:, None, None] * w


def _rho_slope(r: Array) -> Array:
    return 2 * r / (1 + r * r) ** 2
