"""The constants that the problems state are theirs: checked without the formulas that state them."""

from __future__ import annotations

import numpy as np
import pytest

from fastgrad.shrinkage_model import problems
from fastgrad.shrinkage_model.treatment import Treatment, constant, full_precision, treatments

COUNT = 12
MAKE = {
    "quadratic": problems.quadratics,
    "logistic": problems.logistic_regressions,
    "robust": problems.robust_regressions,
}


@pytest.fixture(params=MAKE)
def some(request):
    return MAKE[request.param](5, COUNT)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def around(some, rng, repetitions=40):
    """Points from near the start to far away, [N, R, d]."""
    spread = np.geomspace(0.01, 10, repetitions)[:, None]
    return some.start[:, None] + spread * rng.standard_normal((COUNT, repetitions, some.start.shape[1]))


def test_gradient_is_the_slope_of_the_gap(some, rng):
    w = around(some, rng)
    direction = rng.standard_normal(w.shape)
    h = 1e-5
    slope = (some.gap(w + h * direction) - some.gap(w - h * direction)) / (2 * h)
    expected = (some.gradient(w) * direction).sum(-1)
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_curvature_lies_between_c_and_l(some, rng):
    w = around(some, rng)
    h = 1e-5
    hessian = np.stack(
        [(some.gradient(w + h * e) - some.gradient(w - h * e)) / (2 * h) for e in np.eye(w.shape[-1])], -1
    )
    curvature = np.linalg.eigvalsh((hessian + hessian.swapaxes(-1, -2)) / 2)
    assert (np.abs(curvature) <= some.L[:, None, None] * (1 + 1e-6)).all()
    # and L is no gross overestimate: it is reached to a few hundredths near where every sample curves most
    if some.name == "quadratic":
        np.testing.assert_allclose(curvature[..., -1], np.repeat(some.L[:, None], 40, 1), rtol=1e-6)
    if some.c is None:
        assert (curvature < -0.01).any()  # it is not convex
    else:
        assert (curvature >= some.c[:, None, None] * (1 - 1e-5)).all()


def test_gap_is_zero_at_the_minimum_and_positive_elsewhere(some, rng):
    if some.c is None:
        assert (some.gap(around(some, rng)) > 0).all()
        return
    optimum = some.optimum[:, None]
    assert np.abs(some.gradient(optimum)).max() < 1e-12
    assert np.abs(some.gap(optimum)).max() < 1e-14
    nearby = optimum + 1e-3 * rng.standard_normal((COUNT, 30, some.start.shape[1]))
    assert (some.gap(nearby) > 0).all()
    # Polyak-Lojasiewicz, which is what the bounds use
    w = around(some, rng)
    assert ((some.gradient(w) ** 2).sum(-1) >= 2 * some.c[:, None] * some.gap(w) * (1 - 1e-9)).all()


def test_samples_are_unbiased_with_variance_below_s2(some, rng):
    draws = 4000
    for w in (some.start, 0.1 * some.start):
        g = some.sample(np.repeat(w[:, None], draws, axis=1), rng)
        noise = g - some.gradient(w[:, None])
        variance = (noise**2).sum(-1).mean(-1)
        assert (variance <= some.s2 * 1.2).all()
        assert (np.linalg.norm(noise.mean(1), axis=-1) <= 5 * np.sqrt(variance / draws)).all()
        if some.name == "quadratic":
            np.testing.assert_allclose(variance, some.s2, rtol=0.15)


@pytest.mark.parametrize("kind", ["logistic", "robust"])
def test_variance_of_samples_is_below_s2_at_the_worst_points_found(kind, rng):
    """Enumerated over the samples, not drawn, far and near."""
    some = MAKE[kind](5, COUNT)
    w = around(some, rng)
    if kind == "logistic":
        slope = -1 / (1 + np.exp(w @ some.rows.swapaxes(1, 2)))
    else:
        r = w @ some.rows.swapaxes(1, 2) - some.targets[:, None]
        slope = 2 * r / (1 + r * r) ** 2
    each = slope[..., None] * some.rows[:, None]  # [N, R, n, d]: the gradient of every sample, without c w
    variance = ((each - each.mean(2, keepdims=True)) ** 2).sum(-1).mean(-1) / some.batch
    assert (variance <= some.s2[:, None]).all()
    assert (variance.max(1) > 0.1 * some.s2).all()  # and s2 is of the right size


