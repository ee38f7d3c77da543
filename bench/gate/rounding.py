"""Codes and scales: neighbours of what was rounded, unbiased, with the scatter of stochastic rounding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.gate.call import Call, require, sample
from bench.shapes import Workspace

# Smallest normal exponent and mantissa bits; None: integers.
GAPS = {"bf16": (-126, 7), "fp8_e4m3": (-6, 3), "fp8_e5m2": (-14, 2), "fp4_e2m1": (0, 1), "int8": None}
LARGEST = {"fp8_e4m3": 448.0, "fp8_e5m2": 57344.0, "fp4_e2m1": 6.0, "int8": 127.0}


def gap(v: Tensor, format: str) -> Tensor:
    """The distance of the two neighbours of v in a format, float64."""
    if GAPS[format] is None:
        return torch.ones_like(v)
    lowest, mantissa = GAPS[format]
    exponent = torch.frexp(v)[1].sub_(1).clamp_(min=lowest)
    return torch.ldexp(torch.ones_like(v), exponent - mantissa)


class RoundingErrors:
    """Collects (q - v) of rounded numbers; both q and v in units of the scale."""

    def __init__(self, format: str, rounding: str = "stochastic") -> None:
        self.format, self.rounding = format, rounding
        self.n, self.sum, self.squares, self.expected = 0, 0.0, 0.0, 0.0

    def add(self, name: str, v: Tensor, q: Tensor, slack: Tensor | float = 0.0) -> None:
        """slack: what float32 may have added to v, absolute."""
        gaps = gap(v, self.format)
        error = q - v
        reach = 1.001 if self.rounding == "stochastic" else 0.501
        outside = error.abs() > gaps * reach + slack
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
        if self.rounding != "stochastic":
            return  # a neighbour within half a gap is the nearest
        bias, squares, expected = self.sum / self.n, self.squares / self.n, self.expected / self.n
        noise = 6 * 0.5 / math.sqrt(self.n)
        require(abs(bias) < noise + 3e-3, f"biased by {bias:+.4f} of a gap (n = {self.n})")
        require(
            abs(squares - expected) < noise + 5e-3,
            f"mean square error {squares:.4f} of a gap squared, stochastic rounding has {expected:.4f}",
        )


def close_factor(name: str, factor: float, n: int, y: Tensor, q: Tensor, tolerance: float = 1e-4) -> None:
    """q_k of n elements, of which y and q are all or a selection; that of a selection scatters a little."""
    square = torch.dot(y, y)
    truth = float(torch.dot(y, q) / square)
    scatter = 0.0 if y.numel() == n else 6 * float((y * (q - y)).norm() / square)
    require(abs(factor - truth) < tolerance + scatter, f"{name} = {factor}, expected {truth}")


def rounded(
    work: Workspace,
    call: Call,
    result: list[tuple[Tensor, Tensor, Tensor | None]],
    *,
    format: str,
    block: int = 0,
    stretch: float = 1.0,
    pow2: bool = False,
    rounding: str = "stochastic",
    measured: bool = True,
    scale_tolerance: float = 1e-5,
    factor_tolerance: float = 1e-4,
) -> None:
    """Per tensor (codes as numbers, scale, q_k); the scale is that of the absmax (times ``stretch``).

    measured: q_k was computed.
    """
    require(len(result) == len(work.grads), f"{len(result)} tensors, expected {len(work.grads)}")
    errors = RoundingErrors(format, rounding)
    for i, (g, (codes, scale, factor)) in enumerate(zip(work.initial["grads"], result, strict=True)):
        n = g.numel()
        require(codes.numel() == n, f"codes[{i}]: {codes.numel()} elements, expected {n}")
        scale = scale.reshape(-1).float()
        if format in LARGEST:
            expected = _scales(g, block, format, stretch, pow2)
            require(
                scale.shape == expected.shape,
                f"scale[{i}]: {scale.numel()} scales, expected {expected.numel()}",
            )
            require(
                torch.allclose(scale, expected, rtol=scale_tolerance, atol=0), f"scale[{i}] is not that of the absmax"
            )
        s = sample(scale.repeat_interleave(block)[:n] if block else scale.expand(n))
        x, q = sample(g), sample(codes.float() if codes.dtype.itemsize == 1 else codes)
        # v is x / s rounded to float32, or x times a rounded inverse: a few units of it.
        errors.add(f"codes[{i}]", x / s, q, 4e-7 * (x / s).abs() if block or format in LARGEST else 0.0)
        if measured:
            close_factor(f"q_k[{i}]", float(factor), n, x, q * s, factor_tolerance)
    errors.check()


def _scales(g: Tensor, block: int, format: str, stretch: float, pow2: bool) -> Tensor:
    flat = g.reshape(-1).float()
    rows = torch.nn.functional.pad(flat, (0, -len(flat) % block)).view(-1, block) if block else flat.view(1, -1)
    exact = rows.abs().amax(1) * (stretch / LARGEST[format])
    return torch.exp2(torch.ceil(torch.log2(exact.double()))).float() if pow2 else exact


def restored(
    work: Workspace, call: Call, result: list[Tensor], *, block: int, tolerance: float, part: str = "grads"
) -> None:
    """Formats with codes of their own: what comes back is within a part of the absmax of the block."""
    require(len(result) == len(work.grads), f"{len(result)} tensors, expected {len(work.grads)}")
    for i, (g, back) in enumerate(zip(work.initial[part], result, strict=True)):
        require(back.shape == g.shape, f"restored[{i}] has the shape {list(back.shape)}")
        flat = g.reshape(-1).float()
        rows = torch.nn.functional.pad(flat, (0, -len(flat) % block)).view(-1, block)
        largest = rows.abs().amax(1).repeat_interleave(block)[: len(flat)]
        error = float(((sample(back) - sample(g)).abs() / sample(largest)).amax())
        require(error <= tolerance, f"restored[{i}] is off by {error} of the absmax")
