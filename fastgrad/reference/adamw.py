"""One step of AdamW. Sections 12 and 13 of docs/numerics.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from . import formats, scales
from .factored import Factored, factored_root
from .formats import FLT_MAX, f32
from .philox import noise16

FIRST_MOMENT, SECOND_MOMENT = 0, 1  # slots of the noise of states
ROOT_CODES = {8: 255, 4: 15}  # bits of a stored root -> U
_FORMATS = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int8: "int8",
    torch.float8_e4m3fn: "fp8_e4m3",
    torch.float8_e5m2: "fp8_e5m2",
}


@dataclass(frozen=True)
class Hyper:
    """One parameter group, float64 on the host; the columns of `hyper` in order."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    maximize: bool

    @staticmethod
    def from_row(row: Tensor) -> Hyper:
        lr, beta1, beta2, eps, weight_decay, maximize, _, _ = row.tolist()
        return Hyper(lr, beta1, beta2, eps, weight_decay, bool(maximize))


@dataclass
class States:
    """What AdamW keeps of every tensor of a list. A tensor without elements stands for what a parameter does not have.

    The storage says how a state is kept: a first moment is float32, bfloat16 or float16, or codes with scales of
    blocks (uint8 holds two codes of ``packed_format``); a second moment is float32, bfloat16 or float16, or uint8
    codes of roots with scales (8 bits each, or 4 where there are half as many bytes as elements), or float32 row means
    with column means in the place of scales. A parameter with scales is int8 codes.
    """

    param_scales: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_scales: list[Tensor]
    exp_avg_sqs: list[Tensor]
    exp_avg_sq_scales: list[Tensor]
    ages: list[int]  # t of every tensor, 1 at its first step
    packed_format: str = "int4"
    # Of factored tensors: float64 sums of squares of the rows and columns, made ("sums") or used ("update") by a call
    # that does only one half of the work; "all" needs none.
    phase: str = "all"
    row_sums: list[Tensor] = field(default_factory=list)
    column_sums: list[Tensor] = field(default_factory=list)
    bounds: list[float] | None = None  # of |y|, where it is not that of this call's moments
    whole_rows: list[int] | None = None  # of the tensors that these are shards of

    def is_factored(self, i: int) -> bool:
        return self.exp_avg_sqs[i].dtype == torch.float32 and self.exp_avg_sq_scales[i].numel() > 0

    def first_format(self, i: int) -> str:
        return _FORMATS.get(self.exp_avgs[i].dtype, self.packed_format)

    def second_kind(self, i: int, n: int) -> str:
        """fp32, bf16, fp16, codes8, codes4 or factored."""
        stored = self.exp_avg_sqs[i]
        if stored.dtype == torch.uint8:
            return "codes8" if stored.numel() == n else "codes4"
        return "factored" if self.is_factored(i) else _FORMATS[stored.dtype]

    def first_formats(self) -> list[str]:
        return [_FORMATS.get(t.dtype, self.packed_format) for t in self.exp_avgs]

    def second_kinds(self, params: Sequence[Tensor]) -> list[str]:
        if not any(map(Tensor.numel, self.exp_avg_sq_scales)):  # quickly, as lists of small tensors need it
            return [_FORMATS[t.dtype] for t in self.exp_avg_sqs]
        return [self.second_kind(i, n) for i, n in enumerate(map(Tensor.numel, params))]

    def flat(self, clock: int = 0) -> States:
        """The same memory as flat vectors in storage order, ages moved on by a clock."""
        lists = ("param_scales", "exp_avgs", "exp_avg_scales", "exp_avg_sqs", "exp_avg_sq_scales")
        flat: dict[str, Any] = {name: [t.as_strided((t.numel(),), (1,)) for t in getattr(self, name)] for name in lists}
        return replace(self, ages=[age + clock for age in self.ages], **flat)


def power(base: float, exponent: int) -> float:
    """base^exponent by squaring: multiplications alone, in one order."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result = result * base
        base = base * base
        exponent >>= 1
    return result


@dataclass(frozen=True)
class Step:
    """The float32 constants of one tensor's step (section 12)."""

    rate1: Tensor
    rate2: Tensor
    step: Tensor
    root: Tensor
    eps: Tensor
    decay: Tensor

    @staticmethod
    def of(hyper: Hyper, factor: float, age: int) -> Step:
        c1, c2 = 1.0 - power(hyper.beta1, age), 1.0 - power(hyper.beta2, age)
        return Step(
            rate1=f32(1.0 - hyper.beta1),
            rate2=f32(1.0 - hyper.beta2),
            step=f32(hyper.lr * factor / c1),
            root=f32(1.0 / math.sqrt(c2)),
            eps=f32(hyper.eps),
            decay=f32(hyper.lr * hyper.weight_decay),
        )


