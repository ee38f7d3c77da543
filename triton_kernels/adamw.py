"""One step of AdamW on a span of tiles. Section 12 of docs/numerics.md.

How a parameter and its states are kept is known at compile time: there is one launch for each way. A state or
parameter in blocks has BLOCK > 0, elements for each of its scales.
"""

import triton
import triton.language as tl

from . import formats
from .bits import LARGEST, divide
from .factored import factored_roots
from .jobs import (
    AGE,
    COLUMNS,
    CONSTANTS,
    CORRECTION,
    DECAY,
    DENOMINATOR_EPS,
    FIRST,
    FIRST_MOMENT,
    FIRST_SCALES,
    FLAGS,
    GROUP,
    PARAM,
    PARAM_SCALES,
    RATE1,
    RATE2,
    RATE2_EXACT,
    ROOT,
    SECOND_MOMENT,
    SECOND_SCALES,
    STEP_SIZE,
)
from .measure import bytes_of
from .memory import load_as, load_bits, load_codes, store, store_as, store_bits, store_codes
from .philox import STATE, WEIGHT, pack_stream, tile_noise
from .rounding import STOCHASTIC, decode, encode
from .scales import block_absmax, block_numbers, given_block_scales, inverse_scale, scale_for, spread
from .sgd import ABSENT

# How second moments are kept, beside the types of formats.py.
CODES8, CODES4, FACTORED = (tl.constexpr(len(formats.NAMES) + i) for i in range(3))


@triton.jit
def power(base, exponent):
    """base^exponent by squaring, float64; of several at once."""
    result = base * 0.0 + 1.0
    while tl.max(exponent, axis=0) > 0:
        result = tl.where((exponent & 1) != 0, result * base, result)
        base = base * base
        exponent = exponent >> 1
    return result


