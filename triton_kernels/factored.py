"""The factored second moment: exact sums of squares, their means and roots. Section 13 of docs/numerics.md.

A rounded square is a whole number of gaps, and so is every sum of them, below 2^52. In memory they are added up as
those whole numbers, which makes no difference to the sums: int64 there, until `means_kernel` makes float64 of them.
"""

import triton
import triton.language as tl

from .bits import INFINITY, LARGEST, exp2_double, float_of, magnitude_bits
from .jobs import (
    BOUND,
    BY_ROWS,
    COLUMN_LEAVES,
    COLUMN_ROOTS,
    COLUMN_SUMS,
    COLUMNS,
    CONSTANTS,
    CORRECTION,
    FIRST,
    FIRST_PART,
    FLAGS,
    LONGEST_BITS,
    MATRIX_COLUMNS,
    MATRIX_ROWS,
    RATE2_EXACT,
    ROW_ROOTS,
    ROW_SUMS,
    SECOND_MOMENT,
    SECOND_SCALES,
    SQUARE_SPAN,
    WHOLE_ROWS,
)
from .measure import load_gradient
from .memory import inside
from .tiles import rows_passed

SQUARE_COLUMNS = tl.constexpr(128)  # columns of a matrix that a program sums


@triton.jit
def float32s(job, COLUMN: tl.constexpr):
    return tl.load(job + COLUMN).to(tl.pointer_type(tl.float32))


@triton.jit
def float64s(job, COLUMN: tl.constexpr):
    return tl.load(job + COLUMN).to(tl.pointer_type(tl.float64))


@triton.jit
def int64s(job, COLUMN: tl.constexpr):
    return tl.load(job + COLUMN).to(tl.pointer_type(tl.int64))


