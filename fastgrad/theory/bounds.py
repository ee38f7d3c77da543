"""Bounds (0) to (4) for  w_{k+1} = w_k - mu_k (q_k g_k + eps_k).  Derived by us; what is assumed: :class:`Constants`.

Steps and iterates count from k = 1; w_1 is the start. S = q_max^2 s2 + s_e2 throughout. With q_min = q_max = 1 and
s_e2 = 0 they are the bounds of full precision.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgrad.theory.assumptions import Constants, check_count, check_gap, check_steps, plain, require


def one_step(constants: Constants, step: float, squared_gradient: ArrayLike, q: float | None = None) -> float | NDArray:
    """(0) What one step does to the expected loss. Derived by us.

        q given:  E[F(w_{k+1})] - F(w_k) <= -mu q (1 - L mu q / 2) |grad F(w_k)|^2 + (L mu^2 / 2)(q^2 s2 + s_e2)
        q None:                          <= -(mu q_min / 2) |grad F(w_k)|^2 + (L mu^2 / 2) S

    Proof: L-smoothness along the step, with E|q g + eps|^2 <= q^2 (|grad F|^2 + s2) + s_e2 (the cross terms have mean
    zero); the second line uses L mu q <= 1. With equality for F = (L/2)|w|^2 and q given.

    Args:
        constants: L, s2, q_min, q_max, s_e2.
        step: mu in (0, 1/(L q_max)], [w]^2/[F].
        squared_gradient: |grad F(w_k)|^2 >= 0, ([F]/[w])^2, any shape.
        q: the factor of this step, in [q_min, q_max]; None for the bound that holds for all of them.

    Returns:
        The bound, [F], of the shape of ``squared_gradient``.

    Raises:
        ValueError: an assumption that the numbers violate.
    """
    mu = float(check_steps(constants, step))
    squared_gradient = np.asarray(squared_gradient, np.float64)
    require(bool((squared_gradient >= 0).all()), "|grad F|^2 >= 0", f"{squared_gradient}")
    if q is None:
        return plain(-mu * constants.q_min / 2 * squared_gradient + constants.L * mu**2 / 2 * constants.S)
    require(
        constants.q_min <= q <= constants.q_max,
        "q_min <= q <= q_max",
        f"q = {q:g}, q_min = {constants.q_min:g}, q_max = {constants.q_max:g}",
    )
    noise = q**2 * constants.s2 + constants.s_e2
    fall = mu * q * (1 - constants.L * mu * q / 2)
    return plain(-fall * squared_gradient + constants.L * mu**2 / 2 * noise)


def strongly_convex_fixed_step(constants: Constants, step: float, gap: float, k: ArrayLike) -> float | NDArray:
    """(1) Expected gap before step k, F c-strongly convex, one step size. Derived by us.

        E[F(w_k) - F*] <= (1 - c mu q_min)^(k-1) (F(w_1) - F*) + L mu S / (2 c q_min)

    Proof: (0) with |grad F|^2 >= 2c (F - F*), summed as a geometric series. The floor is attained: F = (L/2) w^2 with
    c = L, constant q, mu = 1/(L q).

    Args:
        constants: L, c, s2, q_min, q_max, s_e2.
        step: mu in (0, 1/(L q_max)], [w]^2/[F].
        gap: F(w_1) - F* >= 0, [F].
        k: iterates, whole numbers >= 1, any shape.

    Returns:
        The bound, [F], of the shape of ``k``.

    Raises:
        ValueError: an assumption that the numbers violate.
    """
    c, mu = constants.convexity(), float(check_steps(constants, step))
    k, gap = check_count(k, "the iterate k"), check_gap(gap, "the gap F(w_1) - F*")
    # c mu q_min <= 1 but for the last bit that check_steps forgives
    kept = max(0.0, 1 - c * mu * constants.q_min)
    return plain(kept ** (k - 1) * gap + constants.L * mu * constants.S / (2 * c * constants.q_min))


def decreasing_steps(beta: float, gamma: float, count: int) -> NDArray[np.float64]:
    """The steps of (2):  mu_k = beta / (gamma + k),  k = 1 .. count,  [w]^2/[F]."""
    require(beta > 0, "beta > 0", f"beta = {beta:g}")
    require(gamma > -1, "gamma > -1", f"gamma = {gamma:g}")
    return beta / (gamma + np.arange(1, int(check_count(count, "the number of steps")) + 1, dtype=np.float64))


def strongly_convex_decreasing_step(
    constants: Constants, beta: float, gamma: float, gap: float, k: ArrayLike
) -> float | NDArray:
    """(2) Expected gap before step k, F c-strongly convex, steps mu_k = beta / (gamma + k). Derived by us.

        E[F(w_k) - F*] <= nu / (gamma + k)
        nu = max( beta^2 L S / (2 (beta c q_min - 1)),  (gamma + 1) (F(w_1) - F*) )

    Proof: by induction from (0); k^ = gamma + k has k^^2 >= (k^ - 1)(k^ + 1). Needs beta > 1/(c q_min): shrinkage asks
    for a larger beta. That is sufficient, not necessary: on a quadratic beta c q > 1/2 already keeps the rate 1/k
    (see docs/shrinkage_model.md); below 1/2 it is lost.

    Args:
        constants: L, c, s2, q_min, q_max, s_e2.
        beta: > 1/(c q_min), [w]^2/[F].
        gamma: such that mu_1 = beta / (gamma + 1) is in (0, 1/(L q_max)]; no unit.
        gap: F(w_1) - F* >= 0, [F].
        k: iterates, whole numbers >= 1, any shape.

    Returns:
        The bound, [F], of the shape of ``k``.

    Raises:
        ValueError: an assumption that the numbers violate.
    """
    c, L, q_min = constants.convexity(), constants.L, constants.q_min
    require(
        beta * c * q_min > 1,
        f"beta > 1/(c q_min) = {1 / (c * q_min):g}",
        f"beta = {beta:g} (c = {c:g}, q_min = {q_min:g})",
    )
    check_steps(constants, decreasing_steps(beta, gamma, 1), "mu_1 = beta/(gamma + 1)")
    k, gap = check_count(k, "the iterate k"), check_gap(gap, "the gap F(w_1) - F*")
    nu = max(beta**2 * L * constants.S / (2 * (beta * c * q_min - 1)), (gamma + 1) * gap)
    return plain(nu / (gamma + k))


def nonconvex_fixed_step(constants: Constants, step: float, drop: float, count: ArrayLike) -> float | NDArray:
    """(3) Mean squared gradient over the first K iterates, F any L-smooth function, one step size. Derived by us.

        (1/K) sum_{k=1..K} E|grad F(w_k)|^2 <= 2 (F(w_1) - F_inf) / (K mu q_min) + L mu S / q_min

    Proof: (0) summed over k, F(w_{K+1}) >= F_inf.

    Args:
        constants: L, s2, q_min, q_max, s_e2.
        step: mu in (0, 1/(L q_max)], [w]^2/[F].
        drop: F(w_1) - F_inf >= 0 for a lower bound F_inf of F, [F].
        count: K, whole numbers >= 1, any shape.

    Returns:
        The bound, ([F]/[w])^2, of the shape of ``count``.

    Raises:
        ValueError: an assumption that the numbers violate.
    """
    mu = float(check_steps(constants, step))
    count, drop = check_count(count, "the number of steps K"), check_gap(drop, "the drop F(w_1) - F_inf")
    return plain((2 * drop / (count * mu) + constants.L * mu * constants.S) / constants.q_min)


def power_steps(constants: Constants, first: float, exponent: float, count: int) -> NDArray[np.float64]:
    """Steps for (4) that drive it to zero:  mu_k = first / k^exponent,  k = 1 .. count,  [w]^2/[F].

    1/2 < exponent <= 1, so that sum mu_k diverges and sum mu_k^2 does not; ``first`` in (0, 1/(L q_max)].
    """
    require(
        0.5 < exponent <= 1,
        "sum mu_k = inf and sum mu_k^2 < inf, for mu_k = mu_1/k^p: 1/2 < p <= 1",
        f"p = {exponent:g}",
    )
    first = float(check_steps(constants, first, "mu_1"))
    return first / np.arange(1, int(check_count(count, "the number of steps")) + 1, dtype=np.float64) ** exponent


def nonconvex_decreasing_steps(constants: Constants, steps: ArrayLike, drop: float) -> NDArray[np.float64]:
    """(4) Weighted mean squared gradient, F any L-smooth function, any steps mu_1 .. mu_K. Derived by us.

        (1/A_j) sum_{k<=j} mu_k E|grad F(w_k)|^2 <= ( 2 (F(w_1) - F_inf) + L S sum_{k<=j} mu_k^2 ) / (q_min A_j),
        A_j = sum_{k<=j} mu_k

    It goes to zero where sum mu_k = inf and sum mu_k^2 < inf (:func:`power_steps`); the finite statement needs neither.
    Proof: (0) summed over k, F(w_{j+1}) >= F_inf.

    Args:
        constants: L, s2, q_min, q_max, s_e2.
        steps: [K], each in (0, 1/(L q_max)], [w]^2/[F].
        drop: F(w_1) - F_inf >= 0 for a lower bound F_inf of F, [F].

    Returns:
        [K], the bound for j = 1 .. K, ([F]/[w])^2.

    Raises:
        ValueError: an assumption that the numbers violate.
    """
    steps, drop = check_steps(constants, steps, "mu_k"), check_gap(drop, "the drop F(w_1) - F_inf")
    require(steps.ndim == 1, "steps is a list mu_1 .. mu_K", f"an array of {steps.ndim} dimensions")
    total, squares = np.cumsum(steps), np.cumsum(steps**2)
    return (2 * drop + constants.L * constants.S * squares) / (constants.q_min * total)
