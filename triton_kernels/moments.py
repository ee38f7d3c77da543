"""Moments and shrinkage sums of tiles, and their merges. Sections 6 and 8 of docs/numerics.md.

Both are six float64 columns: `n, mean, M2, min, max, nonfinite`, and `yy, yq, qq, zeroed, saturated, absmax`.
"""

import triton
import triton.language as tl

from .bits import divide, exp2, exp2_double, float_of, is_finite, magnitude_bits
from .tiles import each, tile_count, tile_max, tile_min, tile_sum

LEAST, MOST = tl.constexpr((127 - 40) << 23), tl.constexpr((127 + 50) << 23)  # bits of 2^-40 and 2^50


@triton.jit
def range_exponent(absmax_bits):
    """The e of a tile scaled by 2^-e: 0 where its largest magnitude is 0 or in [2^-40, 2^50]."""
    e = tl.minimum(tl.maximum((absmax_bits >> 23) - 127, -126), 126)
    plain = (absmax_bits == 0) | ((absmax_bits >= LEAST) & (absmax_bits <= MOST))
    return tl.where(plain, 0, e)


@triton.jit
def tile_moments(x, exists):
    """Moments of the existing elements of every tile of x [K, 8, 128]: six [K]."""
    finite = is_finite(x) & exists
    count = tile_count(finite)
    bad = tile_count(exists) - count
    clean = tl.where(finite, x, 0.0)
    e = range_exponent(tile_max(magnitude_bits(clean)))
    scaled = clean * each(exp2(0 - e))
    n32 = tl.maximum(count, 1).to(tl.float32)
    mean32 = divide(tile_sum(scaled), n32)
    d = tl.where(finite, scaled - each(mean32), 0.0)
    s1, s2 = tile_sum(d).to(tl.float64), tile_sum(d * d).to(tl.float64)
    n64 = n32.to(tl.float64)
    mean = (mean32.to(tl.float64) + s1 / n64) * exp2_double(e)
    m2 = s2 - s1 * s1 / n64
    m2 = tl.where(m2 > 0.0, m2, 0.0) * exp2_double(2 * e)
    low = tile_min(tl.where(finite, x, float("inf"))).to(tl.float64) + 0.0
    high = tile_max(tl.where(finite, x, float("-inf"))).to(tl.float64) + 0.0
    some = count > 0
    return (
        count.to(tl.float64),
        tl.where(some, mean, 0.0),
        tl.where(some, m2, 0.0),
        low,
        high,
        bad.to(tl.float64),
    )


@triton.jit
def tile_shrinkage(y, q, exists):
    """Sums of y*y, y*q, q*q over the finite existing y, and the largest |y|: four [K] float64."""
    finite = is_finite(y) & exists
    y, q = tl.where(finite, y, 0.0), tl.where(finite, q, 0.0)
    absmax = tile_max(magnitude_bits(y))
    ey, eq = range_exponent(absmax), range_exponent(tile_max(magnitude_bits(q)))
    y, q = y * each(exp2(0 - ey)), q * each(exp2(0 - eq))
    yy = tile_sum(y * y).to(tl.float64) * exp2_double(2 * ey)
    yq = tile_sum(y * q).to(tl.float64) * exp2_double(ey + eq)
    qq = tile_sum(q * q).to(tl.float64) * exp2_double(2 * eq)
    return yy, yq, qq, float_of(absmax).to(tl.float64)


@triton.jit
def merge_moments(a, b):
    """Moments of the union of a and b; where either is empty, mean and M2 of the other."""
    na, mean_a, m2_a, low_a, high_a, bad_a = a
    nb, mean_b, m2_b, low_b, high_b, bad_b = b
    n = na + nb
    divisor = tl.where(n == 0.0, 1.0, n)
    delta = mean_b - mean_a
    mean = mean_a + delta * (nb / divisor)
    m2 = (m2_a + m2_b) + (delta * delta) * (na * nb / divisor)
    a_only, b_only = nb == 0.0, na == 0.0
    mean = tl.where(a_only, mean_a, tl.where(b_only, mean_b, mean))
    m2 = tl.where(a_only, m2_a, tl.where(b_only, m2_b, m2))
    low = tl.where(low_b < low_a, low_b, low_a)
    high = tl.where(high_b > high_a, high_b, high_a)
    return n, mean, m2, low, high, bad_a + bad_b


@triton.jit
def merge_sums(a, b):
    yy_a, yq_a, qq_a, zeroed_a, saturated_a, max_a = a
    yy_b, yq_b, qq_b, zeroed_b, saturated_b, max_b = b
    largest = tl.where(max_b > max_a, max_b, max_a)
    return yy_a + yy_b, yq_a + yq_b, qq_a + qq_b, zeroed_a + zeroed_b, saturated_a + saturated_b, largest


@triton.jit
def merge(a, b, MOMENTS: tl.constexpr):
    if MOMENTS:
        return merge_moments(a, b)
    else:
        return merge_sums(a, b)


@triton.jit
def load_six(columns, stride, at, exists, MOMENTS: tl.constexpr):
    """Six columns of a work space [6, stride]; what does not exist is empty and changes nothing in a merge."""
    low = float("inf") if MOMENTS else 0.0
    high = float("-inf") if MOMENTS else 0.0
    return (
        tl.load(columns + at, mask=exists, other=0.0),
        tl.load(columns + stride + at, mask=exists, other=0.0),
        tl.load(columns + 2 * stride + at, mask=exists, other=0.0),
        tl.load(columns + 3 * stride + at, mask=exists, other=low),
        tl.load(columns + 4 * stride + at, mask=exists, other=high),
        tl.load(columns + 5 * stride + at, mask=exists, other=0.0),
    )


@triton.jit
def store_six(columns, stride, at, exists, six):
    for i in tl.static_range(6):
        tl.store(columns + i * stride + at, six[i], mask=exists)


@triton.jit
def only(six, kept):
    """Moments where `kept`, else empty ones."""
    n, mean, m2, low, high, bad = six
    return (
        tl.where(kept, n, 0.0),
        tl.where(kept, mean, 0.0),
        tl.where(kept, m2, 0.0),
        tl.where(kept, low, float("inf")),
        tl.where(kept, high, float("-inf")),
        tl.where(kept, bad, 0.0),
    )


@triton.jit
def merge_leaves(leaves, stride, start, count, MOMENTS: tl.constexpr, BLOCK: tl.constexpr):
    """The halving tree over the leaves `start .. start + count - 1` of a work space [6, stride], in place: six [1].

    By one program, BLOCK merges at a time; what one level wrote the next one reads after a barrier.
    """
    s = tl.full((), 1, tl.int64)
    while s < count:
        s = s * 2
    s = s // 2
    while s > 0:
        for first in range(0, s, BLOCK):
            j = first + tl.arange(0, BLOCK)
            exists = (j < s) & (j + s < count)
            a = load_six(leaves, stride, start + j, exists, MOMENTS)
            b = load_six(leaves, stride, start + j + s, exists, MOMENTS)
            store_six(leaves, stride, start + j, exists, merge(a, b, MOMENTS))
        tl.debug_barrier()
        s = s // 2
    one = tl.arange(0, 1)
    return load_six(leaves, stride, start + one, one < count, MOMENTS)