def adamw(
    q: Tensor,
    param: Tensor,
    states: States,
    i: int,
    hyper: Hyper,
    sums: Factored | None,
    *,
    factor: float,
    first: bool,
    rounding: str,
    seed: int,
    streams: tuple[int, int, int],  # of the parameter, the first and the second moment
    offset: int = 0,
) -> None:
    """Update `param` and the states of tensor i in place from the treated gradient q (float32), all flat."""
    n, step = q.numel(), Step.of(hyper, factor, states.ages[i])
    if n == 0:
        return  # rows without elements have no mean: what is kept of them stays
    noises = [_noise(seed, stream, offset, n) for stream in streams]
    d = -q if hyper.maximize else q

    m = d
    if hyper.beta1 != 0.0:
        m = _load_first(states, i, n, first)
        m = m + step.rate1 * (d - m)
        _store_first(m, states, i, noises[1])

    if sums is not None:
        w = factored_root(states.exp_avg_sqs[i], states.exp_avg_sq_scales[i], sums, hyper.beta2, states.ages[i], first)
    else:
        square = d * d
        square = torch.where(square < f32(FLT_MAX), square, f32(FLT_MAX))  # of NaN, too
        v = _load_second(states, i, n, first)
        v = v + step.rate2 * (square - v)
        r = formats.square_root(v)
        _store_second(v, r, states, i, noises[2])
        w = r * step.root

    p = _load_parameter(param, states.param_scales, i, n)
    p = p - (step.step * (m / (w + step.eps)) + step.decay * p)
    _store_parameter(p, param, states.param_scales, i, rounding, noises[0])


def _noise(seed: int, stream: int, offset: int, n: int) -> Tensor:
    lead = offset % 1024
    return noise16(seed, stream, lead + n, offset // 1024)[lead:]


def _is_plain(stored: Tensor) -> bool:
    return stored.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _load_first(states: States, i: int, n: int, first: bool) -> Tensor:
    stored = states.exp_avgs[i]
    if first:
        return torch.zeros(n, dtype=torch.float32, device="cpu")
    if _is_plain(stored):
        return stored.float()
    fmt = formats.get_format(states.first_format(i))
    block_scales = states.exp_avg_scales[i]
    s = scales.spread(block_scales, n // block_scales.numel(), n)
    return formats.decode(formats.load_codes(stored, fmt, n), s, fmt)


def _store_first(m: Tensor, states: States, i: int, noise: Tensor) -> None:
    stored, block_scales = states.exp_avgs[i], states.exp_avg_scales[i]
    if _is_plain(stored):
        stored.copy_(formats.store_float(m, stored.dtype, "stochastic", noise))
        return
    fmt = formats.get_format(states.first_format(i))
    block = m.numel() // block_scales.numel()
    s = scales.scale_from_absmax(scales.block_absmax(m, block), fmt)
    inv = scales.spread(scales.inverse_scale(s), block, m.numel())
    stored.copy_(formats.store_codes(formats.encode(m, inv, fmt, "stochastic", noise), fmt))
    block_scales.copy_(s)


def _load_second(states: States, i: int, n: int, first: bool) -> Tensor:
    stored = states.exp_avg_sqs[i]
    if first:
        return torch.zeros(n, dtype=torch.float32, device="cpu")
    if _is_plain(stored):
        return stored.float()
    codes = stored.to(torch.int32)
    if states.second_kind(i, n) == "codes4":
        codes = torch.stack([codes & 0xF, codes >> 4], dim=1).reshape(-1)
    block_scales = states.exp_avg_sq_scales[i]
    r = codes.float() * scales.spread(block_scales, n // block_scales.numel(), n)
    return r * r


def _store_second(v: Tensor, r: Tensor, states: States, i: int, noise: Tensor) -> None:
    stored, block_scales = states.exp_avg_sqs[i], states.exp_avg_sq_scales[i]
    if _is_plain(stored):
        stored.copy_(formats.store_float(v, stored.dtype, "stochastic", noise))
        return
    n = v.numel()
    bits = 8 if states.second_kind(i, n) == "codes8" else 4
    largest = f32(float(ROOT_CODES[bits]))
    block = n // block_scales.numel()
    absmax = r.view(-1, block).amax(dim=1)
    s = torch.where(absmax == 0, torch.ones_like(absmax), torch.maximum(absmax / largest, f32(2.0**-126)))
    scaled = torch.minimum(r * scales.spread(scales.inverse_scale(s), block, n), largest)
    codes = ((scaled * f32(65536.0)).to(torch.int32) + noise) >> 16
    codes = torch.where(r > 0, codes.clamp(min=1), codes)
    if bits == 4:
        pairs = codes.view(-1, 2)
        codes = pairs[:, 0] | pairs[:, 1] << 4
    stored.copy_(codes.to(torch.uint8))
    block_scales.copy_(s)


def _load_parameter(param: Tensor, param_scales: list[Tensor], i: int, n: int) -> Tensor:
    if param.dtype != torch.int8:
        return param.float()
    return param.float() * scales.spread(param_scales[i], n // param_scales[i].numel(), n)


def _store_parameter(
    p: Tensor, param: Tensor, param_scales: list[Tensor], i: int, rounding: str, noise: Tensor
) -> None:
    if param.dtype != torch.int8:
        param.copy_(formats.store_float(p, param.dtype, rounding, noise))
        return
    n, s = p.numel(), param_scales[i]
    block = n // s.numel()
    absmax = scales.block_absmax(p, block)
    kept = (absmax == 0) | ((f32(48.0) * s <= absmax) & (absmax <= f32(127.0) * s))
    s = torch.where(kept, s, torch.maximum(absmax / f32(120.0), f32(2.0**-126)))
    inv = scales.spread(scales.inverse_scale(s), block, n)
    param.copy_(formats.encode(p, inv, "int8", rounding, noise).to(torch.int8))
    param_scales[i].copy_(s)
