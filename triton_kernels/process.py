"""The kernel that maps, quantizes, measures and updates every element. Section 11 of docs/numerics.md."""

import triton
import triton.language as tl

from . import formats
from .adamw import adamw
from .jobs import (
    BY_ROWS,
    CODES,
    COLUMNS,
    FIRST_PART,
    FLAGS,
    GIVEN_SCALES,
    GROUP,
    ID,
    LENGTH,
    OFFSET,
    OUT,
    OUT_TYPE,
    PURPOSE,
    QUANTIZE,
    SCALES,
    SEED,
    SLOT,
    SPAN,
    TILE_PLACE,
    N,
)
from .measure import bytes_of, load_gradient
from .memory import inside, store, store_codes, store_values
from .moments import store_six, tile_moments, tile_shrinkage
from .philox import pack_stream, tile_noise
from .rounding import NEAREST, STOCHASTIC, decode, encode, was_saturated, was_zeroed
from .scales import block_absmax, block_numbers, given_block_scales, inverse_scale, scale_for, spread
from .sgd import ABSENT, sgd
from .tiles import TILE, element_numbers, rows_passed, tile_count

NO_SCALE, TENSOR_SCALE, BLOCK_SCALE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def row_means(job, means, first, at, count):
    """c of the dim-0 row of every element `first + at`, float32."""
    length = tl.load(job + LENGTH)
    row = first // length
    later = rows_passed(first - row * length, length, at)
    mean = tl.load(means + tl.load(job + FIRST_PART) + row + later, mask=inside(at, count), other=0.0)
    return mean.to(tl.float32)


@triton.jit
def scales_of_blocks(y, job, first, begin, count, FORMAT: tl.constexpr, BLOCK: tl.constexpr, POW2: tl.constexpr,
                     GIVEN_SCALE: tl.constexpr, STORE_SCALES: tl.constexpr):
    """The scale of every block [TILES, 1024 // BLOCK], measured or given, and stored if asked for."""
    number = block_numbers(begin, y.shape[0], BLOCK)
    blocks = (count + BLOCK - 1) // BLOCK
    offset = first // BLOCK * 4
    if GIVEN_SCALE:
        s = given_block_scales(tl.load(job + GIVEN_SCALES) + offset, number, blocks)
    else:
        s = scale_for(block_absmax(y, BLOCK), FORMAT, POW2)
    if STORE_SCALES:
        store(tl.load(job + SCALES) + offset, number, s, blocks, False, tl.float32, False)
    return s


