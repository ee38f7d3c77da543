"""The bounds of fastgrad.theory against simulation, their assumptions, and what the model says of shrinkage."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from fastgrad import theory
from fastgrad.shrinkage_cli import app
from fastgrad.shrinkage_model import compare
from fastgrad.shrinkage_model.autoscale import centre
from fastgrad.shrinkage_model.problems import Logistic, Quadratic, Robust
from fastgrad.shrinkage_model.simulate import Rounding, mean_and_error, sgd

GIVEN = theory.Constants(L=2.0, s2=1.0, q_min=0.5, q_max=0.9, s_e2=0.1, c=0.1)


@pytest.fixture(scope="module")
def measured():
    """Every comparison of 100 random problems of each kind, 60 repetitions."""
    return list(compare.bounds(100, 60, seed=1))


@pytest.mark.parametrize("bound, problem", [("(1)", "quadratic"), ("(1)", "logistic"), ("(2)", "quadratic"),
                                            ("(2)", "logistic"), ("(3)", "robust"), ("(4)", "robust")])  # fmt: skip
def test_measured_means_are_below_the_bound_on_100_problems(measured, bound, problem):
    rows = [row for row in measured if (row["bound"], row["problem"]) == (bound, problem)]
    assert len({row["index"] for row in rows}) == 100 and {row["rounding"] for row in rows} == {
        "constant", "uniform", "two_point"
    }  # fmt: skip
    assert not [row for row in rows if not row["holds"]]
    assert min(row["k"] for row in rows) == 1 and max(row["k"] for row in rows) == compare.STEPS


def test_a_bound_that_forgets_the_shrinkage_is_caught():
    """The comparison can fail: (1) with q_min replaced by 1 promises what SGD does not do."""
    problem = Quadratic(np.array([1.0, 1.0]), 0.01, np.ones(2))
    rounding = Rounding("constant", 0.2, 0.2)
    trace = sgd(problem, rounding, np.full(100, 0.5), 100, np.random.default_rng(0))
    gap, (mean, _) = float(problem.value(problem.start[None])[0]), mean_and_error(trace.gap)
    assert (mean <= theory.strongly_convex_fixed_step(compare.constants(problem, rounding), 0.5, gap, trace.k)).all()
    forgetful = theory.Constants(L=1.0, s2=0.01, c=1.0)
    assert (mean > theory.strongly_convex_fixed_step(forgetful, 0.5, gap, trace.k)).any()


@pytest.mark.parametrize("kind", [Quadratic, Logistic, Robust])
def test_constants_of_the_problems_are_true(kind):
    random = np.random.default_rng(5)
    for _ in range(10):
        problem = kind.random(random)
        d = len(problem.start)
        v, w = 3 * random.normal(size=(2, 200, d))
        far = np.linalg.norm(problem.gradient(v) - problem.gradient(w), axis=1)
        assert (far <= problem.L * np.linalg.norm(v - w, axis=1) * (1 + 1e-9)).all()
        lower = problem.value(w) + (problem.gradient(w) * (v - w)).sum(1)
        if problem.c is not None:
            lower += problem.c / 2 * ((v - w) ** 2).sum(1)
            assert (problem.value(v) >= lower - 1e-9 * np.abs(lower)).all()
        assert (problem.value(w) >= problem.infimum).all()
        point = np.repeat(w[:1], 40_000, 0)
        g = problem.sample(point, random)
        mean, error = mean_and_error(g.T)
        assert (np.abs(mean - problem.gradient(w[:1])[0]) < 5 * error + 1e-12).all()  # 80 comparisons a kind
        spread = ((g - problem.gradient(w[:1])) ** 2).sum(1)
        assert spread.mean() <= problem.s2 + 4 * mean_and_error(spread)[1]


def test_gradients_are_those_of_the_objective():
    for kind in (Quadratic, Logistic, Robust):
        problem = kind.random(np.random.default_rng(2))
        w = np.random.default_rng(3).normal(size=(1, len(problem.start)))
        h = 1e-6 * np.eye(w.shape[1])
        slopes = (problem.value(w + h) - problem.value(w - h)) / 2e-6
        assert np.allclose(slopes, problem.gradient(w)[0], rtol=1e-5, atol=1e-7)


def test_minimum_of_logistic_regression_is_a_stationary_point():
    for seed in range(20):
        problem = Logistic.random(np.random.default_rng(seed))
        gradient = problem.gradient(problem._minimum()[None])
        assert (gradient**2).sum() / (2 * problem.c) < 1e-20 * problem.infimum  # an upper bound of F - F*


@pytest.mark.parametrize("q, tolerance", [(0.5, 0.0), (0.25, 0.0), (0.3, 1e-13), (0.07, 1e-13)])
def test_constant_q_is_full_precision_with_a_smaller_step(q, tolerance):
    """Bit for bit where q is a power of two, to float64's rounding elsewhere."""
    problem = Logistic.random(np.random.default_rng(4))
    mu = 1 / problem.L
    shrunk = compare.final_weights(problem, Rounding("constant", q, q), mu, 200, seed=9)
    plain = compare.final_weights(problem, Rounding(), q * mu, 200, seed=9)
    assert np.abs(shrunk - plain).max() <= tolerance * np.abs(plain).max()
    assert not np.array_equal(shrunk, problem.start)


