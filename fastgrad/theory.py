"""What shrinkage does to SGD: bounds of w_{k+1} = w_k - mu_k g~_k with g~_k = q_k g_k + eps_k, k = 1, 2, ...

These bounds are derived here from textbook steps; none is a paper's theorem, whose texts were not at hand. The tests
hold every one of them against simulation (``fastgrad shrinkage model``).

Assumptions, collected in :class:`Constants`: F is L-smooth and bounded below; E[g_k | past] = grad F(w_k);
E|g_k - grad F(w_k)|^2 <= s2; E[eps_k | past, g_k, q_k] = 0; E|eps_k|^2 <= s_e2; q_min <= q_k <= q_max, independent of
g_k given the past. One step then changes the objective by

    E F(w_{k+1}) - F(w_k) <= -mu q (1 - L mu q / 2) |grad F|^2 + L mu^2 (q^2 s2 + s_e2) / 2                          (0)

(smoothness: F(w - mu g~) <= F - mu <grad F, g~> + L mu^2 |g~|^2 / 2; E<grad F, g~> = q |grad F|^2; and
E|g~|^2 = q^2 E|g|^2 + E|eps|^2), and with mu <= 1 / (L q_max) by at most

    -mu q_min |grad F|^2 / 2 + L mu^2 S / 2,   S = q_max^2 s2 + s_e2.

The bounds (1) to (4) sum or iterate this line. Full precision is q_min = q_max = 1, s_e2 = 0.

Units: [F] for objectives, [w] for weights; L and c in [F]/[w]^2, mu in [w]^2/[F], s2 and s_e2 in ([F]/[w])^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Constants:
    """What a bound assumes of problem and rounding; checked when made.

    L       smoothness:  |grad F(v) - grad F(w)| <= L |v - w|
    s2      variance of the stochastic gradient:  E|g - grad F|^2 <= s2
    q_min   least and
    q_max   largest shrinkage; q_max above 1 is allowed (a norm ratio can exceed 1) and costs a smaller step
    s_e2    variance of the rounding noise:  E|eps|^2 <= s_e2
    c       strong convexity:  F(v) >= F(w) + <grad F(w), v - w> + c |v - w|^2 / 2;  None where it is not assumed
    """

    L: float
    s2: float
    q_min: float = 1.0
    q_max: float = 1.0
    s_e2: float = 0.0
    c: float | None = None

    def __post_init__(self) -> None:
        for name in ("L", "q_min", "q_max"):
            _require(0 < getattr(self, name) < math.inf, f"{name} > 0 and finite", **{name: getattr(self, name)})
        for name in ("s2", "s_e2"):
            _require(0 <= getattr(self, name) < math.inf, f"{name} >= 0 and finite", **{name: getattr(self, name)})
        _require(self.q_min <= self.q_max, "q_min <= q_max", q_min=self.q_min, q_max=self.q_max)
        if self.c is not None:
            _require(0 < self.c <= self.L, "0 < c <= L", c=self.c, L=self.L)

    @property
    def S(self) -> float:
        """q_max^2 s2 + s_e2: what the noise of both kinds adds to E|g~|^2."""
        return self.q_max**2 * self.s2 + self.s_e2

    @property
    def largest_step(self) -> float:
        """1 / (L q_max): the largest mu for which (1) to (4) hold."""
        return 1 / (self.L * self.q_max)

    @property
    def smallest_beta(self) -> float:
        """1 / (c q_min): beta of mu_k = beta / (gamma + k) must be larger for the rate 1/k of (2)."""
        return 1 / (self._convexity() * self.q_min)

    def _convexity(self) -> float:
        _require(self.c is not None, "F is strongly convex", c=self.c)
        return self.c

    def _check_step(self, mu: float) -> None:
        limit = self.largest_step
        _require(0 < mu <= limit * (1 + 1e-12), "0 < mu <= 1 / (L q_max)", mu=mu, L=self.L, q_max=self.q_max)


def one_step(given: Constants, mu: float, q: float, gradient2: np.ndarray | float) -> np.ndarray | float:
    """(0): the expected change of the objective over a step with shrinkage q, at most

        -mu q (1 - L mu q / 2) |grad F|^2 + L mu^2 (q^2 s2 + s_e2) / 2

    for |grad F|^2 = gradient2. Needs no limit on mu; beyond 2 / (L q) it promises no descent.
    """
    _require(mu > 0, "mu > 0", mu=mu)
    _require(given.q_min <= q <= given.q_max, "q_min <= q <= q_max", q=q, q_min=given.q_min, q_max=given.q_max)
    L = given.L
    return -mu * q * (1 - L * mu * q / 2) * gradient2 + L * mu**2 * (q**2 * given.s2 + given.s_e2) / 2


def strongly_convex_fixed_step(
    given: Constants, mu: float, gap: float, k: np.ndarray | int
) -> np.ndarray | float:  # like k
    """(1): c-strongly convex F, fixed step mu <= 1 / (L q_max); gap = F(w_1) - F*:

        E[F(w_k) - F*] <= (1 - c mu q_min)^(k - 1) gap + L mu S / (2 c q_min)

    The first term says that time grows by 1 / q_min, the second that the floor does too; that is the bound's floor.
    With a constant q and no noise the iterates are those of full precision with step q mu, whose floor is *lower*
    (:func:`quadratic_floor`).
    """
    c = given._convexity()
    given._check_step(mu)
    _check_gap(gap)
    return (1 - c * mu * given.q_min) ** (_count(k) - 1) * gap + given.L * mu * given.S / (2 * c * given.q_min)


def strongly_convex_decreasing_step(
    given: Constants, beta: float, gamma: float, gap: float, k: np.ndarray | int
) -> np.ndarray | float:  # like k
    """(2): c-strongly convex F, mu_k = beta / (gamma + k), beta > 1 / (c q_min), mu_1 <= 1 / (L q_max):

        E[F(w_k) - F*] <= nu / (gamma + k),   nu = max{ beta^2 L S / (2 (beta c q_min - 1)), (gamma + 1) gap }

    beta must grow by 1 / q_min too, or the rate 1/k is lost.
    """
    c = given._convexity()
    _require(gamma >= 0, "gamma >= 0", gamma=gamma)
    _require(beta > given.smallest_beta, "beta > 1 / (c q_min)", beta=beta, c=c, q_min=given.q_min)
    given._check_step(beta / (gamma + 1))
    _check_gap(gap)
    noise = beta**2 * given.L * given.S / (2 * (beta * c * given.q_min - 1))
    return max(noise, (gamma + 1) * gap) / (gamma + _count(k))


def nonconvex_fixed_step(given: Constants, mu: float, gap: float, steps: np.ndarray | int) -> np.ndarray | float:
    """(3): any smooth F bounded below, fixed step mu <= 1 / (L q_max); gap = F(w_1) - F_inf, K = steps:

        (1/K) sum_{k<=K} E|grad F(w_k)|^2 <= 2 gap / (K mu q_min) + L mu S / q_min
    """
    given._check_step(mu)
    _check_gap(gap)
    return 2 * gap / (_count(steps) * mu * given.q_min) + given.L * mu * given.S / given.q_min


def nonconvex_decreasing_steps(given: Constants, mu: Sequence[float] | np.ndarray, gap: float) -> np.ndarray:
    """(4): any smooth F bounded below, steps mu_k <= 1 / (L q_max); A_K = sum_{k<=K} mu_k; for K = 1, 2, ..., len(mu):

        (1/A_K) sum_{k<=K} mu_k E|grad F(w_k)|^2 <= [2 gap / q_min + (L S / q_min) sum_{k<=K} mu_k^2] / A_K

    It goes to 0 if sum mu_k is infinite and sum mu_k^2 is not; what is finite can be checked of neither.
    """
    mu = np.asarray(mu, np.float64)
    _require(mu.ndim == 1 and len(mu) > 0, "at least one step", steps=mu.shape)
    for one in (float(mu.min()), float(mu.max())):
        given._check_step(one)
    _check_gap(gap)
    q = given.q_min
    return (2 * gap / q + given.L * given.S / q * np.cumsum(mu**2)) / np.cumsum(mu)


def projected_gradient(
    L: float, s2: float, a_min: float, a_max: float, eta: float, gap: float, steps: np.ndarray | int
) -> np.ndarray | float:
    """Autoscale and its kin: g~ = alpha_t P g with P the layer-wise centring (an orthogonal projection; the identity on
    layers that are not eligible, where alpha is 1), 0 < a_min <= alpha_t <= a_max, a_min <= 1 <= a_max and
    eta <= 1 / (L a_max):

        (1/K) sum_{k<=K} E|P grad F(w_k)|^2 <= 2 gap / (K eta a_min) + L eta a_max^2 s2 / a_min

    Two limits. It bounds the projected gradient only: where P grad F = 0 the method stands still, minimum or not. And
    alpha_t must be fixed before the sample of step t (``stats="lagged"``): made from the same mini-batch it is
    correlated with g, and E[alpha_t g] is not E[alpha_t] grad F.
    """
    _require(0 < L < math.inf, "L > 0 and finite", L=L)
    _require(s2 >= 0, "s2 >= 0", s2=s2)
    _require(0 < a_min <= 1 <= a_max < math.inf, "0 < a_min <= 1 <= a_max", a_min=a_min, a_max=a_max)
    _require(0 < eta <= (1 + 1e-12) / (L * a_max), "0 < eta <= 1 / (L a_max)", eta=eta, L=L, a_max=a_max)
    _check_gap(gap)
    return 2 * gap / (_count(steps) * eta * a_min) + L * eta * a_max**2 * s2 / a_min


def steps_to_target(given: Constants, mu: float, gap: float, target: float) -> float:
    """Steps after which (1) promises E[F - F*] <= target:  1 + log((target - floor) / gap) / log(1 - c mu q_min).

    For small c mu q_min it is proportional to 1 / q_min. A target at or below the floor of (1) is a ValueError.
    """
    c = given._convexity()
    given._check_step(mu)
    _check_gap(gap)
    floor = given.L * mu * given.S / (2 * c * given.q_min)
    _require(target > floor, "target above the floor L mu S / (2 c q_min)", target=target, floor=floor)
    if target - floor >= gap:
        return 1.0
    if c * mu * given.q_min == 1:
        return 2.0
    return 1 + math.log((target - floor) / gap) / math.log1p(-c * mu * given.q_min)


def quadratic_floor(eigenvalues: np.ndarray, mu: float, q: float, s2: float, s_e2: float = 0.0) -> float:
    """The exact limit of E[F(w_k) - F*] on F = sum_i lambda_i (w_i - w*_i)^2 / 2 with constant q and both noises
    isotropic (s2/d and s_e2/d in every coordinate):

        sum_i mu (q^2 s2 + s_e2) / d / (2 q (2 - mu q lambda_i))

    Without rounding noise it is about q mu s2 / 4 and *falls* with q; the part of the rounding noise, about
    mu s_e2 / (4 q), rises as q falls. That the floor of low precision is higher is true of the second part alone.
    """
    eigenvalues = np.asarray(eigenvalues, np.float64)
    _require(q > 0, "q > 0", q=q)
    _require(0 < mu * q * eigenvalues.max() < 2, "0 < mu q lambda_max < 2", mu=mu, q=q, lambda_max=eigenvalues.max())
    noise = (q**2 * s2 + s_e2) / len(eigenvalues)
    return float(np.sum(mu * noise / (2 * q * (2 - mu * q * eigenvalues))))


def _check_gap(gap: float) -> None:
    _require(0 <= gap < math.inf, "F(w_1) - F* >= 0 and finite", gap=gap)


def _count(k: np.ndarray | int) -> np.ndarray:
    k = np.asarray(k)
    _require(k.size > 0 and k.min() >= 1, "steps are counted from 1", k=k.min() if k.size else None)
    return k


def _require(holds: bool, assumption: str, **numbers: object) -> None:
    if not holds:
        said = ", ".join(f"{name} = {value}" for name, value in numbers.items())
        raise ValueError(f"the bound assumes {assumption}; got {said}")