@triton.jit(do_not_specialize=["count_of_tensors", "tiles"])
def process_kernel(
    jobs,  # int64 [T, COLUMNS]
    spans,  # int64: the tensor of every program
    header,
    step_,  # int64 [1]
    coefficients,  # float32 [4, T]: a, c, scale, inverse scale; read where MAPPED or SCALE is TENSOR_SCALE
    skip,  # int32 [1]
    means,  # float64: the mean of every part, read where CENTRALIZED
    hyper,  # float64 [G, 8]
    factors,  # float64 [T], read where FACTORS
    constants,  # float64 [T, 8], of steps of AdamW
    tile_moments_,  # float64 [6, tiles], written where MEASURE
    tile_sums,  # float64 [6, tiles], written where FORMAT is not fp32
    count_of_tensors,
    tiles,
    GRADS: tl.constexpr,  # types; ABSENT: there are none
    OUTS: tl.constexpr,
    PARAMS: tl.constexpr,
    MOMENTA: tl.constexpr,
    FIRSTS: tl.constexpr,  # how AdamW keeps its moments; SECONDS is ABSENT for SGD
    SECONDS: tl.constexpr,
    PARAM_BLOCK: tl.constexpr,
    FIRST_BLOCK: tl.constexpr,
    SECOND_BLOCK: tl.constexpr,
    UNSCALE: tl.constexpr,
    MEASURE: tl.constexpr,
    MAPPED: tl.constexpr,
    CENTRALIZED: tl.constexpr,
    FORMAT: tl.constexpr,
    ROUNDING: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
    POW2: tl.constexpr,
    GIVEN_SCALE: tl.constexpr,
    STORE_CODES: tl.constexpr,
    STORE_SCALES: tl.constexpr,
    SKIP: tl.constexpr,
    SHARDED: tl.constexpr,
    FACTORS: tl.constexpr,
    WEIGHT_ROUNDING: tl.constexpr,
    ALIGNED: tl.constexpr,
    TILES: tl.constexpr,
):
    if SKIP:
        if tl.load(skip) != 0:
            return
    program = tl.program_id(0)
    tensor = tl.load(spans + program)
    job = jobs + tensor * COLUMNS
    n = tl.load(job + N)
    tile = (program - tl.load(job + SPAN)) * TILES
    own = tl.arange(0, TILES)
    place = tl.load(job + TILE_PLACE) + tile + own
    # The elements of this program are `first + at`; in the first tiles of a shard they begin at position `begin`.
    first, begin = tile * TILE, 0
    if SHARDED:
        offset = tl.load(job + OFFSET)
        start = first - offset % TILE
        first = tl.maximum(start, 0)
        begin = (first - start).to(tl.int32)
        if ALIGNED:
            begin = tl.multiple_of(begin, 32)
        tile += offset // TILE
    # The tensor first: in Triton 3.8's interpreter a constant minus a tensor is taken for a constant.
    count = tl.minimum(n - first, -begin + TILES * TILE).to(tl.int32)
    full = count == TILES * TILE
    at = element_numbers(TILES) - begin
    exists = inside(at, count)
    is_tile = own * TILE < begin + count

    x = load_gradient(job, header, first, at, count, full, GRADS, UNSCALE, ALIGNED)
    if MEASURE:
        store_six(tile_moments_, tiles, place, is_tile, tile_moments(x, exists))

    y = x
    if MAPPED:
        a, c = tl.load(coefficients + tensor), tl.load(coefficients + count_of_tensors + tensor)
        # With a = 1 and c = 0 of either sign, y is x: x - (-0) would make +0 of an x that is -0.
        y = (x - tl.where((a == 1.0) & (c == 0.0), 0.0, c)) * a
    if CENTRALIZED:
        if tl.load(job + BY_ROWS) != 0:
            y = x - row_means(job, means, first, at, count)

    flags = tl.load(job + FLAGS)
    seed = tl.load(header + SEED)
    stream_parts = (tl.load(job + ID), tl.load(step_), tl.load(header + SLOT))
    q = y
    if FORMAT != formats.FP32:
        if (flags & QUANTIZE) != 0:
            y = tl.where(exists, y, 0.0)  # beyond the end the map has made something else of it
            if SCALE == BLOCK_SCALE:
                of_blocks = scales_of_blocks(
                    y, job, first, begin, count, FORMAT, BLOCK, POW2, GIVEN_SCALE, STORE_SCALES
                )
                scale, inverse = spread(of_blocks, BLOCK), spread(inverse_scale(of_blocks), BLOCK)
            elif SCALE == TENSOR_SCALE:
                scale = tl.load(coefficients + 2 * count_of_tensors + tensor)
                inverse = tl.load(coefficients + 3 * count_of_tensors + tensor)
            else:
                scale, inverse = 1.0, 1.0
            noise = 0
            if ROUNDING == STOCHASTIC:
                id, step, slot = stream_parts
                stream = pack_stream(tl.load(header + PURPOSE), id, step, slot)
                noise = tile_noise(seed, stream, tile, TILES)
            codes = encode(y, inverse, noise, FORMAT, ROUNDING)
            if STORE_CODES:
                store_codes(tl.load(job + CODES), first, at, codes, count, full, FORMAT, ALIGNED)
            q = decode(codes, scale, FORMAT)
            yy, yq, qq, absmax = tile_shrinkage(y, q, exists)
            zeroed = tile_count(was_zeroed(y, q) & exists).to(tl.float64)
            saturated = tile_count(was_saturated(y, inverse, FORMAT) & exists).to(tl.float64)
            store_six(tile_sums, tiles, place, is_tile, (yy, yq, qq, zeroed, saturated, absmax))
        else:
            none = tl.zeros([TILES], tl.float64)
            store_six(tile_sums, tiles, place, is_tile, (none, none, none, none, none, none))
    elif STORE_CODES:
        if (flags & QUANTIZE) != 0:
            codes = encode(y, 1.0, 0, FORMAT, NEAREST)
            store_codes(tl.load(job + CODES), first, at, codes, count, full, FORMAT, ALIGNED)

    if OUTS != ABSENT:
        type = tl.load(job + OUT_TYPE)
        address = tl.load(job + OUT) + first * bytes_of(type, OUTS)
        store_values(address, type, at, q, 0, count, full, OUTS, NEAREST, ALIGNED)
    if PARAMS != ABSENT:
        factor = tl.full((), 1.0, tl.float64)
        if FACTORS:
            factor = tl.load(factors + tensor)
        group = hyper + tl.load(job + GROUP) * 8
        if SECONDS == ABSENT:
            sgd(q, job, group, factor, seed, stream_parts, tile, first, at, count, full, PARAMS, MOMENTA,
                WEIGHT_ROUNDING, ALIGNED)
        else:
            span = (first, begin, at, count, full)
            adamw(q, job, tensor, group, constants, seed, stream_parts, tile, span, PARAMS, PARAM_BLOCK, FIRSTS,
                  FIRST_BLOCK, SECONDS, SECOND_BLOCK, WEIGHT_ROUNDING, ALIGNED)