@triton.jit
def clear_kernel(jobs, tensors, skip, SKIP: tl.constexpr, BLOCK: tl.constexpr):
    """Sets the sums of every factored tensor to 0; a program each."""
    if SKIP:
        if tl.load(skip) != 0:
            return
    job = jobs + tl.load(tensors + tl.program_id(0)) * COLUMNS
    nothing = tl.zeros([BLOCK], tl.int64)
    rows, columns = tl.load(job + MATRIX_ROWS), tl.load(job + MATRIX_COLUMNS)
    for start in range(0, rows, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tl.store(int64s(job, ROW_SUMS) + i, nothing, mask=i < rows)
    for start in range(0, columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tl.store(int64s(job, COLUMN_SUMS) + i, nothing, mask=i < columns)


@triton.jit
def bound_of(job, coefficients, tensor, count_of_tensors, GIVEN_BOUND: tl.constexpr):
    """A of a tensor, and the exponent 2e + 2 + L: squares up to A^2 are rounded to gaps of 2^(2e + 2 + L - 52)."""
    if GIVEN_BOUND:
        bound = float_of(tl.load(job + BOUND).to(tl.int32))
    else:
        bound = tl.load(coefficients + 4 * count_of_tensors + tensor)
    exponent = tl.maximum(magnitude_bits(bound) >> 23, 1) - 127
    return bound, 2 * exponent + 2 + tl.load(job + LONGEST_BITS).to(tl.int32)


@triton.jit(do_not_specialize=["count_of_tensors"])
def squares_kernel(
    jobs,
    spans,  # int64: the tensor of every program
    header,
    coefficients,  # float32 [5, T]: a, c, scale, inverse scale, bound; read where MAPPED or not GIVEN_BOUND
    skip,
    means,  # float64: the mean of every part, read where CENTRALIZED
    count_of_tensors,
    GRADS: tl.constexpr,
    UNSCALE: tl.constexpr,
    MAPPED: tl.constexpr,
    CENTRALIZED: tl.constexpr,
    GIVEN_BOUND: tl.constexpr,
    SKIP: tl.constexpr,
    ALIGNED: tl.constexpr,  # the gradients, and the rows of all matrices
    ROWS: tl.constexpr,  # taken at once
    REPEATS: tl.constexpr,  # at most
):
    """Adds the rounded squares of ROWS * REPEATS rows and 128 columns to their sums, in any order."""
    if SKIP:
        if tl.load(skip) != 0:
            return
    program = tl.program_id(0)
    tensor = tl.load(spans + program)
    job = jobs + tensor * COLUMNS
    rows, columns = tl.load(job + MATRIX_ROWS), tl.load(job + MATRIX_COLUMNS)
    if ALIGNED:
        columns = tl.multiple_of(columns, 8)
    span = program - tl.load(job + SQUARE_SPAN)
    across = (columns + (SQUARE_COLUMNS - 1)) // SQUARE_COLUMNS
    column = span % across * SQUARE_COLUMNS
    first_row = span // across * (ROWS * REPEATS)
    bound, exponent = bound_of(job, coefficients, tensor, count_of_tensors, GIVEN_BOUND)
    magic, gaps = exp2_double(exponent) * 1.5, exp2_double(52 - exponent)
    a, c = 1.0, 0.0
    if MAPPED:
        a, c = tl.load(coefficients + tensor), tl.load(coefficients + count_of_tensors + tensor)

    i, j = tl.arange(0, ROWS)[:, None].to(tl.int64), tl.arange(0, SQUARE_COLUMNS)[None, :].to(tl.int64)
    of_columns = tl.zeros([SQUARE_COLUMNS], tl.float64)
    repeats = tl.minimum((rows - first_row + (ROWS - 1)) // ROWS, REPEATS)
    for repeat in range(0, repeats):
        row = first_row + repeat * ROWS
        exists = (row + i < rows) & (column + j < columns)
        full = (row + ROWS <= rows) & (column + SQUARE_COLUMNS <= columns)
        first, at, n = row * columns + column, i * columns + j, rows * columns
        if full:
            x = load_gradient(job, header, first, at, n, True, GRADS, UNSCALE, ALIGNED)
        else:
            x = load_gradient(job, header, first, tl.where(exists, at, -1), n, False, GRADS, UNSCALE, ALIGNED)
        y = x
        if MAPPED:
            y = (x - c) * a
        if CENTRALIZED:
            if tl.load(job + BY_ROWS) != 0:
                mean = tl.load(means + tl.load(job + FIRST_PART) + row + i, mask=row + i < rows, other=0.0)
                y = x - mean.to(tl.float32)
        b = magnitude_bits(y)
        size = tl.minimum(float_of(tl.where(exists & (b < INFINITY), b, 0)), bound).to(tl.float64)
        square = (size * size + magic) - magic
        of_columns += tl.sum(square, axis=0)
        own = row + tl.arange(0, ROWS)
        of_rows = (tl.sum(square, axis=1) * gaps).to(tl.int64)
        tl.atomic_add(int64s(job, ROW_SUMS) + own, of_rows, mask=own < rows, sem="relaxed")
    own = column + tl.arange(0, SQUARE_COLUMNS)
    tl.atomic_add(int64s(job, COLUMN_SUMS) + own, (of_columns * gaps).to(tl.int64), mask=own < columns, sem="relaxed")


@triton.jit
def count_gaps(sums, count, gap, BLOCK: tl.constexpr):
    """Whole numbers of gaps become float64 sums, in place: exact."""
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        number = tl.load(sums + i, mask=i < count, other=0.0).to(tl.int64, bitcast=True)
        tl.store(sums + i, number.to(tl.float64) * gap, mask=i < count)


@triton.jit
def move_means(means, sums, count, divisor, rate, is_first, leaves, LEAVES: tl.constexpr, BLOCK: tl.constexpr):
    """`r = min(r + (1 - beta2) * (sum / divisor - r), FLT_MAX)`, stored as float32; where LEAVES as float64, too."""
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        before = tl.zeros([BLOCK], tl.float64)
        if is_first == 0:
            before = tl.load(means + i, mask=i < count, other=0.0).to(tl.float64)
        moved = before + rate * (tl.load(sums + i, mask=i < count, other=0.0) / divisor - before)
        stored = tl.where(moved < LARGEST, moved, LARGEST).to(tl.float32)
        tl.store(means + i, stored, mask=i < count)
        if LEAVES:
            tl.store(leaves + i, stored.to(tl.float64), mask=i < count)


@triton.jit
def add_leaves(leaves, count, BLOCK: tl.constexpr):
    """The halving tree of plain sums over float64 leaves, in place, by one program."""
    s = tl.full((), 1, tl.int64)
    while s < count:
        s = s * 2
    s = s // 2
    while s > 0:
        for first in range(0, s, BLOCK):
            j = first + tl.arange(0, BLOCK)
            exists = (j < s) & (j + s < count)
            one, other = tl.load(leaves + j, mask=exists, other=0.0), tl.load(leaves + j + s, mask=exists, other=0.0)
            tl.store(leaves + j, one + other, mask=exists)
        tl.debug_barrier()
        s = s // 2
    return tl.load(leaves)


@triton.jit(do_not_specialize=["count_of_tensors"])
def means_kernel(
    jobs,
    tensors,  # int64: the factored ones
    coefficients,  # float32 [5, T], read where COUNTED and not GIVEN_BOUND
    constants,  # float64 [T, 8], read where STEPS
    skip,
    count_of_tensors,
    COUNTED: tl.constexpr,  # the sums were made in this call
    STEPS: tl.constexpr,  # the step is taken in this call
    GIVEN_BOUND: tl.constexpr,
    SKIP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sums of every factored tensor, and from them its means, in place, and a_i and b_j of its roots; a program
    each."""
    if SKIP:
        if tl.load(skip) != 0:
            return
    tensor = tl.load(tensors + tl.program_id(0))
    job = jobs + tensor * COLUMNS
    rows, columns = tl.load(job + MATRIX_ROWS), tl.load(job + MATRIX_COLUMNS)
    row_sums, column_sums = float64s(job, ROW_SUMS), float64s(job, COLUMN_SUMS)
    if COUNTED:
        _, exponent = bound_of(job, coefficients, tensor, count_of_tensors, GIVEN_BOUND)
        gap = exp2_double(exponent - 52)
        count_gaps(row_sums, rows, gap, BLOCK)
        count_gaps(column_sums, columns, gap, BLOCK)
        tl.debug_barrier()
    if not STEPS:
        return
    is_first = tl.load(job + FLAGS) & FIRST
    rate = tl.load(constants + tensor * CONSTANTS + RATE2_EXACT)
    correction = tl.load(constants + tensor * CONSTANTS + CORRECTION)
    row_means, column_means = float32s(job, SECOND_MOMENT), float32s(job, SECOND_SCALES)
    leaves = float64s(job, COLUMN_LEAVES)
    move_means(row_means, row_sums, rows, columns.to(tl.float64), rate, is_first, leaves, False, BLOCK)
    whole_rows = tl.load(job + WHOLE_ROWS).to(tl.float64)
    move_means(column_means, column_sums, columns, whole_rows, rate, is_first, leaves, True, BLOCK)
    tl.debug_barrier()
    mean = add_leaves(leaves, columns, BLOCK) / columns.to(tl.float64)
    for start in range(0, rows, BLOCK):
        i = start + tl.arange(0, BLOCK)
        root = tl.sqrt(tl.load(row_means + i, mask=i < rows, other=0.0).to(tl.float64)) / correction
        tl.store(float32s(job, ROW_ROOTS) + i, root.to(tl.float32), mask=i < rows)
    divisor = tl.where(mean == 0.0, 1.0, mean)
    for start in range(0, columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        root = tl.sqrt(tl.load(column_means + i, mask=i < columns, other=0.0).to(tl.float64) / divisor)
        tl.store(float32s(job, COLUMN_ROOTS) + i, tl.where(mean == 0.0, 1.0, root).to(tl.float32), mask=i < columns)


@triton.jit
def factored_roots(job, first, at, count):
    """w = a_i * b_j of the elements `first + at`, float32."""
    length = tl.load(job + MATRIX_COLUMNS)
    row = first // length
    place = first - row * length
    passed = rows_passed(place, length, at)
    exists = inside(at, count)
    a = tl.load(float32s(job, ROW_ROOTS) + row + passed, mask=exists, other=0.0)
    b = tl.load(float32s(job, COLUMN_ROOTS) + (place + at - passed * length), mask=exists, other=0.0)
    return a * b