def test_floor_falls_with_constant_q_and_rises_only_with_noise():
    rows = {(row["q"], row["s_e2"]): row for row in compare.floors(100, seed=2)}
    for row in rows.values():
        assert abs(row["measured"] - row["predicted"]) < 4 * row["error"]
    silent, noisy = ([rows[q, s]["measured"] for q in (1.0, 0.5, 0.25)] for s in (0.0, 1.0))
    assert silent[0] > 1.8 * silent[1] > 3.2 * silent[2]
    assert noisy[0] < noisy[1] < noisy[2]


def test_exact_floor_is_the_limit_of_its_recursion():
    eigenvalues, mu, q, s2, s_e2 = np.array([0.3, 1.0]), 0.4, 0.6, 2.0, 0.5
    variance = np.zeros(2)
    for _ in range(2000):
        variance = (1 - mu * q * eigenvalues) ** 2 * variance + mu**2 * (q**2 * s2 + s_e2) / 2
    assert theory.quadratic_floor(eigenvalues, mu, q, s2, s_e2) == pytest.approx((eigenvalues * variance).sum() / 2)


def test_bound_of_autoscale_holds_and_so_do_its_limits():
    said = compare.autoscale(60, seed=3)
    assert len(said["bound"]) == 80 and all(row["holds"] for row in said["bound"])
    still = said["stationary"]
    assert still["projected_gradient2"] < 1e-20 and still["gradient2"] > 1 and still["objective"] > 1
    assert said["correlation"]["same_batch"] > 50 and said["correlation"]["lagged"] < 5


def test_centring_is_an_orthogonal_projection():
    v, w = np.random.default_rng(0).normal(size=(2, 1, 8))
    assert np.allclose(centre(centre(v)), centre(v)) and np.allclose((centre(v) * w).sum(), (v * centre(w)).sum())
    assert np.allclose(centre(v).reshape(2, 4).mean(1), 0)


def test_bounds_by_hand():
    assert GIVEN.S == pytest.approx(0.91) and GIVEN.largest_step == pytest.approx(1 / 1.8)
    assert theory.strongly_convex_fixed_step(GIVEN, 0.5, 3.0, 2) == pytest.approx(0.975 * 3 + 2 * 0.5 * 0.91 / 0.1)
    assert theory.nonconvex_fixed_step(GIVEN, 0.5, 3.0, 4) == pytest.approx(6 / (4 * 0.5 * 0.5) + 2 * 0.5 * 0.91 / 0.5)
    fixed = theory.nonconvex_fixed_step(GIVEN, 0.5, 3.0, 4)
    assert theory.nonconvex_decreasing_steps(GIVEN, [0.5] * 4, 3.0)[3] == pytest.approx(fixed)
    nu = max(900 * 2 * 0.91 / (2 * 0.5), 101 * 3.0)
    assert theory.strongly_convex_decreasing_step(GIVEN, 30, 100, 3.0, 10) == pytest.approx(nu / 110)
    assert theory.one_step(GIVEN, 0.5, 0.5, 4.0) == pytest.approx(-0.25 * 0.75 * 4 + 0.25 * (0.25 + 0.1))
    assert theory.projected_gradient(2, 1, 0.5, 2, 0.25, 3, 10) == pytest.approx(6 / (10 * 0.125) + 2 * 0.25 * 4 / 0.5)


