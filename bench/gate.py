"""The correctness gate: what a contestant computed, against float64, before any clock runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.shapes import Workspace

SAMPLE = 1 << 18  # elements of a tensor that are looked at one by one
GAPS = {"bf16": (-126, 7), "fp8_e4m3": (-6, 3), "int8": None}  # smallest normal exponent, mantissa bits
LARGEST = {"fp8_e4m3": 448.0, "int8": 127.0}
EPS = 1e-8


class Wrong(AssertionError):
    """A contestant that does not do the work."""


def identity(result: object) -> object:
    return result


@dataclass(frozen=True)
class Call:
    """What is timed, ``function(*arguments)``, and how the gate reads its result."""

    function: Callable[..., object]
    arguments: tuple = ()
    view: Callable[[object], object] = identity

    def __call__(self) -> object:
        return self.function(*self.arguments)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Wrong(message)


def run(work: Workspace, call: Call, check: Callable[[Workspace, Call, object], None]) -> None:
    """Calls a contestant on fresh data and checks what it did; raises :class:`Wrong`."""
    work.reset()
    check(work, call, call.view(call()))


def nothing(work: Workspace, call: Call, result: object) -> None:
    """Floors compute nothing; tests/test_bench_suite.py checks the loops."""


def sample(t: Tensor) -> Tensor:
    """All elements in float64, or an even selection of a large tensor."""
    return t.reshape(-1)[:: -(-t.numel() // SAMPLE)].double()


def moments(
    work: Workspace, call: Call, result: list[tuple[float, float]], *, tolerance: float = 1e-4
) -> None:
    truth = work.moments
    require(len(result) == len(truth), f"{len(result)} tensors, expected {len(truth)}")
    for i, ((std, mean), (std64, mean64)) in enumerate(zip(result, truth, strict=True)):
        require(abs(float(std) / std64 - 1) < tolerance, f"std[{i}] = {float(std)}, expected {std64}")
        require(
            abs(float(mean) - mean64) < tolerance * std64, f"mean[{i}] = {float(mean)}, expected {mean64}"
        )


def znorm(work: Workspace, call: Call, result: object, *, tolerance: float = 1e-4) -> None:
    for i, (y, g, (std, mean)) in enumerate(
        zip(work.grads, work.initial["grads"], work.moments, strict=True)
    ):
        expected = (sample(g) - mean) / (std + EPS)
        error = float(((sample(y) - expected).abs() / (1 + expected.abs())).amax())
        require(error < tolerance, f"y[{i}] is off by {error}")


def gap(v: Tensor, format: str) -> Tensor:
    """The distance of the two neighbours of v in a format, float64."""
    if GAPS[format] is None:
        return torch.ones_like(v)
    lowest, mantissa = GAPS[format]
    exponent = torch.frexp(v)[1].sub_(1).clamp_(min=lowest)
    return torch.ldexp(torch.ones_like(v), exponent - mantissa)


class RoundingErrors:
    """Collects (q - v) of stochastically rounded numbers; both q and v in units of the scale."""

    def __init__(self, format: str) -> None:
        self.format, self.n, self.sum, self.squares, self.expected = format, 0, 0.0, 0.0, 0.0

    def add(self, name: str, v: Tensor, q: Tensor, slack: Tensor | float = 0.0) -> None:
        """slack: what float32 may have added to v, absolute."""
        gaps = gap(v, self.format)
        error = q - v
        outside = error.abs() > gaps * 1.001 + slack
        require(not bool(outside.any()), f"{name}: {int(outside.sum())} of {v.numel()} are not a neighbour")
        clear = gaps > 100 * slack if isinstance(slack, Tensor) else gaps > 0
        units = (error / gaps * v.sign())[clear]
        below = (v.abs() / gaps)[clear].frac()
        self.n += units.numel()
        self.sum += float(units.sum())
        self.squares += float((units * units).sum())
        self.expected += float((below * (1 - below)).sum())

    def check(self) -> None:
        """Unbiased, and with the variance f (1 - f) of stochastic rounding: nearest would have less."""
        bias, squares, expected = self.sum / self.n, self.squares / self.n, self.expected / self.n
        noise = 6 * 0.5 / math.sqrt(self.n)
        require(abs(bias) < noise + 3e-3, f"biased by {bias:+.4f} of a gap (n = {self.n})")
        require(
            abs(squares - expected) < noise + 5e-3,
            f"mean square error {squares:.4f} of a gap squared, stochastic rounding has {expected:.4f}",
        )


def _close_factor(name: str, factor: float, n: int, y: Tensor, q: Tensor) -> None:
    """q_k of n elements, of which y and q are all or a selection; that of a selection scatters a little."""
    truth = float(torch.dot(y, q) / torch.dot(y, y))
    require(abs(factor - truth) < (1e-4 if y.numel() == n else 1e-3), f"{name} = {factor}, expected {truth}")


def rounded(
    work: Workspace,
    call: Call,
    result: list[tuple[Tensor, Tensor, Tensor]],
    *,
    format: str,
    block: int = 0,
    stretch: float = 1.0,
) -> None:
    """Codes are one of the two neighbours and unbiased; scales and q_k are right."""
    errors = RoundingErrors(format)
    require(len(result) == len(work.grads), f"{len(result)} tensors, expected {len(work.grads)}")
    for i, (g, (codes, scale, factor)) in enumerate(zip(work.initial["grads"], result, strict=True)):
        n = g.numel()
        require(codes.numel() == n, f"codes[{i}]: {codes.numel()} elements, expected {n}")
        scale = scale.reshape(-1)
        if format in LARGEST:
            padded = (
                torch.nn.functional.pad(g.reshape(-1), (0, -n % block)).view(-1, block)
                if block
                else g.reshape(1, -1)
            )
            expected = padded.abs().amax(1) * (stretch / LARGEST[format])
            require(
                scale.shape == expected.shape,
                f"scale[{i}]: {scale.numel()} scales, expected {expected.numel()}",
            )
            require(
                torch.allclose(scale, expected, rtol=1e-5, atol=0), f"scale[{i}] is not that of the absmax"
            )
        wide = scale.repeat_interleave(block)[:n] if block else scale.expand(n)
        x, q, s = sample(g), sample(codes.float() if codes.dtype.itemsize == 1 else codes), sample(wide)
        errors.add(f"codes[{i}]", x / s, q)
        _close_factor(f"q_k[{i}]", float(factor), n, x, q * s)
    errors.check()


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
) -> None:
    """What went into the momentum is a stochastic rounding of the normalized gradient; q_k is its own."""
    truth, factors = work.moments, [float(k) for k in result]
    require(len(factors) == len(truth), f"{len(factors)} factors q_k, expected {len(truth)}")
    sizes = [g.numel() for g in work.grads]
    everything = sum(n * m for n, (_, m) in zip(sizes, truth, strict=True)) / sum(sizes)
    square = sum(n * (s * s + (m - everything) ** 2) for n, (s, m) in zip(sizes, truth, strict=True)) / sum(
        sizes
    )
    errors = RoundingErrors(format)
    for i, (std, mean) in enumerate(truth):
        a = 1 / (std + EPS) if method == "znorm" else math.sqrt(square) / first
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
        _close_factor(f"q_k[{i}]", factors[i], sizes[i], y, q)
    errors.check()
