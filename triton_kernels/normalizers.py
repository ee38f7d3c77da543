"""The coefficients of the maps y = (x - c) * a, and the scales of tensors. Sections 5 and 7 of docs/numerics.md."""

import triton
import triton.language as tl

from fastgrad.reference.normalizers import ALPHAS, METHODS

from .bits import FLT_MAX, double_of, float_of, is_nan, magnitude_bits
from .jobs import (
    BY_ROWS,
    COLUMNS,
    EPS,
    FIRST_PART,
    FLAGS,
    GIVEN_SCALES,
    MAX_NORM,
    NORMALIZE,
    QUANTIZE,
    ROWS,
    SCALES,
    double_in,
)
from .moments import load_six, merge_leaves, only, store_six
from .scales import FRACTION, inverse_scale, scale_for

NONE, CENTRE, ZNORM, CLIP, AUTOSCALE, CENTRALIZE = (tl.constexpr(METHODS.index(name)) for name in METHODS)
RATIO_FIRST, RATIO_MAX, SIGMA, INVERSE_LOG, LOG, ONE_PLUS, ONE, GIVEN = (
    tl.constexpr(ALPHAS.index(name)) for name in ALPHAS
)
LARGEST_FACTOR = tl.constexpr(2.0**126)
TABLE_COLUMNS, ABSMAX = tl.constexpr(16), tl.constexpr(14)


@triton.jit
def log64(x):
    """Natural logarithm of a positive normal float64: `x = f * 2^k`, sqrt(1/2) <= f < sqrt(2), u = (f-1)/(f+1)."""
    b = x.to(tl.int64, bitcast=True)
    k = (b >> 52) - 1022
    f = double_of((b & FRACTION) | 0x3FE0000000000000)
    low = (b & FRACTION) < 0x6A09E667F3BCD  # f < sqrt(1/2), whose literal Triton 3.8 would round to float32 here
    f, k = tl.where(low, f * 2.0, f), tl.where(low, k - 1, k)
    u = (f - 1.0) / (f + 1.0)
    square = u * u
    p = square * 0.0
    for i in tl.static_range(11):
        p = p * square + 1.0 / (21 - 2 * i)
    return k.to(tl.float64) * 0.6931471805599453 + 2.0 * u * p


@triton.jit
def alpha(sigma, first, largest, RULE: tl.constexpr):
    """alpha(sigma), and the new state (first sigma > 0, largest sigma)."""
    if RULE == GIVEN:
        return tl.where(first < 0.0, 0.0, tl.where(first > LARGEST_FACTOR, LARGEST_FACTOR, first)), first, largest
    else:
        first = tl.where(first == 0.0, sigma, first)
        largest = tl.where(sigma > largest, sigma, largest)
        inside = tl.where(sigma < 2.0**-126, 2.0**-126, tl.where(sigma > 1.0 - 2.0**-10, 1.0 - 2.0**-10, sigma))
        if RULE == RATIO_FIRST:
            value = sigma / first
        elif RULE == RATIO_MAX:
            value = sigma / largest
        elif RULE == SIGMA:
            value = sigma
        elif RULE == INVERSE_LOG:
            value = 1.0 / -log64(inside)
        elif RULE == LOG:
            value = -log64(inside)
        elif RULE == ONE_PLUS:
            value = 1.0 + sigma
        else:
            value = sigma * 0.0 + 1.0
        value = tl.where(value < 0.0, 0.0, tl.where(value > LARGEST_FACTOR, LARGEST_FACTOR, value))
        return tl.where(sigma == 0.0, 1.0, value), first, largest


@triton.jit
def list_moments(six, flags, i, count, scratch, BLOCK: tl.constexpr):
    """Moments of the list, six [1]: over the tensors flagged for normalization, over all if none is (section 10)."""
    exists = i < count
    normalized = exists & ((flags & NORMALIZE) != 0)
    any = tl.max(normalized.to(tl.int32), axis=0) != 0
    store_six(scratch, count, i, exists, only(six, normalized | (exists & ~any)))
    tl.debug_barrier()
    return merge_leaves(scratch, count, 0, count, True, BLOCK)