@triton.jit(do_not_specialize=["count"])
def constants_kernel(
    jobs,
    step_,  # int64 [1], added to the ages where CLOCK
    hyper,  # float64 [G, 8]: lr, beta1, beta2, eps, weight_decay, maximize, 0, 0
    factors,  # float64 [T], read where FACTORS
    constants,  # float64 [T, 8], written; all but the last two are float32 numbers
    count,
    CLOCK: tl.constexpr,
    FACTORS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What is the same for all elements of a tensor, of BLOCK tensors at once."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = i < count
    job = jobs + i * COLUMNS
    group = hyper + tl.load(job + GROUP, mask=exists, other=0) * 8
    lr, beta1 = tl.load(group, mask=exists, other=0.0), tl.load(group + 1, mask=exists, other=0.0)
    beta2, eps = tl.load(group + 2, mask=exists, other=0.0), tl.load(group + 3, mask=exists, other=0.0)
    decay = tl.load(group + 4, mask=exists, other=0.0)
    age = tl.load(job + AGE, mask=exists, other=1)
    if CLOCK:
        age += tl.load(step_)
    factor = tl.full([BLOCK], 1.0, tl.float64)
    if FACTORS:
        factor = tl.load(factors + i, mask=exists, other=1.0)

    correction1, correction2 = 1.0 - power(beta1, age), tl.sqrt(1.0 - power(beta2, age))
    row = constants + i * CONSTANTS
    rounded = (1.0 - beta1, 1.0 - beta2, lr * factor / correction1, 1.0 / correction2, eps, lr * decay)
    for column in tl.static_range(6):
        tl.store(row + column, rounded[column].to(tl.float32).to(tl.float64), mask=exists)
    tl.store(row + RATE2_EXACT, 1.0 - beta2, mask=exists)
    tl.store(row + CORRECTION, correction2, mask=exists)


@triton.jit
def constant(constants, tensor, COLUMN: tl.constexpr):
    """A float32 constant of a tensor's step."""
    return tl.load(constants + tensor * CONSTANTS + COLUMN).to(tl.float32)


@triton.jit
def load_scales(job, SCALES: tl.constexpr, span, BLOCK: tl.constexpr):
    """[TILES, 1024 // BLOCK]"""
    first, begin, at, count, _ = span
    number = block_numbers(begin, at.shape[0], BLOCK)
    return given_block_scales(tl.load(job + SCALES) + first // BLOCK * 4, number, count // BLOCK)


@triton.jit
def store_scales(job, SCALES: tl.constexpr, scales, span, BLOCK: tl.constexpr):
    first, begin, at, count, _ = span
    number = block_numbers(begin, at.shape[0], BLOCK)
    store(tl.load(job + SCALES) + first // BLOCK * 4, number, scales, count // BLOCK, False, tl.float32, False)


@triton.jit
def load_plain(address, span, KIND: tl.constexpr, ALIGNED: tl.constexpr):
    """Of a type of tensors: float32 values."""
    first, _, at, count, full = span
    return load_as(address + first * bytes_of(0, KIND), at, count, full, KIND, ALIGNED)


@triton.jit
def store_plain(address, x, noise, span, KIND: tl.constexpr, ROUNDING: tl.constexpr, ALIGNED: tl.constexpr):
    first, _, at, count, full = span
    store_as(address + first * bytes_of(0, KIND), at, x, noise, count, full, KIND, ROUNDING, ALIGNED)


@triton.jit
def load_first(job, has_content, span, KIND: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):
    """The first moment, 0 without content."""
    first, _, at, count, full = span
    m = tl.zeros([at.shape[0], 8, 128], tl.float32)
    if has_content:
        address = tl.load(job + FIRST_MOMENT)
        if BLOCK > 0:
            codes = load_codes(address, first, at, count, full, KIND, ALIGNED)
            m = decode(codes, spread(load_scales(job, FIRST_SCALES, span, BLOCK), BLOCK), KIND)
        else:
            m = load_plain(address, span, KIND, ALIGNED)
    return m


@triton.jit
def store_first(job, m, noise, span, KIND: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):
    address = tl.load(job + FIRST_MOMENT)
    if BLOCK > 0:
        first, _, at, count, full = span
        of_blocks = scale_for(block_absmax(m, BLOCK), KIND, False)
        store_scales(job, FIRST_SCALES, of_blocks, span, BLOCK)
        codes = encode(m, spread(inverse_scale(of_blocks), BLOCK), noise, KIND, STOCHASTIC)
        store_codes(address, first, at, codes, count, full, KIND, ALIGNED)
    else:
        store_plain(address, m, noise, span, KIND, STOCHASTIC, ALIGNED)


@triton.constexpr_function
def root_bits(kind):
    """Bits of a stored root."""
    return 8 if kind == CODES8 else 4


@triton.jit
def load_second(job, has_content, span, KIND: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):
    """The second moment, 0 without content."""
    first, _, at, count, full = span
    v = tl.zeros([at.shape[0], 8, 128], tl.float32)
    if has_content:
        address = tl.load(job + SECOND_MOMENT)
        if BLOCK > 0:
            codes = load_bits(address, first, at, count, full, root_bits(KIND), ALIGNED)
            r = codes.to(tl.float32) * spread(load_scales(job, SECOND_SCALES, span, BLOCK), BLOCK)
            v = r * r
        else:
            v = load_plain(address, span, KIND, ALIGNED)
    return v


@triton.jit
def store_second(job, v, r, noise, span, KIND: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):
    """r: the root of v, of which codes are made where it is kept in blocks."""
    address = tl.load(job + SECOND_MOMENT)
    if BLOCK > 0:
        first, _, at, count, full = span
        BITS: tl.constexpr = root_bits(KIND)
        largest = tl.full((), (1 << BITS) - 1, tl.float32)
        absmax = block_absmax(r, BLOCK)
        of_blocks = tl.where(absmax == 0.0, 1.0, tl.maximum(divide(absmax, largest), 2.0**-126))
        store_scales(job, SECOND_SCALES, of_blocks, span, BLOCK)
        scaled = r * spread(inverse_scale(of_blocks), BLOCK)
        scaled = tl.where(scaled < largest, scaled, largest)
        codes = ((scaled * 65536.0).to(tl.int32) + noise) >> 16
        codes = tl.where((codes == 0) & (r > 0.0), 1, codes)
        store_bits(address, first, at, codes, count, full, BITS, ALIGNED)
    else:
        store_plain(address, v, noise, span, KIND, STOCHASTIC, ALIGNED)


@triton.jit
def load_parameter(job, span, KIND: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):
    """Its values, and the scales of its blocks (or 0)."""
    address = tl.load(job + PARAM)
    if BLOCK > 0:
        first, _, at, count, full = span
        codes = load_codes(address, first, at, count, full, KIND, ALIGNED)
        of_blocks = load_scales(job, PARAM_SCALES, span, BLOCK)
        return codes.to(tl.float32) * spread(of_blocks, BLOCK), of_blocks
    else:
        return load_plain(address, span, KIND, ALIGNED), 0.0


@triton.jit
def kept_scale(absmax, scale):
    """The scale of a block of an int8 parameter: as long as it fits, the one it has."""
    kept = (absmax == 0.0) | ((48.0 * scale <= absmax) & (absmax <= 127.0 * scale))
    return tl.where(kept, scale, tl.maximum(divide(absmax, tl.full((), 120.0, tl.float32)), 2.0**-126))


@triton.jit
def store_parameter(
    job, p, of_blocks, noise, span,
    KIND: tl.constexpr, BLOCK: tl.constexpr, ROUNDING: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    address = tl.load(job + PARAM)
    if BLOCK > 0:
        first, _, at, count, full = span
        of_blocks = kept_scale(block_absmax(p, BLOCK), of_blocks)
        store_scales(job, PARAM_SCALES, of_blocks, span, BLOCK)
        codes = encode(p, spread(inverse_scale(of_blocks), BLOCK), noise, KIND, ROUNDING)
        store_codes(address, first, at, codes, count, full, KIND, ALIGNED)
    else:
        store_plain(address, p, noise, span, KIND, ROUNDING, ALIGNED)


@triton.jit
def rounding_noise(seed, stream_parts, PURPOSE: tl.constexpr, slot, tile, KIND: tl.constexpr, TILES: tl.constexpr):
    """0 where nothing is rounded."""
    noise = 0
    if KIND != formats.FP32:
        id, step, _ = stream_parts
        noise = tile_noise(seed, pack_stream(tl.full((), PURPOSE, tl.int64), id, step, slot), tile, TILES)
    return noise


@triton.jit
def adamw(
    q,  # float32 [TILES, 8, 128], the treated gradient
    job,
    tensor,
    hyper,  # float64 [8], the row of the group
    constants,  # float64 [T, 8]
    seed,
    stream_parts,  # of the weight noise: id, step, slot
    tile,  # of the noise
    span,  # first, begin, at, count, full
    PARAMS: tl.constexpr,
    PARAM_BLOCK: tl.constexpr,
    FIRSTS: tl.constexpr,
    FIRST_BLOCK: tl.constexpr,
    SECONDS: tl.constexpr,
    SECOND_BLOCK: tl.constexpr,
    ROUNDING: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """All of it in float32; the step is taken with the moments as computed, then each is rounded once."""
    TILES: tl.constexpr = q.shape[0]
    has_content = (tl.load(job + FLAGS) & FIRST) == 0
    has_first = tl.load(hyper + 1) != 0.0  # beta1 = 0: m = d
    p, param_scales = load_parameter(job, span, PARAMS, PARAM_BLOCK, ALIGNED)
    if FIRSTS != ABSENT:
        before = load_first(job, has_content & has_first, span, FIRSTS, FIRST_BLOCK, ALIGNED)
    if SECONDS != FACTORED:
        v = load_second(job, has_content, span, SECONDS, SECOND_BLOCK, ALIGNED)
    tl.debug_barrier()  # a scale is read by many threads, and written by one of them

    d = q
    if tl.load(hyper + 5) != 0.0:
        d = q * -1.0
    m = d
    if FIRSTS != ABSENT:
        if has_first:
            m = before + constant(constants, tensor, RATE1) * (d - before)
            noise = rounding_noise(seed, stream_parts, STATE, 0, tile, FIRSTS, TILES)
            store_first(job, m, noise, span, FIRSTS, FIRST_BLOCK, ALIGNED)

    if SECONDS == FACTORED:
        first, _, at, count, _ = span
        w = factored_roots(job, first, at, count)
    else:
        square = d * d
        square = tl.where(square < LARGEST, square, LARGEST)  # of a NaN, too
        v = v + constant(constants, tensor, RATE2) * (square - v)
        r = tl.math.sqrt_rn(v)
        noise = rounding_noise(seed, stream_parts, STATE, 1, tile, SECONDS, TILES)
        store_second(job, v, r, noise, span, SECONDS, SECOND_BLOCK, ALIGNED)
        w = r * constant(constants, tensor, ROOT)

    change = constant(constants, tensor, STEP_SIZE) * divide(m, w + constant(constants, tensor, DENOMINATOR_EPS))
    p = p - (change + constant(constants, tensor, DECAY) * p)
    noise = 0
    if ROUNDING == STOCHASTIC:
        noise = rounding_noise(seed, stream_parts, WEIGHT, stream_parts[2], tile, PARAMS, TILES)
    store_parameter(job, p, param_scales, noise, span, PARAMS, PARAM_BLOCK, ROUNDING, ALIGNED)
