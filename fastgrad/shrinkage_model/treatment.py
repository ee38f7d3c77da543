"""What low precision is in the model: q_k sampled anew at every step, and noise eps_k of mean zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from fastgrad.shrinkage_model.problems import KINDS, Array, Problems, generators, log_uniform
from fastgrad.theory import Constants, Moments

QS = ("constant", "uniform", "two-point")
NOISES = ("none", "gaussian", "rounding")


@dataclass
class Treatment:
    """g -> q g + eps, per problem.

    q: ``constant`` q_min (= q_max), ``uniform`` in [q_min, q_max], or ``two-point``: q_min with probability
    ``p_low``, else q_max; independent of g, new at every step and repetition, one for all elements.

    eps: ``none``; ``gaussian``, E|eps|^2 = s_e2 split evenly over the elements; ``rounding``: q g is rounded
    stochastically to multiples of a fixed grid h, which is unbiased given q g and has E|eps|^2 <= d h^2 / 4 = s_e2.
    """

    q: list[str]  # [N], of QS
    q_min: Array  # [N]
    q_max: Array  # [N]
    p_low: Array  # [N]
    noise: list[str]  # [N], of NOISES
    s_e2: Array  # [N], ([F]/[w])^2

    def __post_init__(self) -> None:
        for names, known, what in ((self.q, QS, "q"), (self.noise, NOISES, "noise")):
            wrong = sorted(set(names) - set(known))
            if wrong:
                raise ValueError(f"{what} is one of {', '.join(known)}; got {', '.join(map(repr, wrong))}")
        self._two_point = np.array([name == "two-point" for name in self.q])
        self._gaussian = np.array([name == "gaussian" for name in self.noise])
        self._rounding = np.array([name == "rounding" for name in self.noise])

    def __call__(self, g: Array, rng: Generator) -> Array:  # [N, R, d] of [N, R, d]
        shrunk = self.factors(g.shape[1], rng)[..., None] * g
        some = self._gaussian
        if some.any():
            deviation = np.sqrt(self.s_e2[some] / g.shape[2])[:, None, None]
            shrunk[some] += deviation * rng.standard_normal(shrunk[some].shape)
        some = self._rounding
        if some.any():
            grid = 2 * np.sqrt(self.s_e2[some] / g.shape[2])[:, None, None]
            shrunk[some] = grid * np.floor(shrunk[some] / grid + rng.uniform(size=shrunk[some].shape))
        return shrunk

    def factors(self, repetitions: int, rng: Generator) -> Array:  # [N, R]
        u = rng.uniform(size=(len(self.q), repetitions))
        low, high = self.q_min[:, None], self.q_max[:, None]
        two_point = np.where(u < self.p_low[:, None], low, high)
        return np.where(self._two_point[:, None], two_point, low + (high - low) * u)

    def moments(self, i: int) -> Moments:
        """E[q] and E[q^2] of problem i."""
        low, high = float(self.q_min[i]), float(self.q_max[i])
        if self.q[i] == "constant":
            return Moments.constant(low)
        return Moments.uniform(low, high) if self.q[i] == "uniform" else Moments.two_point(low, high, self.p_low[i])


def full_precision(count: int) -> Treatment:
    ones = np.ones(count)
    return Treatment(["constant"] * count, ones, ones, ones, ["none"] * count, 0 * ones)


def constant(count: int, q: float, s_e2: float = 0.0) -> Treatment:
    """The same constant q for all, with Gaussian noise where s_e2 > 0."""
    ones = np.ones(count)
    return Treatment(
        ["constant"] * count, q * ones, q * ones, ones, ["gaussian" if s_e2 else "none"] * count, s_e2 * ones
    )


def treatments(seed: int, problems: Problems) -> Treatment:
    """Every kind of q with every kind of noise in turn; q_min 0.15 to 1; s_e2 from 1/100 to 10 times q_max^2 s2."""
    count = len(problems.start)
    q, noise = [QS[i % 3] for i in range(count)], [NOISES[i // 3 % 3] for i in range(count)]
    q_min, q_max, p_low, s_e2 = (np.zeros(count) for _ in range(4))
    for i, rng in enumerate(generators(seed, 100 + KINDS.index(problems.name), count)):
        q_min[i] = log_uniform(rng, 0.15, 1)
        q_max[i] = q_min[i] if q[i] == "constant" else rng.uniform(q_min[i], 1)
        p_low[i] = rng.uniform(0.1, 0.95)
        s_e2[i] = log_uniform(rng, 0.01, 10) * q_max[i] ** 2 * problems.s2[i] * (noise[i] != "none")
    return Treatment(q, q_min, q_max, p_low, noise, s_e2)


def constants(problems: Problems, treatment: Treatment) -> list[Constants]:
    """What ``fastgrad.theory`` wants to know, for every problem."""
    return [
        Constants(
            L=float(problems.L[i]),
            s2=float(problems.s2[i]),
            q_min=float(treatment.q_min[i]),
            q_max=float(treatment.q_max[i]),
            s_e2=float(treatment.s_e2[i]),
            c=None if problems.c is None else float(problems.c[i]),
        )
        for i in range(len(problems.start))
    ]
