"""Noise: Philox4x32 with 7 rounds, and the map from (seed, stream, element) to 16 bits. Section 2 of the contract."""

import triton
import triton.language as tl

from .tiles import join_rows

ROUNDS = tl.constexpr(7)
M0, M1 = tl.constexpr(0xD2511F53), tl.constexpr(0xCD9E8D57)
BUMP0, BUMP1 = tl.constexpr(0x9E3779B9), tl.constexpr(0xBB67AE85)
WORD = tl.constexpr(0xFFFFFFFF)
WEIGHT, STATE = tl.constexpr(1), tl.constexpr(2)  # the purposes of the noise of stored parameters and states


@triton.jit
def low_word(x):
    """int64 -> uint32"""
    return (x & WORD).to(tl.uint32)


@triton.jit
def high_word(x):
    return ((x >> 32) & WORD).to(tl.uint32)


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Counters and key are uint32.

    One round: `(c0,c1,c2,c3) <- (hi(M1*c2)^c1^k0, lo(M1*c2), hi(M0*c0)^c3^k1, lo(M0*c0))`; the key is bumped
    between rounds.
    """
    for _ in tl.static_range(ROUNDS):
        hi0, lo0 = tl.umulhi(c0, M0), tl.mul(c0, M0, sanitize_overflow=False)
        hi1, lo1 = tl.umulhi(c2, M1), tl.mul(c2, M1, sanitize_overflow=False)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0 = tl.add(k0, BUMP0, sanitize_overflow=False)
        k1 = tl.add(k1, BUMP1, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def pack_stream(purpose, parameter, step, slot):
    """`purpose << 61 | parameter << 43 | step << 12 | slot`, all int64."""
    return purpose << 61 | parameter << 43 | step << 12 | slot


@triton.jit
def tile_noise(seed, stream, tile, TILES: tl.constexpr):
    """[TILES, 8, 128] int32: the 16-bit noises of the tiles from `tile` on.

    Column c of tile t has the counter `t*128 + c`; row r takes output word `r & 3` of it, the low half for
    r < 4 and the high half for r >= 4.
    """
    zero = tl.zeros([TILES, 128], tl.uint32)
    k = (tile + tl.arange(0, TILES).to(tl.int64))[:, None] * 128 + tl.arange(0, 128)[None, :]
    w0, w1, w2, w3 = philox4x32(
        low_word(k),
        high_word(k),
        zero + low_word(stream),
        zero + high_word(stream),
        zero + low_word(seed),
        zero + high_word(seed),
    )
    low = 0xFFFF
    words = join_rows(w0 & low, w1 & low, w2 & low, w3 & low, w0 >> 16, w1 >> 16, w2 >> 16, w3 >> 16)
    return words.to(tl.int32)