@triton.jit
def mapped_absmax(low, high, c, a):
    """`max(|f(low)|, |f(high)|)`, at most FLT_MAX; 0 for what is not a number."""
    low, high = (low.to(tl.float32) - c) * a, (high.to(tl.float32) - c) * a
    low = tl.where(is_nan(low), 0, magnitude_bits(low))
    high = tl.where(is_nan(high), 0, magnitude_bits(high))
    return float_of(tl.minimum(tl.maximum(low, high), FLT_MAX))


@triton.jit(do_not_specialize=["parts"])
def part_absmax_kernel(jobs, part_moments, absmax, parts, BLOCK: tl.constexpr):
    """The largest |x - mean of its row| of every tensor that is centralized: float32 [T], written."""
    tensor = tl.program_id(0)
    job = jobs + tensor * COLUMNS
    start, rows = tl.load(job + FIRST_PART), tl.load(job + ROWS)
    largest = tl.zeros([BLOCK], tl.float32)
    for row in range(0, rows, BLOCK):
        i = row + tl.arange(0, BLOCK)
        n, mean, _, low, high, _ = load_six(part_moments, parts, start + i, i < rows, True)
        one = mapped_absmax(low, high, mean.to(tl.float32), 1.0)
        largest = tl.maximum(largest, tl.where(n > 0.0, one, 0.0))
    tl.store(absmax + tensor, tl.max(largest, axis=0))


@triton.jit
def absmax_of(n, low, high, c, a, job, part_absmax, i, exists, BY_PARTS: tl.constexpr):
    """A of every tensor after its map, from its moments or those of its parts; float32."""
    absmax = tl.where(n > 0.0, mapped_absmax(low, high, c, a), 0.0)
    if BY_PARTS:
        parted = tl.load(job + BY_ROWS, mask=exists, other=0) != 0
        absmax = tl.where(parted, tl.load(part_absmax + i, mask=exists, other=0.0), absmax)
    return absmax


