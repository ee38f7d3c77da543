"""Bounds on SGD whose gradients are shrunk and noisy, as documented functions that check their assumptions.

The model is  w_{k+1} = w_k - mu_k (q_k g_k + eps_k):  q_k in (0, 1] shrinks the stochastic gradient g_k and eps_k is
noise of mean zero (arXiv 2508.07142 studies it). **Every bound here was derived by us**, in the manner of the standard
analysis of SGD; none is quoted from that paper, whose constants we do not know. ``docs/shrinkage_model.md`` has the
proofs in short and what simulations say; ``tests/test_theory.py`` and ``tests/shrinkage_model`` check them.

    constants = theory.Constants(L=10.0, c=1.0, s2=0.1, q_min=0.25, q_max=0.5)
    step = theory.largest_step(constants)
    theory.strongly_convex_fixed_step(constants, step, gap=3.0, k=[1, 10, 100])

Units: the loss F is in [F] (nats, say), parameters in [w]. Gradients are then in [F]/[w]; L and c in [F]/[w]^2;
steps in [w]^2/[F]; s2 and s_e2 in ([F]/[w])^2; q and alpha have none.
"""

from fastgrad.theory.assumptions import Constants
from fastgrad.theory.autoscale import projected_gradient_bound
from fastgrad.theory.bounds import (
    decreasing_steps,
    nonconvex_decreasing_steps,
    nonconvex_fixed_step,
    one_step,
    power_steps,
    strongly_convex_decreasing_step,
    strongly_convex_fixed_step,
)
from fastgrad.theory.choices import (
    bound_floor,
    largest_step,
    slowdown,
    smallest_beta,
    smallest_gamma,
    steps_to_target,
)
from fastgrad.theory.quadratic import Moments, expected_path, least_floor_q, noise_floor

__all__ = [
    "Constants",
    "Moments",
    "bound_floor",
    "decreasing_steps",
    "expected_path",
    "largest_step",
    "least_floor_q",
    "noise_floor",
    "nonconvex_decreasing_steps",
    "nonconvex_fixed_step",
    "one_step",
    "power_steps",
    "projected_gradient_bound",
    "slowdown",
    "smallest_beta",
    "smallest_gamma",
    "steps_to_target",
    "strongly_convex_decreasing_step",
    "strongly_convex_fixed_step",
]
