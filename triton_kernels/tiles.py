"""The tile and its sum, the halving tree. Section 1 of docs/numerics.md.

A program works on TILES consecutive tiles of a tensor at once, blocks [TILES, 8, 128]: one on a GPU, some more
where the kernels are interpreted. Nothing depends on how many.
"""

import triton
import triton.language as tl

TILE = tl.constexpr(1024)
CHUNK_TILES = tl.constexpr(64)


@triton.jit
def element_numbers(TILES: tl.constexpr):
    """[TILES, 8, 128] int32: the number of every element from the start of the first tile."""
    row = tl.arange(0, TILES * 8) * 128
    return tl.reshape(row[:, None] + tl.arange(0, 128)[None, :], [TILES, 8, 128])


@triton.jit
def rows_passed(place, length, at):
    """How many rows of `length` elements end before the element `at`, if the first is number `place` of its row."""
    SPAN_ELEMENTS: tl.constexpr = at.shape[0] * TILE
    if length >= SPAN_ELEMENTS:  # at most one row ends here
        passed = (place + at >= length).to(tl.int32)
    else:
        passed = (place.to(tl.int32) + at) // length.to(tl.int32)
    return passed


@triton.jit
def halve(x):
    """[K, N] -> two of [K, N/2]: the columns j and j + N/2."""
    K: tl.constexpr = x.shape[0]
    N: tl.constexpr = x.shape[1]
    return tl.split(tl.permute(tl.reshape(x, [K, 2, N // 2]), [0, 2, 1]))


@triton.jit
def split_rows(x):
    """[K, 8, 128] -> its eight rows [K, 128]."""
    K: tl.constexpr = x.shape[0]
    x = tl.permute(tl.reshape(x, [K, 2, 2, 2, 128]), [0, 4, 1, 2, 3])
    even, odd = tl.split(x)
    r04, r26 = tl.split(even)
    r15, r37 = tl.split(odd)
    r0, r4 = tl.split(r04)
    r1, r5 = tl.split(r15)
    r2, r6 = tl.split(r26)
    r3, r7 = tl.split(r37)
    return r0, r1, r2, r3, r4, r5, r6, r7


@triton.jit
def join_rows(r0, r1, r2, r3, r4, r5, r6, r7):
    """Eight rows [K, 128] -> [K, 8, 128]; undoes split_rows."""
    K: tl.constexpr = r0.shape[0]
    even = tl.join(tl.join(r0, r4), tl.join(r2, r6))
    odd = tl.join(tl.join(r1, r5), tl.join(r3, r7))
    return tl.reshape(tl.permute(tl.join(even, odd), [0, 2, 3, 4, 1]), [K, 8, 128])


@triton.jit
def tile_sum(terms):
    """[K, 8, 128] float32 -> [K]: columns take their rows in order, then are halved."""
    r0, r1, r2, r3, r4, r5, r6, r7 = split_rows(terms)
    # The +0 every column starts with makes a difference only where all its terms are -0.
    sums = ((((((((r0 + 0.0) + r1) + r2) + r3) + r4) + r5) + r6) + r7)
    for _ in tl.static_range(7):
        left, right = halve(sums)
        sums = left + right
    return tl.reshape(sums, [terms.shape[0]])


@triton.jit
def tile_max(x):
    """[K, 8, 128] -> [K]. Only for numbers: the order is left open."""
    return tl.max(tl.max(x, axis=2), axis=1)


@triton.jit
def tile_min(x):
    return tl.min(tl.min(x, axis=2), axis=1)


@triton.jit
def tile_count(mask):
    """[K, 8, 128] of truth values -> [K] int32."""
    return tl.sum(tl.sum(mask.to(tl.int32), axis=2), axis=1)


@triton.jit
def each(per_tile):
    """[K] -> [K, 1, 1]"""
    return per_tile[:, None, None]
