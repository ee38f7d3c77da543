"""The bound for centred gradients with a bounded multiplier. Derived by us; no paper's statement is known to us."""

from __future__ import annotations

from numpy.typing import ArrayLike, NDArray

from fastgrad.theory.assumptions import ROUNDING, Constants, check_count, check_gap, plain, require


def projected_gradient_bound(
    L: float,
    s2: float,
    a_min: float,
    a_max: float,
    step: float,
    drop: float,
    count: ArrayLike,
    *,
    all_eligible: bool = False,
) -> float | NDArray:
    """Mean squared **projected** gradient under autoscaling with a bounded multiplier. Derived by us.

    The update is w <- w - eta A_k P g_k. P subtracts from every eligible layer of g its mean (an orthogonal projection;
    the identity elsewhere); A_k multiplies the eligible layers by alpha_k in [a_min, a_max] and the others by 1.

        (1/K) sum_{k=1..K} E|P grad F(w_k)|^2 <= 2 (F(w_1) - F_inf) / (K eta a_min) + L eta a_max^2 s2 / a_min

    Proof: smoothness along the step; A_k and P commute and P is a projection, so <grad F, A P grad F> is the sum over
    layers of a |P grad F|^2, and |A P (g - grad F)|^2 <= a_max^2 |g - grad F|^2; L eta a <= 1 leaves half of it;
    sum over k.

    Two limits. It bounds P grad F alone: where a layer's gradient is constant, P grad F = 0 and the method stands
    still, though grad F is not 0. And alpha_k must be fixed before g_k is drawn, as one made of earlier steps is:
    made of the same mini-batch it is correlated with g_k, the step is biased, and the bound fails.
    ``fastgrad.shrinkage_model.limits`` shows both. (``stats="lagged"`` of the ops lags the means that are
    subtracted as well: that is no projection, and not this model.)

    Args:
        L: smoothness of F, > 0, [F]/[w]^2.
        s2: E|g_k - grad F(w_k)|^2 <= s2, ([F]/[w])^2; E[g_k] = grad F(w_k).
        a_min, a_max: 0 < a_min <= 1 <= a_max, no unit (the layers that are not eligible have the multiplier 1).
        step: eta in (0, 1/(L a_max)], [w]^2/[F].
        drop: F(w_1) - F_inf >= 0, [F].
        count: K, whole numbers >= 1, any shape.
        all_eligible: every layer is eligible, so that [a_min, a_max] need not hold 1.

    Returns:
        The bound, ([F]/[w])^2, of the shape of ``count``.

    Raises:
        ValueError: an assumption that the numbers violate.
    """
    numbers = f"a_min = {a_min:g}, a_max = {a_max:g}"
    require(a_min > 0, "the multiplier is bounded away from zero, a_min > 0", numbers)
    require(a_min <= a_max < float("inf"), "a_min <= a_max < inf", numbers)
    if not all_eligible:
        require(a_min <= 1 <= a_max, "a_min <= 1 <= a_max (layers that are not eligible keep the factor 1)", numbers)
    Constants(L=L, s2=s2)  # their ranges are checked there
    require(step > 0, "every step eta > 0", f"{step:g}")
    limit = 1 / (L * a_max)
    require(step <= limit * (1 + ROUNDING), f"eta <= 1/(L a_max) = {limit:g}", f"{step:g} ({L = :g}, {a_max = :g})")
    count, drop = check_count(count, "the number of steps K"), check_gap(drop, "the drop F(w_1) - F_inf")
    return plain((2 * drop / (count * step) + L * step * a_max**2 * s2) / a_min)
