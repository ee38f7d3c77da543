"""Centred gradients with a bounded multiplier: the bound, what it needs, and its two limits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import fastgrad
from fastgrad import theory
from fastgrad.shrinkage_model import autoscale, limits, problems
from fastgrad.shrinkage_model.autoscale import Layers
from fastgrad.shrinkage_model.study import AUTOSCALE_LAYERS
from fastgrad.shrinkage_model.verdicts import VIOLATED, z_of

LAYERS = Layers((4, 3, 1), (True, True, False))
SEED = 11


def test_p_is_an_orthogonal_projection_that_leaves_other_layers_alone():
    p = LAYERS.project(np.eye(8))
    np.testing.assert_allclose(p, p.T, atol=1e-16)
    np.testing.assert_allclose(p @ p, p, atol=1e-15)
    np.testing.assert_array_equal(p[:, 7], np.eye(8)[7])
    assert np.linalg.matrix_rank(p) == 6


def test_p_and_alpha_are_those_of_normalize():
    """The model's step and the library's op, alpha = sigma_t / sigma_1, over two steps."""
    rng = np.random.default_rng(0)
    state = torch.zeros(2, dtype=torch.float64)
    first = None
    for _ in range(2):
        g = rng.standard_normal(8).astype(np.float32) + 1
        tensors = [torch.from_numpy(g[:4].copy()), torch.from_numpy(g[4:7].copy())]
        fastgrad.normalize_(tensors, "autoscale", state=state)
        sigma = LAYERS.sigma(g.astype(np.float64))
        first = sigma if first is None else first
        expected = LAYERS.scale(LAYERS.project(g.astype(np.float64)), sigma / first)
        np.testing.assert_allclose(torch.cat(tensors).numpy(), expected[:7], rtol=2e-6, atol=1e-7)
        assert expected[7] == g[7]


@pytest.mark.parametrize("rule", ["independent", "lagged"])
@pytest.mark.parametrize(
    ("kind", "make"), [("quadratic", problems.quadratics), ("robust", problems.robust_regressions)]
)
def test_mean_projected_gradient_is_below_the_bound(kind, make, rule):
    found = autoscale.experiment(make(SEED, 20), AUTOSCALE_LAYERS[kind], rule, count=250, repetitions=200, seed=SEED)
    measured = found.measured
    assert measured.below.all()
    assert not (measured.verdicts(z_of(4 * measured.mean.size)) == VIOLATED).any()
    assert ((found.a_min < 1) & (found.a_max > 1)).all()


def test_a_bound_without_a_min_is_found_out():
    """alpha at its lower end all the time: a run slower by 1/a_min."""
    some = problems.quadratics(SEED, 20)
    low, steps = np.full(20, 0.1), np.repeat(1 / some.L[:, None], 60, 1)
    layers = Layers((8,), (True,))
    at = np.array([10, 60])
    values = autoscale.paths.mean_squared_gradients(
        lambda w: layers.project(some.gradient(w)),
        autoscale.path(some, layers, "independent", low, low, steps, 100, np.random.default_rng(1)),
        steps,
        at,
    )
    gap = some.gap(some.start[:, None])[:, 0]
    right = [bound_of(some, i, 0.1, 0.1, steps[i, 0], gap[i], at) for i in range(20)]
    measured = autoscale.Measured.of(at, values, np.array(right))
    assert measured.below.all()
    wrong = dataclasses.replace(measured, bound=0.1 * measured.bound)
    assert (wrong.verdicts(z_of(40)) == VIOLATED).any(1).sum() >= 10


def bound_of(some, i, a_min, a_max, step, gap, at):
    return theory.projected_gradient_bound(
        float(some.L[i]), float(some.s2[i]), a_min, a_max, step, float(gap), at, all_eligible=True
    )


def test_limit_one_the_method_stands_still_where_only_the_projected_gradient_is_zero():
    still = limits.standstill()
    assert still.projected < 1e-24
    assert still.whole == pytest.approx(still.expected, rel=1e-12)
    assert still.expected == 10
    # The bound holds for P grad F, and would be wrong by far for grad F.
    assert still.mean_projected <= still.bound < 1e-3 * still.mean_whole


def test_limit_two_alpha_of_the_same_mini_batch_is_biased_and_breaks_the_bound():
    lagged, same = limits.correlation(SEED, 40)
    assert (lagged.rule, same.rule) == ("lagged", "same")
    # E[alpha P g] at the minimum, enumerated: |sum p |r| r| = 0.1 * 9 - 0.9 / 9 for the same mini-batch
    assert same.bias == pytest.approx(0.8, rel=1e-12)
    assert lagged.bias < 1e-15
    z = z_of(2 * len(lagged.measured.at))
    assert lagged.measured.below.all()
    assert not (lagged.measured.verdicts(z) == VIOLATED).any()
    assert same.measured.verdicts(z)[0, -1] == VIOLATED


def test_bad_layers_and_rules_are_refused():
    with pytest.raises(ValueError, match=r"layers need a size >= 1 and a flag each, one of them eligible"):
        Layers((3, 2), (False, False))
    with pytest.raises(ValueError, match=r"layers need a size >= 1"):
        Layers((3, 0), (True, True))
    with pytest.raises(ValueError, match=r"layers of 8 elements together, got a gradient of 5"):
        LAYERS.project(np.zeros((2, 5)))
    some, one = problems.quadratics(0, 1), np.ones(1)
    with pytest.raises(ValueError, match=r"rule is one of independent, lagged, same; got 'ema'"):
        next(autoscale.path(some, LAYERS, "ema", one, one, np.ones((1, 1)), 2, np.random.default_rng(0)))
