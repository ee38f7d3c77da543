"""Measured against bounds (1) to (4) of ``fastgrad.theory``, each with steps drawn within what it allows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.random import SeedSequence, default_rng

from fastgrad import theory
from fastgrad.shrinkage_model import paths
from fastgrad.shrinkage_model.problems import (
    KINDS,
    Array,
    Problems,
    Quadratics,
    generators,
    log_uniform,
)
from fastgrad.shrinkage_model.treatment import Treatment, constants
from fastgrad.shrinkage_model.verdicts import Measured

BOUNDS = {
    "(1)": "strongly convex, fixed step",
    "(2)": "strongly convex, mu_k = beta/(gamma + k)",
    "(3)": "any smooth loss, fixed step",
    "(4)": "any smooth loss, mu_k = mu_1/k^p",
}


@dataclass
class Experiment:
    """N problems of one kind, one treatment each, one bound: what it says and what was measured."""

    bound: str  # key of BOUNDS
    problems: Problems
    treatment: Treatment
    constants: list[theory.Constants]  # [N]
    steps: Array  # [N, K]
    chosen: list[dict[str, float]]  # [N]: step, or beta and gamma, or the exponent
    measured: Measured
    exact: Array = field(default_factory=lambda: np.empty(0))  # [N, M], NaN where it is not known


def experiment(
    bound: str,
    problems: Problems,
    treatment: Treatment,
    *,
    count: int,
    repetitions: int,
    seed: int,
) -> Experiment:
    """Run ``count`` steps of every problem, ``repetitions`` times, and hold the means against one bound.

    Every second problem takes the largest steps that the bound allows, the others a tenth of them or more.
    """
    known = constants(problems, treatment)
    drawn = generators(seed, 200 + 10 * KINDS.index(problems.name) + int(bound[1]), len(known) + 1)
    chosen = [CHOOSE[bound](known[i], i, drawn[i]) for i in range(len(known))]
    steps = np.array([_steps(bound, known[i], chosen[i], count) for i in range(len(known))])
    iterates = paths.path(problems, treatment, steps, repetitions, default_rng(_entropy(seed, problems, bound)))
    first_gap = problems.gap(problems.start[:, None])[:, 0]
    if bound in ("(1)", "(2)"):
        at = paths.checkpoints(count + 1)
        values = paths.gaps(problems, iterates, at)
    else:
        at = paths.checkpoints(count)
        values = paths.mean_squared_gradients(problems.gradient, iterates, steps, at)
    limits = [evaluate(bound, known[i], chosen[i], steps[i], float(first_gap[i]), at) for i in range(len(known))]
    measured = Measured.of(at, values, np.array(limits))
    return Experiment(
        bound, problems, treatment, known, steps, chosen, measured, _exact(bound, problems, treatment, steps, at)
    )


def evaluate(
    bound: str, known: theory.Constants, chosen: dict[str, float], steps: Array, gap: float, at: Array
) -> Array:
    """The bound at the checkpoints: [M]."""
    if bound == "(1)":
        return np.asarray(theory.strongly_convex_fixed_step(known, chosen["step"], gap, at))
    if bound == "(2)":
        return np.asarray(theory.strongly_convex_decreasing_step(known, chosen["beta"], chosen["gamma"], gap, at))
    if bound == "(3)":
        return np.asarray(theory.nonconvex_fixed_step(known, chosen["step"], gap, at))
    return theory.nonconvex_decreasing_steps(known, steps, gap)[at - 1]


def _fixed(known: theory.Constants, i: int, rng: np.random.Generator) -> dict[str, float]:
    return {"step": theory.largest_step(known) * (1.0 if i % 2 == 0 else log_uniform(rng, 0.1, 1))}


def _decreasing(known: theory.Constants, i: int, rng: np.random.Generator) -> dict[str, float]:
    beta = theory.smallest_beta(known) * rng.uniform(1.1, 4)
    gamma = theory.smallest_gamma(known, beta)
    return {"beta": beta, "gamma": gamma if i % 2 == 0 else gamma + (gamma + 1) * rng.uniform(0, 3)}


def _power(known: theory.Constants, i: int, rng: np.random.Generator) -> dict[str, float]:
    return _fixed(known, i, rng) | {"exponent": rng.uniform(0.55, 1)}


CHOOSE = {"(1)": _fixed, "(2)": _decreasing, "(3)": _fixed, "(4)": _power}


def _steps(bound: str, known: theory.Constants, chosen: dict[str, float], count: int) -> Array:
    if bound == "(2)":
        return theory.decreasing_steps(chosen["beta"], chosen["gamma"], count)
    if bound == "(4)":
        return theory.power_steps(known, chosen["step"], chosen["exponent"], count)
    return np.full(count, chosen["step"])


def _entropy(seed: int, problems: Problems, bound: str) -> SeedSequence:
    return SeedSequence(seed, spawn_key=(1000 + KINDS.index(problems.name), int(bound[1])))


def _exact(bound: str, problems: Problems, treatment: Treatment, steps: Array, at: Array) -> Array:  # [N, M]
    """The expectation itself, for quadratics whose noise does not depend on the iterate; else NaN."""
    exact = np.full((len(steps), len(at)), np.nan)
    if not isinstance(problems, Quadratics):
        return exact
    starts, noises = problems.start_along_eigenvectors(), problems.noise_along_eigenvectors()
    for i in range(len(steps)):
        if treatment.noise[i] == "rounding":
            continue
        each = treatment.s_e2[i] / starts.shape[1]
        gap, squared = theory.expected_path(
            problems.eigenvalues[i], starts[i], steps[i], treatment.moments(i), noises[i], each
        )
        if bound in ("(1)", "(2)"):
            exact[i] = gap[at - 1]
        else:
            exact[i] = (np.cumsum(steps[i] * squared[:-1]) / np.cumsum(steps[i]))[at - 1]
    return exact
