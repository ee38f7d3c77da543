"""Scales from the largest finite magnitude of a tensor or a block. Section 5 of docs/numerics.md."""

import torch
from torch import Tensor

from .formats import Format, exp2_f32, f32, get_format

BLOCKS = (16, 32, 64, 128, 256)


def finite_magnitude(y: Tensor) -> Tensor:
    """|y|, with 0 for NaN and infinity."""
    return torch.where(torch.isfinite(y), y.abs(), torch.zeros_like(y))


def scale_from_absmax(absmax: Tensor, format: str | Format, pow2: bool = False) -> Tensor:
    """The scale s (float32) of a largest magnitude A (float32), elementwise; 1 where A = 0 (section 5).

    `s = max(A / F, 2^-126)`; with `pow2` the smallest power of two with `F*s >= A`, exponent in [-126, 127].
    """
    fmt = get_format(format)
    largest = f32(fmt.largest)
    if pow2:
        # With A = fa * 2^ea and F = ff * 2^ef, both fractions in [0.5, 1): F*2^k >= A from k = ea - ef on if
        # fa <= ff, else from ea - ef + 1 on. Nothing is rounded; in float64 no A is subnormal.
        fa, ea = torch.frexp(absmax.to(torch.float64))
        ff, ef = torch.frexp(largest.to(torch.float64))
        exponent = ea - ef + (fa > ff).to(torch.int32)
        scale = exp2_f32(exponent.clamp(-126, 127))
    else:
        scale = torch.maximum(absmax / largest, f32(2.0**-126))
    return torch.where(absmax == 0, torch.ones_like(scale), scale)


def inverse_scale(scale: Tensor) -> Tensor:
    """`inv = 1 / s`, a float32 division (section 5)."""
    return torch.ones_like(scale) / scale


def block_count(n: int, block: int) -> int:
    return (n + block - 1) // block


def block_absmax(y: Tensor, block: int) -> Tensor:
    """The largest finite magnitude of every block of consecutive elements, short at the end (section 5)."""
    if block not in BLOCKS:
        raise ValueError(f"block must be one of {', '.join(map(str, BLOCKS))}, got {block}")
    n = y.numel()
    blocks = block_count(n, block)
    if blocks == 0:
        return y.new_zeros(0)
    padded = torch.cat([finite_magnitude(y), y.new_zeros(blocks * block - n)])
    return padded.view(blocks, block).amax(dim=1)


def spread(per_block: Tensor, block: int, n: int) -> Tensor:
    """One value per element from one value per block."""
    return per_block.repeat_interleave(block)[:n]