def test_time_to_a_target_grows_by_one_over_q():
    times = [theory.steps_to_target(theory.Constants(1.0, 0.0, q, q, c=0.01), 0.1, 1.0, 1e-3) for q in (1.0, 0.5, 0.1)]
    assert times[1] / times[0] == pytest.approx(2, rel=0.01) and times[2] / times[0] == pytest.approx(10, rel=0.01)
    at = int(np.ceil(times[0]))
    full = theory.Constants(1.0, 0.0, c=0.01)
    assert theory.strongly_convex_fixed_step(full, 0.1, 1.0, at) <= 1e-3
    assert theory.strongly_convex_fixed_step(full, 0.1, 1.0, at - 1) > 1e-3


@pytest.mark.parametrize(
    "call, assumption",
    [
        (lambda: theory.Constants(0.0, 1.0), r"L > 0 and finite; got L = 0.0"),
        (lambda: theory.Constants(1.0, -1.0), r"s2 >= 0"),
        (lambda: theory.Constants(1.0, 1.0, s_e2=float("nan")), r"s_e2 >= 0"),
        (lambda: theory.Constants(1.0, 1.0, q_min=0.0), r"q_min > 0"),
        (lambda: theory.Constants(1.0, 1.0, q_min=0.8, q_max=0.5), r"q_min <= q_max; got q_min = 0.8, q_max = 0.5"),
        (lambda: theory.Constants(1.0, 1.0, c=2.0), r"0 < c <= L; got c = 2.0, L = 1.0"),
        (lambda: theory.strongly_convex_fixed_step(theory.Constants(1.0, 1.0), 0.5, 1.0, 3), r"strongly convex"),
        (lambda: theory.strongly_convex_fixed_step(GIVEN, 0.6, 1.0, 3), r"mu <= 1 / \(L q_max\); got mu = 0.6"),
        (lambda: theory.strongly_convex_fixed_step(GIVEN, 0.5, -1.0, 3), r"F\(w_1\) - F\* >= 0"),
        (lambda: theory.strongly_convex_fixed_step(GIVEN, 0.5, 1.0, 0), r"counted from 1"),
        (lambda: theory.strongly_convex_decreasing_step(GIVEN, 20, 100, 1.0, 3), r"1 / \(c q_min\); got beta = 20"),
        (lambda: theory.strongly_convex_decreasing_step(GIVEN, 30, 10, 1.0, 3), r"mu <= 1 / \(L q_max\)"),
        (lambda: theory.strongly_convex_decreasing_step(GIVEN, 30, -1, 1.0, 3), r"gamma >= 0"),
        (lambda: theory.nonconvex_fixed_step(GIVEN, 0.6, 1.0, 3), r"mu <= 1 / \(L q_max\)"),
        (lambda: theory.nonconvex_decreasing_steps(GIVEN, [0.6, 0.1], 1.0), r"mu <= 1 / \(L q_max\)"),
        (lambda: theory.nonconvex_decreasing_steps(GIVEN, [], 1.0), r"at least one step"),
        (lambda: theory.projected_gradient(1, 1, 1.1, 2, 0.1, 1, 3), r"a_min <= 1 <= a_max; got a_min = 1.1"),
        (lambda: theory.projected_gradient(1, 1, 0.5, 2, 0.6, 1, 3), r"eta <= 1 / \(L a_max\); got eta = 0.6"),
        (lambda: theory.one_step(GIVEN, 0.5, 0.95, 1.0), r"q_min <= q <= q_max; got q = 0.95"),
        (lambda: theory.steps_to_target(GIVEN, 0.5, 1.0, 1e-3), r"target above the floor"),
        (lambda: theory.quadratic_floor(np.ones(2), 3.0, 1.0, 1.0), r"mu q lambda_max < 2"),
        (lambda: Rounding("gaussian"), r"kind: expected constant"),
        (lambda: Rounding("constant", 0.5, 0.6), r"constant q has q_min = q_max"),
    ],
)
def test_a_violated_assumption_is_named_with_its_numbers(call, assumption):
    with pytest.raises(ValueError, match=assumption):
        call()


def test_command_writes_what_it_measured(tmp_path):
    words = ["--problems", "3", "--repetitions", "20", "--out"]
    results = []
    for name in ("a", "b"):
        result = CliRunner().invoke(app, ["model", *words, str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        results.append(json.loads((tmp_path / name / "model.json").read_text()))
    assert results[0] == results[1] and results[0]["settings"]["problems"] == 3
    assert {row["bound"] for row in results[0]["bounds"]} == {"(1)", "(2)", "(3)", "(4)"}
    assert "written: " in result.output
