"""fastgrad.theory: its bounds against exact expectations on quadratics, at their corners, and its refusals."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from fastgrad import theory
from fastgrad.theory import Constants, Moments

QS = {
    "one": (Moments.constant(1.0), 1.0, 1.0),
    "half": (Moments.constant(0.5), 0.5, 0.5),
    "tenth": (Moments.constant(0.1), 0.1, 0.1),
    "uniform": (Moments.uniform(0.2, 1.0), 0.2, 1.0),
    "rarely-low": (Moments.two_point(0.1, 1.0, 0.05), 0.1, 1.0),
    "mostly-low": (Moments.two_point(0.1, 1.0, 0.95), 0.1, 1.0),
    "always-low": (Moments.two_point(0.1, 1.0, 1.0), 0.1, 1.0),
}
COUNT = 120
K = np.arange(1, COUNT + 2)


def corners():
    """(spectrum, noise along it, noise of rounding, moments of q, constants) on two-dimensional quadratics."""
    for kappa, (q, q_min, q_max), noise, s_e2 in itertools.product(
        (1.0, 4.0, 30.0), QS.values(), ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0)), (0.0, 2.0)
    ):
        constants = Constants(L=3.0, c=3.0 / kappa, s2=sum(noise), q_min=q_min, q_max=q_max, s_e2=s_e2)
        # rounding noise, too, where the curvature is largest: the worst place for the first steps
        yield np.array([3.0 / kappa, 3.0]), np.array(noise), np.array([0.0, s_e2]), q, constants


def largest_ratio(name: str) -> float:
    """Largest expectation / bound over corners, steps and starts; beyond 1 the bound is wrong."""
    worst = 0.0
    for spectrum, noise, rounding, q, constants in corners():
        for choice, start in itertools.product((1.0, 0.1), ((1.0, 0.0), (0.0, 0.3))):
            gap = float((spectrum * np.square(start)).sum() / 2)
            largest = theory.largest_step(constants)
            if name == "(2)":
                beta = theory.smallest_beta(constants) * (1 + choice)
                gamma = theory.smallest_gamma(constants, beta) / min(1, 2 * choice)
                steps = theory.decreasing_steps(beta, gamma, COUNT)
                bound = theory.strongly_convex_decreasing_step(constants, beta, gamma, gap, K)
            elif name == "(4)":
                steps = theory.power_steps(constants, choice * largest, 0.6, COUNT)
                bound = theory.nonconvex_decreasing_steps(constants, steps, gap)
            else:
                steps = np.full(COUNT, choice * largest)
                bound = (
                    theory.strongly_convex_fixed_step(constants, steps[0], gap, K)
                    if name == "(1)"
                    else theory.nonconvex_fixed_step(constants, steps[0], gap, K[:-1])
                )
            expected, squared = theory.expected_path(spectrum, start, steps, q, noise, rounding)
            if name in ("(3)", "(4)"):
                expected = np.cumsum(steps * squared[:-1]) / np.cumsum(steps)
            later = slice(1, None)  # at the start (2) is an equation
            assert (expected <= bound * (1 + 1e-12)).all(), (constants, q, choice, start)
            # 0 <= 0 says nothing: no noise, and the minimum reached in one step
            worst = max(worst, (expected[later] / np.where(bound[later] == 0, 1, bound[later])).max())
    return worst


@pytest.mark.parametrize(
    ("name", "at_least"),
    # (1) and (3) are attained: c = L (or all noise at L), constant q, mu = 1/(L q)
    [("(1)", 1 - 1e-9), ("(2)", 0.5), ("(3)", 0.98), ("(4)", 0.5)],
)
def test_expectation_never_exceeds_the_bound_and_comes_near_it(name, at_least):
    assert at_least < largest_ratio(name) <= 1 + 1e-12


def test_one_step_is_an_equation_where_all_curvatures_are_equal():
    constants = Constants(L=2.0, s2=3.0, q_min=0.2, q_max=0.8, s_e2=0.5)
    step = 0.9 * theory.largest_step(constants)
    for q in (0.2, 0.5, 0.8):
        gap, squared = theory.expected_path([2.0, 2.0], [1.0, 0.4], [step], Moments.constant(q), [1.0, 2.0], [0.5, 0.0])
        bound = theory.one_step(constants, step, squared[0], q)
        assert gap[1] - gap[0] == pytest.approx(bound, rel=1e-12)
        assert bound <= theory.one_step(constants, step, squared[0])


def test_one_step_is_a_bound_where_they_are_not():
    constants = Constants(L=2.0, s2=3.0, q_min=0.2, q_max=0.8, s_e2=0.5)
    step = theory.largest_step(constants)
    gap, squared = theory.expected_path([0.3, 2.0], [1.0, 0.4], [step], Moments.uniform(0.2, 0.8), [3, 0], [0, 0.5])
    assert gap[1] - gap[0] < theory.one_step(constants, step, squared[0])


def test_a_fixed_step_is_the_case_of_equal_decreasing_steps():
    constants = Constants(L=2.0, s2=3.0, q_min=0.2, q_max=0.8, s_e2=0.5)
    np.testing.assert_allclose(
        theory.nonconvex_decreasing_steps(constants, np.full(50, 0.3), 7.0),
        theory.nonconvex_fixed_step(constants, 0.3, 7.0, np.arange(1, 51)),
        rtol=1e-12,
    )


def test_power_steps_drive_the_bound_to_zero():
    constants = Constants(L=2.0, s2=3.0, q_min=0.2, q_max=0.8, s_e2=0.5)
    bound = theory.nonconvex_decreasing_steps(constants, theory.power_steps(constants, 0.6, 0.75, 10**6), 7.0)
    assert bound[-1] < 0.02 * bound[0]
    # sum mu_k^2 <= mu_1^2 zeta(1.5) and A_K >= 4 mu_1 (K^(1/4) - 1)
    ceiling = (2 * 7 + 2 * constants.S * 0.6**2 * 2.613) / (0.2 * 4 * 0.6 * (10**6) ** 0.25)
    assert bound[-1] == pytest.approx(ceiling, rel=0.05)


def test_full_precision_is_the_case_of_no_shrinkage():
    constants = Constants(L=2.0, s2=3.0, q_min=0.2, q_max=0.8, s_e2=0.5, c=1.0)
    assert constants.S == pytest.approx(0.64 * 3 + 0.5)
    assert constants.full_precision == Constants(L=2.0, s2=3.0, c=1.0)
    assert constants.full_precision.S == 3


def test_constant_q_alone_is_a_smaller_step_in_the_bounds_too():
    q = 0.3
    shrunk, full = Constants(L=2.0, s2=3.0, q_min=q, q_max=q, c=0.5), Constants(L=2.0, s2=3.0, c=0.5)
    np.testing.assert_allclose(
        theory.strongly_convex_fixed_step(shrunk, 0.5, 4.0, K), theory.strongly_convex_fixed_step(full, q * 0.5, 4.0, K)
    )
    np.testing.assert_allclose(
        theory.strongly_convex_decreasing_step(shrunk, 9.0, 20.0, 4.0, K),
        theory.strongly_convex_decreasing_step(full, q * 9.0, 20.0, 4.0, K),
    )
    np.testing.assert_allclose(
        theory.nonconvex_fixed_step(shrunk, 0.5, 4.0, K), theory.nonconvex_fixed_step(full, q * 0.5, 4.0, K)
    )


def test_choices():
    constants = Constants(L=4.0, s2=1.0, c=0.5, q_min=0.25, q_max=0.5)
    assert theory.largest_step(constants) == 0.5
    assert theory.smallest_beta(constants) == 8
    gamma = theory.smallest_gamma(constants, 10.0)
    assert theory.decreasing_steps(10.0, gamma, 1)[0] == pytest.approx(0.5, rel=1e-15)
    assert theory.bound_floor(constants, 0.5) == pytest.approx(
        theory.strongly_convex_fixed_step(constants, 0.5, 100.0, 10**5)
    )


@pytest.mark.parametrize("gap", [100.0, 1e-3])
def test_steps_to_target_is_the_first_iterate_below_it(gap):
    constants = Constants(L=4.0, s2=0.01, c=0.5, q_min=0.25, q_max=0.5)
    floor = theory.bound_floor(constants, 0.1)
    first = theory.steps_to_target(constants, 0.1, gap, 1.5 * floor)
    bound = theory.strongly_convex_fixed_step(constants, 0.1, gap, np.arange(1, first + 1))
    assert bound[-1] <= 1.5 * floor
    assert (bound[:-1] > 1.5 * floor).all()


def test_time_to_a_target_grows_as_one_over_q_min():
    def steps(q):
        return theory.steps_to_target(Constants(L=1.0, s2=0, c=0.1, q_min=q, q_max=q), 0.05, 1.0, 1e-6)

    for q in (0.5, 0.25, 0.125):
        constants = Constants(L=1.0, s2=0, c=0.1, q_min=q, q_max=q)
        assert steps(q) / steps(1.0) == pytest.approx(theory.slowdown(constants, 0.05), rel=1e-3)
        assert 1 / q <= theory.slowdown(constants, 0.05) < 1.01 / q


def test_noise_floor_is_where_the_expectation_settles():
    spectrum, noise, q = np.array([0.1, 0.5, 2.0]), np.array([1.0, 0.2, 3.0]), Moments.two_point(0.2, 0.9, 0.3)
    gap, _ = theory.expected_path(spectrum, [3.0, 1.0, 0.0], np.full(2000, 0.4), q, noise, 0.1)
    assert gap[-1] == pytest.approx(theory.noise_floor(spectrum, 0.4, q, noise, 0.1), rel=1e-12)


def test_least_floor_is_at_s_e_over_s():
    qs = np.linspace(0.05, 1, 200)
    floors = [theory.noise_floor([1.0], 1e-3, Moments.constant(q), [4.0], [0.36]) for q in qs]
    assert qs[np.argmin(floors)] == pytest.approx(theory.least_floor_q(4.0, 0.36), abs=0.01)
    assert theory.least_floor_q(1.0, 9.0) == 1


def test_moments_are_those_of_the_distributions():
    u = np.random.default_rng(0).uniform(size=10**6)
    for moments, draws in (
        (Moments.uniform(0.2, 0.9), 0.2 + 0.7 * u),
        (Moments.two_point(0.2, 0.9, 0.3), np.where(u < 0.3, 0.2, 0.9)),
    ):
        assert draws.mean() == pytest.approx(moments.mean, abs=2e-3)
        assert (draws**2).mean() == pytest.approx(moments.square, abs=2e-3)


GOOD = Constants(L=2.0, s2=1.0, c=0.5, q_min=0.25, q_max=0.5)  # steps up to 1, beta above 8


def refusals():
    yield "s2 is a finite number", lambda: Constants(L=1, s2=float("nan"))
    yield "L-smooth with L > 0; got L = 0", lambda: Constants(L=0, s2=1)
    yield "s2 >= 0; got s2 = -1", lambda: Constants(L=1, s2=-1)
    yield "s_e2 >= 0; got s_e2 = -0.5", lambda: Constants(L=1, s2=1, s_e2=-0.5)
    yield "q_min > 0; got q_min = 0, q_max = 1", lambda: Constants(L=1, s2=1, q_min=0)
    yield "q_min <= q_max; got q_min = 0.5, q_max = 0.25", lambda: Constants(L=1, s2=1, q_min=0.5, q_max=0.25)
    yield "q_max <= 1 .*got q_min = 1, q_max = 1.5", lambda: Constants(L=1, s2=1, q_max=1.5)
    yield "0 < c <= L; got c = 2, L = 1", lambda: Constants(L=1, s2=1, c=2)
    yield "0 < c <= L; got c = 0, L = 1", lambda: Constants(L=1, s2=1, c=0)
    convex = Constants(L=2.0, s2=1.0)
    yield "strongly convex; got c = None", lambda: theory.strongly_convex_fixed_step(convex, 0.1, 1, 1)
    yield "strongly convex; got c = None", lambda: theory.smallest_beta(convex)
    for bound in (
        lambda mu: theory.one_step(GOOD, mu, 1.0),
        lambda mu: theory.strongly_convex_fixed_step(GOOD, mu, 1, 1),
        lambda mu: theory.nonconvex_fixed_step(GOOD, mu, 1, 1),
        lambda mu: theory.nonconvex_decreasing_steps(GOOD, [0.1, mu], 1),
        lambda mu: theory.power_steps(GOOD, mu, 1, 5),
        lambda mu: theory.bound_floor(GOOD, mu),
    ):
        yield r"<= 1/\(L q_max\) = 1; got 1.1 \(L = 2, q_max = 0.5\)", lambda bound=bound: bound(1.1)
        yield r"every step mu\S* > 0; got 0", lambda bound=bound: bound(0)
    yield "q_min <= q <= q_max; got q = 0.6", lambda: theory.one_step(GOOD, 0.1, 1.0, q=0.6)
    yield r"\|grad F\|\^2 >= 0; got -1", lambda: theory.one_step(GOOD, 0.1, -1.0)
    yield (
        r"beta > 1/\(c q_min\) = 8; got beta = 8 \(c = 0.5, q_min = 0.25\)",
        lambda: theory.strongly_convex_decreasing_step(GOOD, 8.0, 100, 1, 1),
    )
    yield (
        r"mu_1 = beta/\(gamma \+ 1\) <= 1/\(L q_max\) = 1; got 1.11",
        lambda: theory.strongly_convex_decreasing_step(GOOD, 10.0, 8, 1, 1),
    )
    yield "gamma > -1", lambda: theory.decreasing_steps(1.0, -1, 3)
    yield r"F\* >= 0; got -1", lambda: theory.strongly_convex_fixed_step(GOOD, 0.1, -1, 1)
    yield "F_inf >= 0; got nan", lambda: theory.nonconvex_fixed_step(GOOD, 0.1, float("nan"), 1)
    yield "iterate k is a whole number >= 1; got 0", lambda: theory.strongly_convex_fixed_step(GOOD, 0.1, 1, 0)
    yield "steps K is a whole number >= 1; got 1.5", lambda: theory.nonconvex_fixed_step(GOOD, 0.1, 1, 1.5)
    for p in (0.5, 1.1):
        yield f"sum mu_k = inf and sum .*p <= 1; got p = {p}", lambda p=p: theory.power_steps(GOOD, 0.1, p, 5)
    yield "above the floor of the bound, 0.2; got target = 0.1", lambda: theory.steps_to_target(GOOD, 0.1, 1, 0.1)
    yield r"E\[q\]\^2 <= E\[q\^2\] <= E\[q\]; got", lambda: Moments(0.5, 0.1)
    yield "settle", lambda: theory.noise_floor([1.0, 4.0], 0.5, Moments.constant(1.0), 1.0)
    yield "every eigenvalue > 0; got 0", lambda: theory.noise_floor([1.0, 0.0], 0.5, Moments.constant(1.0), 1.0)
    yield "both noises are there", lambda: theory.least_floor_q(1.0, 0.0)

    def autoscale(a_min=0.5, a_max=2.0, step=0.1, **more):
        return lambda: theory.projected_gradient_bound(2.0, 1.0, a_min, a_max, step, 1.0, 10, **more)

    yield "a_min > 0; got a_min = 0", autoscale(a_min=0)
    yield "a_min <= 1 <= a_max .*got a_min = 0.2, a_max = 0.8", autoscale(0.2, 0.8)
    yield "a_min <= a_max", autoscale(0.8, 0.2, all_eligible=True)
    yield r"eta <= 1/\(L a_max\) = 0.25; got 0.3", autoscale(step=0.3)
    yield "eta > 0; got 0", autoscale(step=0)


@pytest.mark.parametrize(("words", "call"), list(refusals()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_violated_assumption_is_named(words, call):
    with pytest.raises(ValueError, match="assumption violated: ") as error:
        call()
    assert re.search(words, str(error.value)), str(error.value)


def test_the_largest_step_is_allowed_by_all_however_it_was_rounded():
    for L, q in itertools.product((0.1, 1 / 3, 7.0, 1e5), (0.3, 0.7, 0.9)):
        constants = Constants(L=L, s2=1.0, c=L / 3, q_min=q, q_max=q)
        beta = 1.1 * theory.smallest_beta(constants)
        theory.strongly_convex_fixed_step(constants, theory.largest_step(constants), 1.0, K)
        theory.strongly_convex_decreasing_step(constants, beta, theory.smallest_gamma(constants, beta), 1.0, K)


def test_autoscale_may_scale_all_layers_down_where_all_are_eligible():
    small = theory.projected_gradient_bound(2.0, 1.0, 0.2, 0.8, 0.1, 1.0, 10, all_eligible=True)
    assert small == pytest.approx((2 / (10 * 0.1) + 2 * 0.1 * 0.64) / 0.2)
