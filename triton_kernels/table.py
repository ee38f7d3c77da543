"""The kernel that writes the table. Section 10 of docs/numerics.md."""

import triton
import triton.language as tl

from .jobs import COLUMNS, FLAGS, QUANTIZE
from .moments import load_six, merge_leaves, store_six
from .normalizers import TABLE_COLUMNS, list_moments


@triton.jit
def store_row(table, at, exists, moments, a, c, sums, scale, k):
    """The 16 columns of the rows `at`."""
    n, mean, m2, low, high, nonfinite = moments
    yy, yq, qq, zeroed, saturated, absmax = sums
    values = (n, mean, m2, low, high, nonfinite, a, c, yy, yq, qq, zeroed, saturated, scale, absmax, k)
    for column in tl.static_range(16):
        tl.store(table + at * TABLE_COLUMNS + column, values[column], mask=exists)


@triton.jit(do_not_specialize=["count"])
def table_kernel(
    jobs,
    moments,  # float64 [6, T], read where MEASURED
    sums,  # float64 [6, T], read where SUMMED
    coefficients,  # float32 [4, T], read where COEFFICIENTS
    factor,  # float32 [1], read where COEFFICIENTS
    skip,  # int32 [1], read where SKIP
    factors,  # float64 [T], read where FACTORS
    scratch,  # float64 [6, T], written
    table,  # float64 [T + 1, 16], written
    count,
    MEASURED: tl.constexpr,
    SUMMED: tl.constexpr,
    COEFFICIENTS: tl.constexpr,
    SKIP: tl.constexpr,
    FACTORS: tl.constexpr,
    LEAVES: tl.constexpr,  # a power of two, not below T
):
    """All rows in one program: that of a tensor from its moments and sums, that of the list from all of them."""
    i, one = tl.arange(0, LEAVES), tl.arange(0, 1)
    exists = i < count
    flags = tl.load(jobs + i * COLUMNS + FLAGS, mask=exists, other=0)
    done, all_done = exists, one == 0
    if SKIP:
        done = tl.where(exists, tl.load(skip), 1) == 0
        all_done = tl.where(all_done, tl.load(skip), 1) == 0

    zero, single = tl.zeros([LEAVES], tl.float64), tl.zeros([1], tl.float64)
    own, whole = (zero, zero, zero, zero, zero, zero), (single, single, single, single, single, single)
    if MEASURED:
        own = load_six(moments, count, i, exists, True)
        n, mean, m2, low, high, _ = list_moments(own, flags, i, count, scratch, LEAVES)
        nonfinite = tl.sum(own[5], axis=0)  # of all tensors; whole numbers: exact
        whole = (n, mean, m2, low, high, single + nonfinite)

    a, c, scale, k = zero + 1.0, zero, zero + 1.0, zero + 1.0
    a_all = single + 1.0
    if COEFFICIENTS:
        a = tl.load(coefficients + i, mask=done, other=1.0).to(tl.float64)
        c = tl.load(coefficients + count + i, mask=done, other=0.0).to(tl.float64)
        scale = tl.load(coefficients + 2 * count + i, mask=done, other=1.0).to(tl.float64)
        a_all = tl.load(factor + one, mask=all_done, other=1.0).to(tl.float64)
    if FACTORS:
        k = tl.load(factors + i, mask=done, other=1.0)

    own_sums, all_sums = (zero, zero, zero, zero, zero, zero), (single, single, single, single, single, single)
    if SUMMED:
        own_sums = load_six(sums, count, i, done & ((flags & QUANTIZE) != 0), False)
        tl.debug_barrier()
        store_six(scratch, count, i, exists, own_sums)
        tl.debug_barrier()
        all_sums = merge_leaves(scratch, count, 0, count, False, LEAVES)
    store_row(table, i, exists, own, a, c, own_sums, scale, k)
    store_row(table + count * TABLE_COLUMNS, one, one == 0, whole, a_all, single, all_sums, single + 1.0, single + 1.0)
