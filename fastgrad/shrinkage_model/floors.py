"""What shrinkage does to floors, times and rates, on quadratics where the expectation is known exactly.

The finding to be honest about: constant q without noise is full precision with step q mu, so its floor is
**lower**, not higher. A higher floor needs eps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import SeedSequence, default_rng

from fastgrad import theory
from fastgrad.shrinkage_model import paths, treatment
from fastgrad.shrinkage_model.problems import Quadratics

FACTORS = (1.0, 0.5, 0.25, 0.125)
DIM = 20


@dataclass(frozen=True)
class Floor:
    """The gap that is left at a fixed step, [F]."""

    q: float
    s_e2: float  # in units of s2
    step: float  # in units of 1/L
    measured: float  # mean over repetitions and over the settled part of the path
    error: float  # its standard error, over repetitions
    exact: float
    bound: float  # theory.bound_floor


def quadratic_of_floors(count: int) -> Quadratics:
    """``count`` times the same: 20 dimensions, L = 1, c = 1/10, eigenvalues evenly spaced in their logarithm, s2 = 1.

    The noise is spread evenly over the eigenvectors, which are the axes; the start is the minimum.
    """
    spectrum, eye = np.tile(np.geomspace(0.1, 1, DIM), (count, 1)), np.tile(np.eye(DIM), (count, 1, 1))
    zero = np.zeros((count, DIM))
    return Quadratics(spectrum[:, :, None] * eye, eye / DIM**0.5, zero, zero, spectrum, eye)


def floors(seed: int, repetitions: int, *, settle: int = 800, average: int = 400) -> list[Floor]:
    """At the step mu = 1/(2L), and with the step compensated to mu/q; without eps, and with E|eps|^2 = s2/4.

    At the smallest q mu c = 1/160 all but e^-10 of the floor is there after ``settle`` steps.
    """
    cases = [(q, s_e2, 0.5 / q if compensated else 0.5)
             for compensated in (False, True) for s_e2 in (0.0, 0.25) for q in FACTORS]  # fmt: skip
    q, s_e2, step = np.array(cases).T
    treated = treatment.Treatment(
        ["constant"] * len(q), q, q, np.ones(len(q)), ["gaussian" if e else "none" for e in s_e2], s_e2
    )
    problem, steps = quadratic_of_floors(len(q)), np.repeat(step[:, None], settle + average, axis=1)
    iterates = paths.path(problem, treated, steps, repetitions, default_rng(SeedSequence(seed, spawn_key=(2000,))))
    means = paths.gaps(problem, iterates, np.arange(settle + 2, settle + average + 2)).mean(-1)  # [cases, R]
    known = [theory.Constants(L=1, s2=1, q_min=q, q_max=q, s_e2=s_e2, c=0.1) for q, s_e2, _ in cases]
    return [
        Floor(
            *case,
            measured=float(row.mean()),
            error=float(row.std(ddof=1) / repetitions**0.5),
            exact=theory.noise_floor(
                problem.eigenvalues[0], case[2], theory.Moments.constant(case[0]), 1 / DIM, case[1] / DIM
            ),
            bound=theory.bound_floor(constants, case[2]),
        )
        for case, row, constants in zip(cases, means, known, strict=True)
    ]


@dataclass(frozen=True)
class Slowdown:
    """Steps until the expected gap is a thousandth of the first, without noise."""

    q: float
    steps: int  # at step mu
    compensated: int  # at step mu/q
    ratio: float  # steps over those of q = 1
    bound: float  # theory.slowdown at this step


def slowdowns(step: float = 0.5) -> list[Slowdown]:
    """On the same quadratic, started at 1 along each eigenvector, from the exact expectation."""
    spectrum = quadratic_of_floors(1).eigenvalues[0]
    found: list[Slowdown] = []
    for q in FACTORS:
        counts: list[int] = []
        for mu in (step, step / q):
            gap = theory.expected_path(spectrum, np.ones(DIM), np.full(1000, mu), theory.Moments.constant(q), 0.0)[0]
            counts.append(int(np.argmax(gap <= gap[0] / 1000)))
        constants = theory.Constants(L=1, s2=0, q_min=q, q_max=q, c=0.1)
        first = found[0].steps if found else counts[0]
        found.append(Slowdown(q, counts[0], counts[1], counts[0] / first, theory.slowdown(constants, step)))
    return found


@dataclass(frozen=True)
class Rate:
    """The exponent p of E[F(w_k) - F*] ~ k^-p under mu_k = beta/(gamma + k), between k = 10^3 and 10^4."""

    beta_c_q: float  # bound (2) wants it above 1
    measured: float  # from the exact expectation
    expected: float  # min(1, 2 beta c q)


def rates() -> list[Rate]:
    """One direction, c = L = 1, s2 = 1, constant q = 1/4, start at 10: what too small a beta does."""
    found, q = [], 0.25
    for wanted in (2.0, 1.1, 0.9, 0.4, 0.25, 0.1):
        beta = wanted / q
        steps = theory.decreasing_steps(beta, max(beta * q - 1, 0), 10**4)
        gap = theory.expected_path(1.0, [10.0], steps, theory.Moments.constant(q), 1.0)[0]
        found.append(Rate(wanted, float(-np.log10(gap[10**4 - 1] / gap[10**3 - 1])), min(1.0, 2 * wanted)))
    return found
