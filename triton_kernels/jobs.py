"""What the kernels know of the tensors of a list: a row of int64 for each, and a header for the whole call.

Addresses, sizes, types and places in the work space travel to the device in one copy. The numbers of launches and
of copies do not depend on how many tensors there are.
"""

import triton
import triton.language as tl

# Columns of a row
(
    N,  # elements
    FLAGS,
    ROWS,  # parts with moments of their own: 1, or dim-0 rows for centralize, or 0 if there is no element
    BY_ROWS,  # whether they are dim-0 rows
    LENGTH,  # elements of a part
    GROUP,  # row of hyper
    ID,  # of the parameter, in the noise
    GRAD,
    GRAD_TYPE,
    OUT,
    OUT_TYPE,
    CODES,
    SCALES,
    GIVEN_SCALES,
    PARAM,
    PARAM_TYPE,
    MOMENTUM,
    MOMENTUM_TYPE,
    FIRST_PART,
    PART_SPAN,  # the first span, tile of the grid of parts
    PART_TILE,
    SPAN,  # the first span, tile of the tensor's one grid
    TILE_PLACE,
    OFFSET,  # where a shard begins in the tensor that it is a part of
    # What AdamW keeps
    AGE,
    PARAM_SCALES,
    FIRST_MOMENT,
    FIRST_SCALES,
    SECOND_MOMENT,
    SECOND_SCALES,
    # Factored second moments
    MATRIX_ROWS,
    MATRIX_COLUMNS,
    WHOLE_ROWS,  # those of the tensor that it is a shard of
    LONGEST_BITS,  # the smallest L with 2^L not below whole rows and columns
    SQUARE_SPAN,  # the first program of its sums
    BOUND,  # of |y|, float32 bits, where it is given
    ROW_SUMS,
    COLUMN_SUMS,
    ROW_ROOTS,
    COLUMN_ROOTS,
    COLUMN_LEAVES,
) = (tl.constexpr(i) for i in range(41))
COLUMNS = tl.constexpr(41)

# A row of the constants of AdamW's steps, float64
RATE1, RATE2, STEP_SIZE, ROOT, DENOMINATOR_EPS, DECAY, RATE2_EXACT, CORRECTION = (tl.constexpr(i) for i in range(8))
CONSTANTS = tl.constexpr(8)

# The header
SEED, STEP, SLOT, PURPOSE, INV_SCALE, EPS, MAX_NORM = (tl.constexpr(i) for i in range(7))
HEADER = 8

NORMALIZE, QUANTIZE, FIRST = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4)


@triton.jit
def double_in(header, COLUMN: tl.constexpr):
    """A float64 number of the header."""
    return tl.load(header + COLUMN).to(tl.float64, bitcast=True)
