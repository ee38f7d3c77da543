"""Tensors that the contract must hold for: ordinary, tiny, huge, wild."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

KINDS = ("normal", "tiny", "huge", "wild", "sprinkled", "zeros", "offset", "constant")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SMALL_SIZES = (1, 17, 127, 128, 129, 1000, 1024, 1025)
LARGE_SIZES = (65_536 + 3, 200_000)

# Quiet and signalling NaNs of both signs: the CUDA canonical one, the x86 default, payloads at either end.
NAN_PAYLOADS = (
    0x7FC00000,
    0x7FFFFFFF,
    0xFFC00000,
    0xFFFFFFFF,
    0x7F800001,
    0xFF800001,
    0x7FA00000,
    0x7FC12345,
)


def from_bits(patterns: Sequence[int]) -> Tensor:
    """float32 with the given bit patterns."""
    return torch.tensor([p - 2**32 if p >= 2**31 else p for p in patterns], dtype=torch.int32).view(torch.float32)


def _wild(n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if dtype == torch.float32:
        return torch.randint(-(2**31), 2**31, (n,), generator=generator).to(torch.int32).view(dtype)
    return torch.randint(-(2**15), 2**15, (n,), generator=generator).to(torch.int16).view(dtype)


def tensor(kind: str, n: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """A flat tensor of n elements of one of KINDS; the same seed gives the same tensor."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + n)
    if kind == "wild":
        return _wild(n, dtype, generator)
    x = torch.randn(n, generator=generator)
    if kind == "normal":
        x = x * 1e-3
    elif kind == "tiny":
        x = x * 1e-30
    elif kind == "huge":
        x = x * 1e22
    elif kind == "sprinkled":
        x[::37] = from_bits(NAN_PAYLOADS)[torch.randint(8, (len(x[::37]),), generator=generator)]
        x[5::41], x[9::97] = torch.inf, -torch.inf
    elif kind == "zeros":
        x = x * (torch.rand(n, generator=generator) > 0.5)  # both +0 and -0
    elif kind == "offset":
        x = x + 1000.0
    elif kind == "constant":
        x = torch.full((n,), -0.3)
    else:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}; got {kind!r}")
    return x.to(dtype)


def shaped(flat: Tensor) -> Tensor:
    """The same elements in three or two dimensions where the count allows it: gradients have rows."""
    n = flat.numel()
    for rows in (8, 5, 3, 2):
        if n % (rows * 4) == 0:
            return flat.view(rows, 4, -1)
        if n % rows == 0 and n > rows:
            return flat.view(rows, -1)
    return flat


def channels_last(n: int, c: int, h: int, w: int, seed: int = 0) -> Tensor:
    x = torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed))
    return x.to(memory_format=torch.channels_last)


def freed() -> torch.Tensor:
    """A tensor whose storage was freed, as sharding frameworks free it between uses."""
    x = torch.ones(8)
    x.untyped_storage().resize_(0)
    return x
