"""Centred gradients with one bounded multiplier per step: w <- w - eta A_t P g_t, and its bound.

P subtracts from each eligible layer its mean; A_t multiplies the eligible layers by alpha_t. The multiplier is our
reading of arXiv 2509.03677, sigma_t / sigma_1 with sigma the standard deviation over all eligible elements of g,
clamped to [a_min, a_max]. Three ways to have it:

    independent   uniform in [a_min, a_max], drawn anew: the assumption of the bound in its plainest form
    lagged        from sigma_{t-1}: fixed before g_t is drawn, so the bound holds
    same          from sigma_t of the very g_t that it multiplies: the bound's assumption fails
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng

from fastgrad import theory
from fastgrad.shrinkage_model import paths
from fastgrad.shrinkage_model.problems import Array, Problems, generators, log_uniform
from fastgrad.shrinkage_model.verdicts import Measured

RULES = ("independent", "lagged", "same")


@dataclass(frozen=True)
class Layers:
    """How a gradient of d elements is cut: sizes that sum to d, and which layers are eligible."""

    sizes: tuple[int, ...]
    eligible: tuple[bool, ...]

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.eligible) or min(self.sizes, default=0) < 1 or not any(self.eligible):
            raise ValueError(
                f"layers need a size >= 1 and a flag each, one of them eligible; got {self.sizes}, {self.eligible}"
            )

    def _slices(self) -> Iterator[slice]:
        ends = np.cumsum(self.sizes)
        for end, size, eligible in zip(ends, self.sizes, self.eligible, strict=True):
            if eligible:
                yield slice(end - size, end)

    def project(self, g: Array) -> Array:  # [..., d]
        """P g: every eligible layer less its mean."""
        if g.shape[-1] != sum(self.sizes):
            raise ValueError(f"layers of {sum(self.sizes)} elements together, got a gradient of {g.shape[-1]}")
        projected = g.copy()
        for layer in self._slices():
            projected[..., layer] -= projected[..., layer].mean(-1, keepdims=True)
        return projected

    def sigma(self, g: Array) -> Array:  # [...]
        """Standard deviation over all eligible elements together, before centring."""
        return np.concatenate([g[..., layer] for layer in self._slices()], axis=-1).std(-1)

    def scale(self, g: Array, alpha: Array) -> Array:  # [..., d]
        """A g: the eligible layers times alpha [...]."""
        scaled = g.copy()
        for layer in self._slices():
            scaled[..., layer] *= alpha[..., None]
        return scaled


def path(
    problems: Problems,
    layers: Layers,
    rule: str,
    a_min: Array,  # [N]
    a_max: Array,  # [N]
    steps: Array,  # [N, K]
    repetitions: int,
    rng: Generator,
) -> Iterator[tuple[int, Array]]:
    """``(k, w_k)`` for k = 1 .. K + 1, w_k [N, R, d]. The first alpha of ``lagged`` is 1, clamped."""
    if rule not in RULES:
        raise ValueError(f"rule is one of {', '.join(RULES)}; got {rule!r}")
    low, high = a_min[:, None], a_max[:, None]
    first = previous = None
    w = np.repeat(problems.start[:, None], repetitions, axis=1)
    for k in range(steps.shape[1]):
        yield k + 1, w
        g = problems.sample(w, rng)
        sigma = layers.sigma(g)
        first = sigma if first is None else first
        if rule == "independent":
            alpha = rng.uniform(low, high, sigma.shape)
        else:
            current = sigma if rule == "same" or previous is None else previous
            alpha = np.clip(current / first, low, high)
        previous = sigma
        w = w - steps[:, k, None, None] * layers.scale(layers.project(g), alpha)
    yield steps.shape[1] + 1, w


@dataclass
class Experiment:
    """N problems under one rule against the bound on the projected gradient."""

    problems: Problems
    rule: str
    a_min: Array  # [N]
    a_max: Array  # [N]
    steps: Array  # [N], eta
    measured: Measured


def experiment(problems: Problems, layers: Layers, rule: str, *, count: int, repetitions: int, seed: int) -> Experiment:
    """a_min from 0.2 to 1, a_max from 1 to 3; every second problem takes the largest step, 1/(L a_max)."""
    n = len(problems.start)
    a_min, a_max, steps = np.empty(n), np.empty(n), np.empty(n)
    for i, rng in enumerate(generators(seed, 300, n)):
        a_min[i], a_max[i] = log_uniform(rng, 0.2, 1), log_uniform(rng, 1, 3)
        steps[i] = (1.0 if i % 2 == 0 else log_uniform(rng, 0.1, 1)) / (problems.L[i] * a_max[i])
    every = np.repeat(steps[:, None], count, axis=1)
    rng = default_rng(SeedSequence(seed, spawn_key=(1100, RULES.index(rule), len(problems.name))))
    at = paths.checkpoints(count)
    values = paths.mean_squared_gradients(
        lambda w: layers.project(problems.gradient(w)),
        path(problems, layers, rule, a_min, a_max, every, repetitions, rng),
        every,
        at,
    )
    drop = problems.gap(problems.start[:, None])[:, 0]
    bound = [
        theory.projected_gradient_bound(
            float(problems.L[i]), float(problems.s2[i]), a_min[i], a_max[i], steps[i], float(drop[i]), at
        )
        for i in range(n)
    ]
    return Experiment(problems, rule, a_min, a_max, steps, Measured.of(at, values, np.array(bound)))
