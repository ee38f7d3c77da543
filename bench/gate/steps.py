"""Steps of optimizers: what they left in parameters and momenta."""

from __future__ import annotations

from torch import Tensor

from bench.gate.call import Call, require, sample
from bench.gate.normalized import EPS
from bench.gate.rounding import LARGEST, RoundingErrors, close_factor
from bench.shapes import Workspace


def _update(work: Workspace, i: int, lr: float) -> tuple[Tensor, Tensor]:
    """The momentum a contestant left, after checking that its parameter follows from it."""
    m, p, before = sample(work.momenta[i]), sample(work.params[i]), sample(work.initial["params"][i])
    error = float(((p - (before - lr * m)).abs() / (before.abs() + lr * m.abs() + 1e-30)).amax())
    require(error < 5e-7, f"params[{i}] is off by {error} (relative)")
    return m, before


def momentum(work: Workspace, call: Call, result: object, *, lr: float, mu: float, decay: float) -> None:
    for i, g in enumerate(work.initial["grads"]):
        m, p = _update(work, i, lr)
        old, x = mu * sample(work.initial["momenta"][i]), sample(g)
        error = ((m - (old + x + decay * p)).abs() / (old.abs() + x.abs() + (decay * p).abs() + 1e-30)).amax()
        require(float(error) < 5e-7, f"momenta[{i}] is off by {float(error)} (relative)")


def two_steps(
    work: Workspace, call: Call, result: list[Tensor], *, lr: float, mu: float, tolerance: float = 2e-6
) -> None:
    """Of optimizers with momenta of their own, which begin at zero: after a second call p - lr (g + (1 + mu) g).

    ``result``: parameters, before and after the second call in the same memory.
    """
    call()
    for i, (p, before, g) in enumerate(zip(result, work.initial["params"], work.initial["grads"], strict=True)):
        b, u = sample(before), lr * (2 + mu) * sample(g)
        error = float(((sample(p) - (b - u)).abs() / (b.abs() * 1e-1 + u.abs())).amax())
        require(error < tolerance, f"params[{i}] is off by {error} (relative)")


def chain(
    work: Workspace,
    call: Call,
    result: object,
    *,
    method: str,
    format: str,
    lr: float,
    mu: float,
    decay: float,
    first: float = 1.0,
    measured: bool = True,
) -> None:
    """What went into the momentum is a stochastic rounding of the normalized gradient; q_k is its own."""
    truth, factors = work.moments, [float(k) for k in result] if measured else []
    require(not measured or len(factors) == len(truth), f"{len(factors)} factors q_k, expected {len(truth)}")
    errors = RoundingErrors(format)
    for i, (std, mean) in enumerate(truth):
        a = 1 / (std + EPS) if method == "znorm" else work.sigma / first
        m, p = _update(work, i, lr)
        g, old = sample(work.initial["grads"][i]), sample(work.initial["momenta"][i])
        y, q = (g - mean) * a, m - mu * old - decay * p
        scale = 1.0
        if format in LARGEST:
            large = work.initial["grads"][i]
            scale = max(float(large.amax()) - mean, mean - float(large.amin())) * a / LARGEST[format]
        # float32 rounds x - c, the momentum and the decay; std and mean may be off by a few units themselves.
        slack = (
            1e-6 * a * (g.abs() + abs(mean) + std)
            + 3e-7 * (m.abs() + old.abs() + q.abs() + (decay * p).abs())
        ) / scale
        errors.add(f"gradient {i}", y / scale, q / scale, slack)
        if measured:
            close_factor(f"q_k[{i}]", factors[i], work.grads[i].numel(), y, q)
    errors.check()
