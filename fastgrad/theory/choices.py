"""What the bounds say about choosing steps, and about time. Derived by us, from bounds (1) and (2)."""

from __future__ import annotations

import math

from fastgrad.theory.assumptions import Constants, check_gap, check_steps, require


def largest_step(constants: Constants) -> float:
    """1/(L q_max), [w]^2/[F]: all bounds allow steps up to it. Shrinkage allows a larger step than 1/L."""
    return 1 / (constants.L * constants.q_max)


def smallest_beta(constants: Constants) -> float:
    """1/(c q_min), [w]^2/[F]: bound (2) needs a beta **above** it, larger by 1/q_min than without shrinkage."""
    return 1 / (constants.convexity() * constants.q_min)


def smallest_gamma(constants: Constants, beta: float) -> float:
    """beta L q_max - 1: with it, mu_1 = beta/(gamma + 1) is the largest step. ``beta`` > 0, [w]^2/[F]."""
    require(beta > 0, "beta > 0", f"beta = {beta:g}")
    return beta * constants.L * constants.q_max - 1


def bound_floor(constants: Constants, step: float) -> float:
    """What bound (1) leaves for k -> infinity:  L mu S / (2 c q_min),  [F].

    It is a bound, not the floor itself: for that of a quadratic see :func:`noise_floor`. The two do not even move
    in the same direction: with constant q and no eps both fall with q; with q in a range, q_max^2/q_min lets this
    one rise.
    """
    mu = float(check_steps(constants, step))
    return constants.L * mu * constants.S / (2 * constants.convexity() * constants.q_min)


def steps_to_target(constants: Constants, step: float, gap: float, target: float) -> int:
    """Smallest k at which bound (1) is at most ``target``:

        k = 1 + ceil( log( (F(w_1) - F*) / (target - floor) ) / -log(1 - c mu q_min) ),  floor = bound_floor

    For small c mu q_min it grows as 1/q_min.

    Args:
        constants: L, c, s2, q_min, q_max, s_e2.
        step: mu in (0, 1/(L q_max)], [w]^2/[F].
        gap: F(w_1) - F* >= 0, [F].
        target: [F]; above the floor of the bound, which no number of steps passes.

    Raises:
        ValueError: an assumption that the numbers violate, or a target that is not above the floor.
    """
    floor, gap = bound_floor(constants, step), check_gap(gap, "the gap F(w_1) - F*")
    require(target > floor, f"the target lies above the floor of the bound, {floor:g}", f"target = {target:g}")
    if gap <= target - floor:
        return 1
    kept = 1 - constants.convexity() * step * constants.q_min
    if kept <= 0:
        return 2
    return 1 + math.ceil(math.log(gap / (target - floor)) / -math.log(kept))


def slowdown(constants: Constants, step: float) -> float:
    """How many times longer bound (1) takes to shrink its first term than at the same step without shrinkage:

        log(1 - c mu) / log(1 - c mu q_min)   ->  1/q_min  for c mu -> 0   (and is never less than that)

    ``step`` must be allowed without shrinkage too, mu <= 1/L, and c mu < 1. Raises ValueError where it is not.
    """
    c, mu = constants.convexity(), float(check_steps(constants.full_precision, step))
    require(c * mu < 1, "c mu < 1 (else full precision is there in one step)", f"c mu = {c * mu:g}")
    return math.log1p(-c * mu) / math.log1p(-c * mu * constants.q_min)