def test_slope_of_the_robust_loss_is_bounded_as_said():
    r = np.linspace(-20, 20, 400_001)
    slope = 2 * r / (1 + r * r) ** 2
    curvature = 2 * (1 - 3 * r * r) / (1 + r * r) ** 3
    assert (slope**2).max() == pytest.approx(81 / 192, rel=1e-7)
    assert curvature.max() == 2
    assert -0.5 - 1e-9 <= curvature.min() < -0.499
    np.testing.assert_allclose(np.gradient(r * r / (1 + r * r), r)[1:-1], slope[1:-1], atol=1e-7)


def test_a_problem_does_not_depend_on_how_many_there_are():
    for make in MAKE.values():
        few, many = make(7, 3), make(7, 6)
        np.testing.assert_array_equal(few.start, many.start[:3])
        np.testing.assert_allclose(few.L, many.L[:3], rtol=1e-12)
        assert not np.array_equal(make(8, 3).start, few.start)


def test_exact_spectrum_of_the_quadratics():
    some = problems.quadratics(1, COUNT)
    np.testing.assert_allclose(np.linalg.eigvalsh(some.hessian), some.eigenvalues, rtol=1e-10)
    np.testing.assert_allclose(some.noise_along_eigenvectors().sum(1), some.s2)
    x = some.start_along_eigenvectors()
    np.testing.assert_allclose((some.eigenvalues * x**2).sum(1) / 2, some.gap(some.start[:, None])[:, 0])


# --------------------------------------------------------------------------------------------------- treatment


def test_treatment_is_q_g_plus_noise_of_mean_zero_and_known_variance(rng):
    some = problems.quadratics(2, 9)
    treated = treatments(2, some)
    assert {*zip(treated.q, treated.noise, strict=True)} == {
        (q, noise) for q in ("constant", "uniform", "two-point") for noise in ("none", "gaussian", "rounding")
    }
    draws = 20_000
    g = np.repeat(some.gradient(some.start[:, None]), draws, axis=1)
    out = treated(g, rng)
    for i in range(9):
        moments, s2 = treated.moments(i), treated.s_e2[i]
        q = (out[i] @ g[i, 0]) / (g[i, 0] @ g[i, 0])
        along = s2 / (g[i, 0] @ g[i, 0])  # at most this much variance of q is noise
        spread = np.sqrt((moments.square - moments.mean**2 + along) / draws)
        assert abs(q.mean() - moments.mean) <= 5 * spread + 1e-12
        if treated.noise[i] == "none":
            assert treated.q_min[i] - 1e-12 <= q.min() <= q.max() <= treated.q_max[i] + 1e-12
            assert (q**2).mean() == pytest.approx(moments.square, rel=0.03)
        if treated.q[i] == "constant":
            noise = out[i] - treated.q_min[i] * g[i]
            assert (noise**2).sum(-1).mean() <= s2 * 1.03
            if treated.noise[i] == "gaussian":
                assert (noise**2).sum(-1).mean() == pytest.approx(s2, rel=0.03)


def test_rounding_lands_on_the_grid_and_nowhere_else(rng):
    treated = Treatment(["constant"], *(np.array([x]) for x in (0.5, 0.5, 1.0)), ["rounding"], np.array([2.0]))
    g = rng.standard_normal((1, 5000, 8))
    out = treated(g, rng)
    grid = 2 * np.sqrt(2.0 / 8)
    np.testing.assert_allclose(out / grid, np.rint(out / grid), atol=1e-12)
    assert np.abs(out - 0.5 * g).max() < grid
    assert np.abs((out - 0.5 * g).mean((0, 1))).max() < 5 * grid / 2 / np.sqrt(5000)


def test_constant_and_full_precision(rng):
    g = rng.standard_normal((2, 3, 4))
    np.testing.assert_array_equal(full_precision(2)(g, rng), g)
    np.testing.assert_array_equal(constant(2, 0.25)(g, rng), 0.25 * g)


def test_unknown_kinds_are_refused():
    one = np.ones(1)
    with pytest.raises(ValueError, match=r"q is one of constant, uniform, two-point; got 'beta'"):
        Treatment(["beta"], one, one, one, ["none"], one)
    with pytest.raises(ValueError, match=r"noise is one of none, gaussian, rounding; got 'cauchy'"):
        Treatment(["constant"], one, one, one, ["cauchy"], one)
