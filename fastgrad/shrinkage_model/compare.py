"""The model measured against its bounds, and what else is to be said of it: ``fastgrad shrinkage model``.

``run`` returns what ``model.json`` holds:

    settings     problems, repetitions, steps, seed
    bounds       a row for each bound, problem and step shown: bound, problem, index, rounding, q_min, s_e2, k, measured
                 (mean over the repetitions), error (its standard error), allowed (the bound), holds
    floors       q, s_e2, predicted (fastgrad.theory.quadratic_floor), measured, error: stationary error at a fixed step
    equivalence  largest relative difference between step mu with constant q, and step q mu in full precision
    autoscale    the bound of the projected gradient, and its two limits
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastgrad import theory
from fastgrad.shrinkage_model.autoscale import autoscale
from fastgrad.shrinkage_model.problems import Logistic, Problem, Quadratic, Robust
from fastgrad.shrinkage_model.simulate import Rounding, mean_and_error, sgd

STEPS = 400
EQUAL = 1 + 1e-12  # (2) is met exactly at k = 1: rounding of the same number on two ways


def run(problems: int, repetitions: int, seed: int, each: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Everything; ``each`` is called after every problem."""
    return {
        "settings": {"problems": problems, "repetitions": repetitions, "steps": STEPS, "seed": seed},
        "bounds": list(bounds(problems, repetitions, seed, each)),
        "floors": floors(repetitions, seed),
        "equivalence": equivalence(seed),
        "autoscale": autoscale(repetitions, seed),
    }


def random_rounding(random: np.random.Generator, s2: float) -> Rounding:
    """One of the three kinds; half of them without noise, the others with up to ten times the gradient's variance."""
    kind = ("constant", "uniform", "two_point")[random.integers(3)]
    q_max = random.uniform(0.2, 1)
    q_min = q_max if kind == "constant" else q_max * random.uniform(0.2, 1)
    s_e2 = 0.0 if random.random() < 0.5 else s2 * 10 ** random.uniform(-2, 1)
    return Rounding(kind, q_min, q_max, s_e2)


def constants(problem: Problem, rounding: Rounding) -> theory.Constants:
    return theory.Constants(
        problem.L, problem.s2, rounding.q_min, rounding.q_max, rounding.s_e2, getattr(problem, "c", None)
    )


def bounds(
    problems: int, repetitions: int, seed: int, each: Callable[[], object] = lambda: None
) -> Iterator[dict[str, Any]]:
    """(1) and (2) on ``problems`` random quadratics and logistic regressions, (3) and (4) on robust regressions."""
    for index in range(problems):
        for kind in (Quadratic, Logistic, Robust):
            random = np.random.default_rng((seed, index, (Quadratic, Logistic, Robust).index(kind)))
            problem = kind.random(random)
            rounding = random_rounding(random, problem.s2)
            check = _nonconvex if kind is Robust else _convex
            for bound, k, measured, error, allowed in check(problem, rounding, repetitions, random):
                yield {
                    "bound": bound, "problem": problem.name, "index": index, "rounding": rounding.kind,
                    "q_min": rounding.q_min, "s_e2": rounding.s_e2, "k": int(k), "measured": float(measured),
                    "error": float(error), "allowed": float(allowed), "holds": bool(measured <= allowed * EQUAL),
                }  # fmt: skip
        each()


Row = tuple[str, float, float, float, float]  # bound, k, measured, error, allowed


