"""The two limits of the bound for autoscaled gradients, each shown on a loss where it is plain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng

from fastgrad import theory
from fastgrad.shrinkage_model import autoscale, paths
from fastgrad.shrinkage_model.autoscale import Layers
from fastgrad.shrinkage_model.problems import Array, Quadratics
from fastgrad.shrinkage_model.verdicts import Measured


@dataclass(frozen=True)
class Standstill:
    """Limit (i): F(w) = |w - t|^2 / 2, one eligible layer of d elements, start 0, t of mean 1."""

    projected: float  # |P grad F|^2 at the end
    whole: float  # |grad F|^2 at the end: d * mean(t)^2, as at the start
    expected: float  # d * mean(t)^2
    bound: float  # on the mean of |P grad F|^2 over the run
    mean_projected: float
    mean_whole: float  # the same mean of |grad F|^2: the bound does not hold for it


def standstill(dim: int = 10, count: int = 2000) -> Standstill:
    """Without noise, eta = 1, alpha = 1: the mean of the weights never moves, so neither does that of the gradient."""
    target = 1 + np.linspace(-1, 1, dim)[None]
    eye = np.eye(dim)[None]
    problem = Quadratics(eye, 0 * eye, target, np.zeros((1, dim)), np.ones((1, dim)), eye)
    layers, one = Layers((dim,), (True,)), np.ones(1)
    steps = np.ones((1, count))

    def run() -> Iterator[tuple[int, Array]]:
        return autoscale.path(problem, layers, "independent", one, one, steps, 1, default_rng(0))

    at = np.array([count])
    mean_projected = paths.mean_squared_gradients(lambda w: layers.project(problem.gradient(w)), run(), steps, at)
    mean_whole = paths.mean_squared_gradients(problem.gradient, run(), steps, at)
    *_, (_, last) = run()
    gradient = problem.gradient(last)
    drop = float(problem.gap(problem.start[:, None])[0, 0])
    return Standstill(
        projected=float((layers.project(gradient) ** 2).sum()),
        whole=float((gradient**2).sum()),
        expected=float(dim * target.mean() ** 2),
        bound=float(theory.projected_gradient_bound(1.0, 0.0, 1.0, 1.0, 1.0, drop, count)),
        mean_projected=float(mean_projected.item()),
        mean_whole=float(mean_whole.item()),
    )


@dataclass
class SkewedNoise:
    """F(w) = |w|^2 / 2, g = w + r v with r = 3 with probability 1/10, else -1/3 (mean 0, variance 1).

    The elements of v have mean 0; s2 = |v|^2. A large step of g is also one in a certain direction: what a
    heavy-tailed mini-batch looks like.
    """

    start: Array  # [1, d]
    direction: Array  # [d], v
    name: str = "skewed"
    c: None = None

    @property
    def L(self) -> Array:
        return np.ones(1)

    @property
    def s2(self) -> Array:
        return (self.direction**2).sum(keepdims=True)

    def gap(self, w: Array) -> Array:
        return (w**2).sum(-1) / 2

    def gradient(self, w: Array) -> Array:
        return w

    def sample(self, w: Array, rng: Generator) -> Array:
        values, _ = self.noise()
        rare = rng.uniform(size=w.shape[:2]) < 0.1
        return w + np.where(rare, values[0], values[1])[..., None] * self.direction

    def noise(self) -> tuple[Array, Array]:
        """The two values of r and their probabilities."""
        return np.array([3.0, -1 / 3]), np.array([0.1, 0.9])


@dataclass(frozen=True)
class Correlation:
    """Limit (ii) for one rule of alpha."""

    rule: str
    bias: float  # |E[alpha P g]| at the minimum, where P grad F = 0, in units of s: enumerated, not sampled
    measured: Measured  # mean |P grad F|^2 against the bound, [1, M]


def correlation(seed: int, repetitions: int, *, step: float = 1e-3, count: int = 3000) -> list[Correlation]:
    """The rules ``lagged`` and ``same`` with alpha in [0.3, 3], on SkewedNoise, started at its minimum."""
    dim = 4
    v = np.array([1.0, -1.0, 1.0, -1.0]) / 2
    problem = SkewedNoise(start=np.zeros((1, dim)), direction=v)
    layers, low, high = Layers((dim,), (True,)), np.array([0.3]), np.array([3.0])
    values, probability = problem.noise()
    at_minimum = values[:, None] * v  # both values of g where grad F = 0
    alpha = np.clip(layers.sigma(at_minimum) / layers.sigma(v), low, high)
    projected = layers.project(at_minimum)
    bias = {
        "same": probability @ (alpha[:, None] * projected),
        "lagged": (probability @ alpha) * (probability @ projected),
    }
    steps, at, found = np.full((1, count), step), paths.checkpoints(count), []
    bound = theory.projected_gradient_bound(1.0, 1.0, 0.3, 3.0, step, 0.0, at, all_eligible=True)
    for rule in ("lagged", "same"):
        rng = default_rng(SeedSequence(seed, spawn_key=(2100,)))
        values_of_run = paths.mean_squared_gradients(
            lambda w: layers.project(problem.gradient(w)),
            autoscale.path(problem, layers, rule, low, high, steps, repetitions, rng),
            steps,
            at,
        )
        found.append(
            Correlation(rule, float(np.linalg.norm(bias[rule])), Measured.of(at, values_of_run, np.array([bound])))
        )
    return found