@triton.jit(do_not_specialize=["count"])
def coefficients_kernel(
    jobs,
    header,
    moments,  # float64 [6, T], read where OWN and not LAGGED, or SKIP, or BOUND and MEASURED
    part_absmax,  # float32 [T], read where BY_PARTS
    lagged,  # float64 [T + 1, 16], the previous table
    state,  # float64 [2], written
    coefficients,  # float32 [4, T] or, where BOUND, [5, T], written: a, c, scale, inverse scale, A of the moments
    factor,  # float32 [1], written: alpha or clip factor, else 1
    skip,  # int32 [1], written
    scratch,  # float64 [6, T], written
    count,
    METHOD: tl.constexpr,
    ALPHA: tl.constexpr,
    OWN: tl.constexpr,  # something depends on the moments of the tensors
    LAGGED: tl.constexpr,
    SKIP: tl.constexpr,  # a non-finite element stops the sweep
    SCALED: tl.constexpr,  # tensors have a scale
    GIVEN_SCALE: tl.constexpr,
    STORE_SCALES: tl.constexpr,
    BY_PARTS: tl.constexpr,
    BOUND: tl.constexpr,
    MEASURED: tl.constexpr,
    FORMAT: tl.constexpr,
    POW2: tl.constexpr,
    LEAVES: tl.constexpr,  # a power of two, not below T
):
    """What must be known before the elements are processed, in one program."""
    i = tl.arange(0, LEAVES)
    exists = i < count
    job = jobs + i * COLUMNS
    flags = tl.load(job + FLAGS, mask=exists, other=0)
    normalized = (flags & NORMALIZE) != 0
    zero = tl.zeros([LEAVES], tl.float64)
    own = (zero, zero, zero, zero, zero, zero)
    if OWN:
        if LAGGED:
            own = load_six(lagged, 1, i * TABLE_COLUMNS, exists, True)
        else:
            own = load_six(moments, count, i, exists, True)
    n, mean, m2, low, high, _ = own

    bad = tl.full((), 0.0, tl.float64)
    if SKIP:
        bad = tl.sum(tl.load(moments + 5 * count + i, mask=exists, other=0.0), axis=0)  # whole numbers: exact
        tl.store(skip, (bad > 0.0).to(tl.int32))

    common = tl.full([1], 1.0, tl.float64)
    if METHOD == CLIP or METHOD == AUTOSCALE:
        one = tl.arange(0, 1)
        if LAGGED:
            whole = load_six(lagged, 1, one + count * TABLE_COLUMNS, one == 0, True)
        else:
            whole = list_moments(own, flags, i, count, scratch, LEAVES)
        n_all, mean_all, m2_all, _, _, _ = whole
        some = n_all > 0.0
        if METHOD == CLIP:
            norm = tl.sqrt(m2_all + n_all * mean_all * mean_all)
            value = double_in(header, MAX_NORM) / (norm + 1e-6)
            common = tl.where(some & (value < 1.0), value, 1.0)
        else:
            sigma = tl.sqrt(m2_all / tl.where(some, n_all, 1.0))
            value, first, largest = alpha(sigma, tl.load(state + one), tl.load(state + 1 + one), ALPHA)
            common = tl.where(some, value, 1.0)
            updated = tl.where(some, bad, 1.0) == 0.0
            tl.store(state + one, first, mask=updated)
            tl.store(state + 1 + one, largest, mask=updated)
    tl.store(factor + tl.arange(0, 1), common.to(tl.float32))

    a, c = tl.full([LEAVES], 1.0, tl.float32), tl.zeros([LEAVES], tl.float32)
    mapped = normalized & (n > 0.0)
    if METHOD == CENTRE or METHOD == ZNORM or METHOD == AUTOSCALE:
        c = tl.where(mapped, mean.to(tl.float32), 0.0)
    if METHOD == CLIP or METHOD == AUTOSCALE:
        a = tl.where(mapped, common.to(tl.float32), 1.0)
    elif METHOD == ZNORM:
        inverse = 1.0 / (tl.sqrt(m2 / tl.where(n > 0.0, n, 1.0)) + double_in(header, EPS))
        inverse = tl.where(inverse < LARGEST_FACTOR, inverse, LARGEST_FACTOR)
        a = tl.where(mapped, inverse.to(tl.float32), 1.0)
    tl.store(coefficients + i, a, mask=exists)
    tl.store(coefficients + count + i, c, mask=exists)

    quantized = exists & ((flags & QUANTIZE) != 0)
    scale = tl.full([LEAVES], 1.0, tl.float32)
    if SCALED:
        if GIVEN_SCALE:
            given = tl.load(job + GIVEN_SCALES, mask=quantized, other=0).to(tl.pointer_type(tl.float32))
            scale = tl.load(given, mask=quantized, other=1.0)
        else:
            if LAGGED:
                absmax = tl.load(lagged + i * TABLE_COLUMNS + ABSMAX, mask=exists, other=0.0).to(tl.float32)
            else:
                absmax = absmax_of(n, low, high, c, a, job, part_absmax, i, exists, BY_PARTS)
            scale = tl.where(quantized, scale_for(absmax, FORMAT, POW2), 1.0)
    tl.store(coefficients + 2 * count + i, scale, mask=exists)
    tl.store(coefficients + 3 * count + i, inverse_scale(scale), mask=exists)
    if BOUND:
        measured = (zero, zero, zero, zero, zero, zero)
        if MEASURED:
            measured = load_six(moments, count, i, exists, True)
        n, _, _, low, high, _ = measured
        bound = absmax_of(n, low, high, c, a, job, part_absmax, i, exists, BY_PARTS)
        tl.store(coefficients + 4 * count + i, bound, mask=exists)
    if STORE_SCALES:
        target = tl.load(job + SCALES, mask=quantized, other=0).to(tl.pointer_type(tl.float32))
        tl.store(target, scale, mask=tl.where(quantized, bad, 1.0) == 0.0)
