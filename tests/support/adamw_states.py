"""States of AdamW of every kind, for the tests."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgrad.reference import formats, scales

KINDS = ("fp32", "bf16", "fp16", "int8", "fp8_e4m3", "fp8_e5m2", "int4", "fp4_e2m1", "factored", "factored int4")
_STORED = {
    "int8": torch.int8,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
    "int4": torch.uint8,
    "fp4_e2m1": torch.uint8,
}


def block_of(t: Tensor) -> int:
    """The largest block, up to 128, of which rows are whole multiples; 0 if there is none."""
    length = t.numel() // t.shape[0] if t.dim() > 1 and t.shape[0] else t.numel()
    return next((b for b in (128, 64, 32, 16) if length and length % b == 0), 0)


def new_states(
    values: list[Tensor], weights: torch.dtype, kind: str, beta1: float, *, poison: bool = False, seed: int = 0
) -> dict:
    """The arguments of adamw_step_ that hold parameters and states; states are what a first step must not read
    (`poison`) or some numbers.

    Where rows are not whole multiples of a block of 16 elements, states are float32 and so are int8 weights.
    """
    generator = torch.Generator().manual_seed(seed)
    out = {k: [] for k in ("params", "param_scales", "exp_avgs", "exp_avg_scales", "exp_avg_sqs", "exp_avg_sq_scales")}

    def fill(t: Tensor, low: float, high: float) -> Tensor:
        if poison:
            t.as_strided((t.numel(),), (1,)).view(torch.uint8).fill_(0x7F)  # NaN, in the float types
            return t
        if t.is_floating_point():
            numbers = low + (high - low) * torch.rand(t.shape, generator=generator)
            return t.copy_(numbers)
        return t.copy_(torch.randint(0, 120 if t.dtype == torch.int8 else 256, t.shape, generator=generator))

    first_kind, _, extra = kind.partition(" ")
    for p in values:
        none, block = torch.empty(0), block_of(p)
        if weights == torch.int8 and block and p.dim() > 1:
            flat = p.contiguous().view(-1)
            s = scales.block_absmax(flat, block).clamp(min=1e-30) / 120
            inverse = scales.spread(1 / s, block, p.numel())
            out["params"].append(formats.encode(flat, inverse, "int8").to(torch.int8).view(p.shape))
            out["param_scales"].append(s)
        else:
            out["params"].append(p.to(torch.float32 if weights == torch.int8 else weights))
            out["param_scales"].append(none)
        stored = out["params"][-1]
        full = lambda dtype, low, high, p=stored: fill(torch.empty_like(p, dtype=dtype), low, high)  # noqa: E731
        first_state = extra or first_kind
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(first_state, torch.float32)
        if beta1 == 0.0:
            first = none, none
        elif first_state in _STORED and block:
            packed = _STORED[first_state] == torch.uint8
            codes = torch.empty(p.numel() // 2 if packed else p.numel(), dtype=torch.uint8)
            codes = fill(codes, 0, 0).view(_STORED[first_state])
            first = codes, fill(torch.empty(p.numel() // block), 1e-6, 1e-3)
        else:
            first = full(dtype, -1e-2, 1e-2), none
        if first_kind == "factored" and p.dim() > 1:
            rows = p.shape[0]
            columns = p.numel() // rows if rows else 0
            second = fill(torch.empty(rows), 0, 1e-3), fill(torch.empty(columns), 0, 1e-3)
        elif first_kind in _STORED and block:
            nibbles = _STORED[first_kind] == torch.uint8
            codes = fill(torch.empty(p.numel() // 2 if nibbles else p.numel(), dtype=torch.uint8), 0, 0)
            second = codes, fill(torch.empty(p.numel() // block), 1e-6, 1e-3)
        else:
            second = full(dtype, 0, 1e-3), none
        for key, pair in (("exp_avg", first), ("exp_avg_sq", second)):
            out[f"{key}s"].append(pair[0])
            out[f"{key}_scales"].append(pair[1])
    packed_format = "fp4_e2m1" if kind == "fp4_e2m1" else "int4"
    return {**out, "packed_format": packed_format}
