"""100 random convex problems and 40 smooth ones against bounds (1) to (4); wrong bounds are found out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fastgrad import theory
from fastgrad.shrinkage_model import bounded, problems
from fastgrad.shrinkage_model.treatment import constant, treatments
from fastgrad.shrinkage_model.verdicts import HOLDS, UNDECIDED, VIOLATED, Measured, z_of

SEED = 20
MAKE = {
    "quadratic": problems.quadratics,
    "logistic": problems.logistic_regressions,
    "robust": problems.robust_regressions,
}
# family, bound, problems: 50 + 50 convex ones under each of (1) and (2)
RUNS = [
    ("quadratic", "(1)", 50),
    ("logistic", "(1)", 50),
    ("quadratic", "(2)", 50),
    ("logistic", "(2)", 50),
    ("robust", "(3)", 20),
    ("quadratic", "(3)", 20),
    ("robust", "(4)", 20),
    ("quadratic", "(4)", 20),
]


def run(family, bound, count, treated=None, steps=250, repetitions=200):
    some = MAKE[family](SEED, count)
    treated = treatments(SEED, some) if treated is None else treated
    return bounded.experiment(bound, some, treated, count=steps, repetitions=repetitions, seed=SEED)


@pytest.mark.parametrize(("family", "bound", "count"), RUNS)
def test_measured_is_below_the_bound_in_every_run(family, bound, count):
    found = run(family, bound, count)
    measured = found.measured
    assert measured.mean.shape[0] == count
    assert measured.below.all()
    z = z_of(len(RUNS) * measured.mean.size)
    assert not (measured.verdicts(z) == VIOLATED).any()
    # Not by being so far away that anything would do: the largest quotient after the start
    assert measured.ratio[:, measured.at > 1].max() > 0.05
    # All kinds of treatment took part.
    assert {*zip(found.treatment.q, found.treatment.noise, strict=True)} >= {
        ("constant", "none"),
        ("uniform", "gaussian"),
        ("two-point", "rounding"),
    }


@pytest.mark.parametrize("bound", ["(1)", "(2)", "(3)", "(4)"])
def test_simulation_agrees_with_the_exact_expectation_and_that_is_below_the_bound(bound):
    found = run("quadratic", bound, 18, steps=120, repetitions=300)
    known = ~np.isnan(found.exact)
    assert known.all(1).sum() == 12  # all but those that are rounded
    assert (found.exact <= found.measured.bound * (1 + 1e-12))[known].all()
    moving = known & (found.measured.error > 1e-9 * found.measured.mean)
    strayed = (found.measured.mean - found.exact)[moving] / found.measured.error[moving]
    # A mean of squares is skewed: its normal quotient strays a little farther than a normal one.
    assert np.abs(strayed).max() < 6
    assert 0.6 < np.sqrt((strayed**2).mean()) < 1.5
    np.testing.assert_allclose(found.measured.mean[known & ~moving], found.exact[known & ~moving], rtol=1e-9)


# ------------------------------------------------------------------ bounds that are wrong are found out


def wrong(found, formula):
    """The same measurements against another bound, by the same check: how many problems violate it."""
    gap = found.problems.gap(found.problems.start[:, None])[:, 0]
    limits = [formula(*each) for each in zip(found.constants, found.chosen, found.steps, gap, strict=True)]
    other = dataclasses.replace(found.measured, bound=np.array(limits))
    return (other.verdicts(z_of(found.measured.mean.size)) == VIOLATED).any(1).sum()


def test_a_rate_without_q_min_is_found_out():
    found = run("quadratic", "(1)", 20, constant(20, 0.2))
    at = found.measured.at

    def formula(known, chosen, steps, gap):
        floor = theory.bound_floor(known, chosen["step"])
        return np.maximum(0, 1 - known.c * chosen["step"]) ** (at - 1) * gap + floor

    assert wrong(found, formula) >= 5


def test_a_floor_without_the_noise_of_quantization_is_found_out():
    found = run("quadratic", "(1)", 20, constant(20, 0.2, s_e2=1e5))

    def formula(known, chosen, steps, gap):
        quiet = dataclasses.replace(known, s_e2=0)
        return theory.strongly_convex_fixed_step(quiet, chosen["step"], gap, found.measured.at)

    assert wrong(found, formula) >= 15


def isotropic(count):
    """Quadratics with c = L that start near their minimum: what is left is noise, and the bounds are near it."""
    some = problems.quadratics(SEED, count)
    level, eye = some.L[:, None], np.eye(some.start.shape[1])
    return dataclasses.replace(
        some,
        hessian=level[:, :, None] * eye,
        eigenvalues=level + np.zeros_like(some.eigenvalues),
        basis=eye + np.zeros_like(some.basis),
        start=some.optimum + 0.01 * (some.start - some.optimum),
    )


def test_a_nu_without_q_min_is_found_out():
    found = bounded.experiment("(2)", isotropic(20), constant(20, 0.2), count=250, repetitions=100, seed=SEED)
    assert not (found.measured.verdicts(z_of(240)) == VIOLATED).any()

    def formula(known, chosen, steps, gap):
        beta, gamma = chosen["beta"], chosen["gamma"]
        nu = max(beta**2 * known.L * known.S / (2 * (beta * known.c - 1)), (gamma + 1) * gap)
        return nu / (gamma + found.measured.at)

    assert wrong(found, formula) >= 15


@pytest.mark.parametrize("bound", ["(3)", "(4)"])
@pytest.mark.parametrize("make", [isotropic, lambda count: problems.quadratics(SEED, count)], ids=["noise", "drop"])
def test_a_mean_squared_gradient_without_q_min_is_found_out(make, bound):
    found = bounded.experiment(bound, make(20), constant(20, 0.1), count=60, repetitions=100, seed=SEED)
    assert not (found.measured.verdicts(z_of(240)) == VIOLATED).any()

    def formula(known, chosen, steps, gap):
        return known.q_min * bounded.evaluate(bound, known, chosen, steps, float(gap), found.measured.at)

    assert wrong(found, formula) >= 15


def test_what_a_verdict_says():
    mean, error = np.array([[1.0, 1.0, 1.0]]), np.array([[0.1, 0.1, 0.1]])
    measured = Measured(np.arange(3), mean, error, np.array([[1.5, 1.1, 0.5]]), 10)
    assert measured.verdicts(3.0).tolist() == [[HOLDS, UNDECIDED, VIOLATED]]
    assert measured.below.tolist() == [[True, True, False]]
    # a run that diverged is no run that holds
    lost = Measured(np.arange(1), np.full((1, 1), np.nan), np.full((1, 1), np.nan), np.ones((1, 1)), 10)
    assert lost.verdicts(5.0).tolist() == [[VIOLATED]]
    assert not lost.below.any()
    # a value that equals its bound but for the rounding is below it
    equal = Measured(np.arange(1), np.ones((1, 1)), np.zeros((1, 1)), np.full((1, 1), 1 - 1e-15), 10)
    assert equal.verdicts(5.0).tolist() == [[HOLDS]]


def test_z_makes_all_comparisons_together_err_with_one_in_a_thousand():
    assert z_of(1) == pytest.approx(3.0902, abs=1e-4)
    assert z_of(1000) == pytest.approx(4.7534, abs=1e-4)


def test_runs_are_reproducible_and_depend_on_the_seed():
    some = problems.quadratics(1, 4)

    def means(seed):
        return bounded.experiment("(1)", some, treatments(1, some), count=20, repetitions=10, seed=seed).measured.mean

    np.testing.assert_array_equal(means(3), means(3))
    assert not np.array_equal(means(3)[:, 1:], means(4)[:, 1:])
