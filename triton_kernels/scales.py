"""Scales from the largest finite magnitude, of a tensor or of blocks. Section 5 of docs/numerics.md."""

import triton
import triton.language as tl

from . import formats
from .bits import INFINITY, divide, exp2, float_of, magnitude_bits
from .memory import inside, load

FRACTION = tl.constexpr(0x000FFFFFFFFFFFFF)


@triton.jit
def scale_for(absmax, FORMAT: tl.constexpr, POW2: tl.constexpr):
    """`max(A / F, 2^-126)`, or the smallest power of two with `F*s >= A`, exponent in [-126, 127]; 1 where A = 0."""
    largest = float_of(tl.full((), formats.largest_bits(FORMAT), tl.int32))
    if POW2:
        # In float64 neither is subnormal: exponents and fractions are compared as they stand.
        a = absmax.to(tl.float64).to(tl.int64, bitcast=True)
        f = largest.to(tl.float64).to(tl.int64, bitcast=True)
        exponent = (a >> 52) - (f >> 52) + ((a & FRACTION) > (f & FRACTION)).to(tl.int64)
        scale = exp2(tl.minimum(tl.maximum(exponent, -126), 127).to(tl.int32))
    else:
        scale = tl.maximum(divide(absmax, largest), 2.0**-126)
    return tl.where(absmax == 0.0, 1.0, scale)


@triton.jit
def inverse_scale(scale):
    return divide(1.0, scale)


@triton.jit
def block_absmax(y, BLOCK: tl.constexpr):
    """[K, 8, 128] -> [K, 1024 // BLOCK]: the largest finite magnitude of every block."""
    b = magnitude_bits(y)
    b = tl.where(b < INFINITY, b, 0)
    return float_of(tl.max(tl.reshape(b, [y.shape[0], 1024 // BLOCK, BLOCK]), axis=2))


@triton.jit
def spread(per_block, BLOCK: tl.constexpr):
    """[K, 1024 // BLOCK] -> [K, 8, 128]: one value per element from one per block."""
    K: tl.constexpr = per_block.shape[0]
    wide = tl.broadcast_to(per_block[:, :, None], [K, 1024 // BLOCK, BLOCK])
    return tl.reshape(wide, [K, 8, 128])


@triton.jit
def block_numbers(begin, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """[TILES, 1024 // BLOCK] int32: the number of every block; that of position `begin` of the first tile is 0."""
    PER_TILE: tl.constexpr = 1024 // BLOCK
    return tl.arange(0, TILES)[:, None] * PER_TILE + tl.arange(0, PER_TILE)[None, :] - begin // BLOCK


@triton.jit
def given_block_scales(address, at, count):
    """Scales made by the caller, 1 where there is no block."""
    s = load(address, at, count, False, tl.float32, False)
    return tl.where(inside(at, count), s, 1.0)
