"""Constant q is a smaller step and nothing else; the floor falls with it, and rises where noise is added."""

from __future__ import annotations

import numpy as np
import pytest

from fastgrad import theory
from fastgrad.shrinkage_model import floors, paths, problems
from fastgrad.shrinkage_model.treatment import constant, full_precision

MAKE = {
    "quadratic": problems.quadratics,
    "logistic": problems.logistic_regressions,
    "robust": problems.robust_regressions,
}


def final(some, treated, steps):
    *_, (_, w) = paths.path(some, treated, steps, 20, np.random.default_rng(6))
    return w


@pytest.mark.parametrize("schedule", ["fixed", "decreasing"])
@pytest.mark.parametrize("q", [0.5, 0.25, 0.3])
@pytest.mark.parametrize("kind", MAKE)
def test_constant_q_with_step_mu_is_full_precision_with_step_q_mu(kind, q, schedule):
    some = MAKE[kind](4, 6)
    steps = 1 / (some.L[:, None] * np.ones(200))
    if schedule == "decreasing":
        steps = steps / np.arange(1, 201) ** 0.6
    shrunk, smaller = final(some, constant(6, q), steps), final(some, full_precision(6), q * steps)
    assert np.abs(shrunk - some.start[:, None]).max() > 0.1
    if q == 0.3:
        np.testing.assert_allclose(shrunk, smaller, rtol=1e-10, atol=1e-12)
    else:  # a power of two: mu (q g) and (mu q) g are the same number
        np.testing.assert_array_equal(shrunk, smaller)


@pytest.fixture(scope="module")
def found():
    return floors.floors(1, 60)


def of(found, s_e2, compensated=False):
    """{q: row}."""
    return {
        row.q: row
        for row in found
        if row.s_e2 == s_e2 and (row.step == pytest.approx(0.5 / row.q if compensated else 0.5))
    }


def test_measured_floors_are_the_exact_ones_and_below_the_bound(found):
    assert len(found) == 16
    for row in found:
        assert abs(row.measured - row.exact) < 4 * row.error
        assert row.error < 0.06 * row.exact
        assert row.measured + 6 * row.error < row.bound


def test_the_floor_falls_with_constant_q(found):
    rows = of(found, 0.0)
    for higher, lower in ((1.0, 0.5), (0.5, 0.25), (0.25, 0.125)):
        assert rows[lower].measured + 5 * rows[lower].error < rows[higher].measured - 5 * rows[higher].error
        # about in proportion: mu q s2 / 4 to first order
        assert rows[lower].exact / rows[higher].exact == pytest.approx(0.5, abs=0.03)


def test_the_floor_rises_where_noise_is_added(found):
    noisy, quiet = of(found, 0.25), of(found, 0.0)
    for q in floors.FACTORS:
        assert noisy[q].measured > quiet[q].measured + 5 * noisy[q].error
    # lowest at q = s_e/s = 1/2, then higher the smaller q, and higher than that of full precision without noise
    assert min(noisy.values(), key=lambda row: row.measured).q == theory.least_floor_q(1.0, 0.25) == 0.5
    assert noisy[0.125].measured - 5 * noisy[0.125].error > noisy[1.0].measured
    assert noisy[0.125].measured - 5 * noisy[0.125].error > quiet[1.0].measured


def test_a_compensated_step_brings_the_floor_back_but_enlarges_added_noise(found):
    quiet, noisy = of(found, 0.0, compensated=True), of(found, 0.25, compensated=True)
    for q in floors.FACTORS:
        assert quiet[q].exact == pytest.approx(quiet[1.0].exact, rel=1e-12)
        assert noisy[q].exact / quiet[q].exact == pytest.approx(1 + 0.25 / q**2, rel=1e-12)


def test_time_to_a_target_grows_as_one_over_q_and_comes_back_with_the_step():
    for row in floors.slowdowns():
        assert row.ratio == pytest.approx(1 / row.q, rel=0.03)
        assert row.ratio == pytest.approx(row.bound, rel=0.03)
        assert row.compensated == floors.slowdowns()[0].steps


def test_the_rate_is_lost_below_half_of_one_over_c_q():
    rows = floors.rates()
    for row in rows:
        assert row.measured == pytest.approx(row.expected, abs=0.01)
    assert {row.beta_c_q < 0.5 for row in rows} == {True, False}


def test_exact_floor_is_about_mu_q_s2_over_four():
    for q in (1.0, 0.5, 0.25):
        floor = theory.noise_floor([0.1, 1.0], 1e-3, theory.Moments.constant(q), [1.0, 2.0])
        assert floor == pytest.approx(1e-3 * q * 3 / 4, rel=1e-3)