def _convex(problem: Problem, rounding: Rounding, repetitions: int, random: np.random.Generator) -> Iterator[Row]:
    given = constants(problem, rounding)
    gap = float(problem.value(problem.start[None])[0] - problem.infimum)
    mu = given.largest_step * random.uniform(0.05, 1)
    trace = sgd(problem, rounding, np.full(STEPS, mu), repetitions, random)
    allowed = theory.strongly_convex_fixed_step(given, mu, gap, trace.k)
    yield from zip(["(1)"] * len(trace.k), trace.k, *mean_and_error(trace.gap), allowed, strict=True)

    beta = given.smallest_beta * random.uniform(1.2, 4)
    gamma = max(0.0, beta / given.largest_step - 1)
    trace = sgd(problem, rounding, beta / (gamma + np.arange(1, STEPS + 1)), repetitions, random)
    allowed = theory.strongly_convex_decreasing_step(given, beta, gamma, gap, trace.k)
    yield from zip(["(2)"] * len(trace.k), trace.k, *mean_and_error(trace.gap), allowed, strict=True)


def _nonconvex(problem: Problem, rounding: Rounding, repetitions: int, random: np.random.Generator) -> Iterator[Row]:
    given = constants(problem, rounding)
    gap = float(problem.value(problem.start[None])[0] - problem.infimum)
    mu = given.largest_step * random.uniform(0.05, 1)
    count = np.arange(1, STEPS + 1)
    shown = np.unique(np.geomspace(1, STEPS, 12).round().astype(int)) - 1
    for bound, steps in (("(3)", np.full(STEPS, mu)), ("(4)", given.largest_step / count**0.6)):
        trace = sgd(problem, rounding, steps, repetitions, random, gradients=True)
        average = np.cumsum(steps[:, None] * trace.gradient2, 0) / np.cumsum(steps)[:, None]  # [K, R]
        if bound == "(3)":
            allowed = theory.nonconvex_fixed_step(given, mu, gap, count)
        else:
            allowed = theory.nonconvex_decreasing_steps(given, steps, gap)
        mean, error = mean_and_error(average)
        yield from zip([bound] * len(shown), count[shown], mean[shown], error[shown], allowed[shown], strict=True)


def floors(repetitions: int, seed: int) -> list[dict[str, float]]:
    """Stationary error of one quadratic at one fixed step, for q = 1, 1/2, 1/4, without and with rounding noise.

    Without noise it falls with q, with noise of the gradient's size it rises: a higher floor needs s_e2 > 0.
    """
    rows = []
    for s_e2 in (0.0, 1.0):
        for q in (1.0, 0.5, 0.25):
            random = np.random.default_rng((seed, 1))
            problem = Quadratic(np.geomspace(0.1, 1, 20), 1.0, np.zeros(20))
            mu, rounding = np.full(1500, 0.3), Rounding("constant", q, q, s_e2)
            trace = sgd(problem, rounding, mu, 4 * repetitions, random, points=2)
            measured, error = mean_and_error(trace.gap[-1])
            predicted = theory.quadratic_floor(problem.eigenvalues, mu[0], q, problem.s2, s_e2)
            rows.append({"q": q, "s_e2": s_e2, "predicted": predicted, "measured": float(measured),
                         "error": float(error)})  # fmt: skip
    return rows


def equivalence(seed: int) -> float:
    """Largest |w - w'| / |w| after 100 steps on 20 problems: w with shrinkage q and step mu, w' in full precision with
    step q mu, the same samples. It is rounding of float64 alone; with q a power of two it is 0."""
    worst = 0.0
    for index in range(20):
        random = np.random.default_rng((seed, index))
        problem, q = Logistic.random(random), random.uniform(0.05, 1)
        mu = 1 / problem.L
        ends = [
            final_weights(problem, Rounding("constant", shrunk, shrunk), step, 100, seed)
            for shrunk, step in ((q, mu), (1.0, q * mu))
        ]
        worst = max(worst, float(np.abs(ends[0] - ends[1]).max() / np.abs(ends[0]).max()))
    return worst


def final_weights(problem: Problem, rounding: Rounding, mu: float, steps: int, seed: int) -> np.ndarray:  # [d]
    random, w = np.random.default_rng(seed), problem.start[None]
    for _ in range(steps):
        w = w - mu * rounding.apply(problem.sample(w, random), random)
    return w[0]
