"""Tiles between memory and float32: loading, storing, packing. Sections 1 and 3 of docs/numerics.md.

Tensors are addresses. A full run of tiles is moved without a mask: a masked access would be split into single
elements. TYPE is a number of `DTYPES`, or MIXED where the tensors of a list differ, which is then decided at run time.
"""

import triton
import triton.language as tl

from . import formats
from .bits import canonical, float_of
from .rounding import NEAREST, encode

MIXED = tl.constexpr(-1)


@triton.jit
def pointer(address, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    """ALIGNED: the address is a multiple of 16 bytes."""
    p = address.to(tl.pointer_type(dtype))
    if ALIGNED:
        p = tl.multiple_of(p, 16)
    return p


@triton.jit
def inside(at, count):
    """Whether there are such elements: of a shard, some of the first tile lie before it (at < 0)."""
    return (at >= 0) & (at < count)


@triton.jit
def load(address, at, count, full, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    """Elements `at` (numbers from the address); 0 outside [0, count). `full`: none is outside."""
    p = pointer(address, dtype, ALIGNED) + at
    if full:
        x = tl.load(p)
    else:
        x = tl.load(p, mask=inside(at, count), other=0)
    return x


@triton.jit
def store(address, at, x, count, full, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    p = pointer(address, dtype, ALIGNED) + at
    if full:
        tl.store(p, x)
    else:
        tl.store(p, x, mask=inside(at, count))


@triton.jit
def load_as(address, at, count, full, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """float32 values of elements stored as TYPE."""
    if TYPE == formats.FP32:
        return load(address, at, count, full, tl.float32, ALIGNED)
    elif TYPE == formats.BF16:
        half = load(address, at, count, full, tl.int16, ALIGNED)
        return float_of(half.to(tl.int32) << 16)
    else:
        return load(address, at, count, full, tl.float16, ALIGNED).to(tl.float32)


@triton.jit
def load_values(address, type, at, count, full, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """float32 values of elements of a tensor; `type` is looked at where TYPE is MIXED."""
    if TYPE == MIXED:
        if type == formats.FP32:
            x = load_as(address, at, count, full, formats.FP32, ALIGNED)
        elif type == formats.BF16:
            x = load_as(address, at, count, full, formats.BF16, ALIGNED)
        else:
            x = load_as(address, at, count, full, formats.FP16, ALIGNED)
        return x
    else:
        return load_as(address, at, count, full, TYPE, ALIGNED)


@triton.jit
def store_as(address, at, x, noise, count, full, TYPE: tl.constexpr, ROUNDING: tl.constexpr, ALIGNED: tl.constexpr):
    if TYPE == formats.FP32:
        store(address, at, canonical(x), count, full, tl.float32, ALIGNED)
    else:
        codes = encode(x, 1.0, noise, TYPE, ROUNDING)
        store(address, at, codes.to(tl.int16), count, full, tl.int16, ALIGNED)


@triton.jit
def store_values(
    address, type, at, x, noise, count, full, TYPE: tl.constexpr, ROUNDING: tl.constexpr, ALIGNED: tl.constexpr
):
    """float32 values rounded to the type of a tensor; NaN canonical. fp32 is not rounded."""
    if TYPE == MIXED:
        if type == formats.FP32:
            store_as(address, at, x, noise, count, full, formats.FP32, ROUNDING, ALIGNED)
        elif type == formats.BF16:
            store_as(address, at, x, noise, count, full, formats.BF16, ROUNDING, ALIGNED)
        else:
            store_as(address, at, x, noise, count, full, formats.FP16, ROUNDING, ALIGNED)
    else:
        store_as(address, at, x, noise, count, full, TYPE, ROUNDING, ALIGNED)


@triton.jit
def as_stored(x, type, TYPE: tl.constexpr):
    """float32 values as they come back from a tensor of a type (rounded to nearest)."""
    if TYPE == MIXED:
        if type == formats.BF16:
            x = round_to(x, formats.BF16)
        elif type == formats.FP16:
            x = round_to(x, formats.FP16)
        return x
    else:
        return round_to(x, TYPE)


@triton.jit
def round_to(x, TYPE: tl.constexpr):
    if TYPE == formats.FP32:
        return x
    elif TYPE == formats.BF16:
        return float_of(encode(x, 1.0, 0, formats.BF16, NEAREST) << 16)
    else:
        codes = encode(x, 1.0, 0, formats.FP16, NEAREST)
        return codes.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def store_bits(address, first, at, bits, count, full, BITS: tl.constexpr, ALIGNED: tl.constexpr):
    """The lowest bits of int32 [TILES, 8, 128] as the elements `first + at` of a tensor; four make half a byte."""
    if BITS == 32:
        store(address + first * 4, at, bits, count, full, tl.int32, ALIGNED)
    elif BITS == 16:
        store(address + first * 2, at, bits.to(tl.int16), count, full, tl.int16, ALIGNED)
    elif BITS == 8:
        store(address + first, at, bits.to(tl.int8), count, full, tl.int8, ALIGNED)
    else:
        TILES: tl.constexpr = bits.shape[0]
        bits = tl.where(at < count, bits & 0xF, 0)
        low, high = tl.split(tl.reshape(bits, [TILES, 8, 64, 2]))
        even, _ = tl.split(tl.reshape(at, [TILES, 8, 64, 2]))
        packed = (low | (high << 4)).to(tl.int8)
        store(address + first // 2, even // 2, packed, (count + 1) // 2, full, tl.int8, ALIGNED)


@triton.jit
def load_bits(address, first, at, count, full, BITS: tl.constexpr, ALIGNED: tl.constexpr):
    """int32 of the elements `first + at`, without a sign where they have fewer than 32 bits; undoes store_bits."""
    if BITS == 32:
        return load(address + first * 4, at, count, full, tl.int32, ALIGNED)
    elif BITS == 16:
        return load(address + first * 2, at, count, full, tl.int16, ALIGNED).to(tl.int32) & 0xFFFF
    elif BITS == 8:
        return load(address + first, at, count, full, tl.int8, ALIGNED).to(tl.int32) & 0xFF
    else:
        TILES: tl.constexpr = at.shape[0]
        even, _ = tl.split(tl.reshape(at, [TILES, 8, 64, 2]))
        packed = load(address + first // 2, even // 2, (count + 1) // 2, full, tl.int8, ALIGNED).to(tl.int32)
        return tl.reshape(tl.join(packed & 0xF, (packed >> 4) & 0xF), [TILES, 8, 128])


@triton.jit
def store_codes(address, first, at, codes, count, full, FORMAT: tl.constexpr, ALIGNED: tl.constexpr):
    store_bits(address, first, at, codes, count, full, formats.code_bits(FORMAT), ALIGNED)


@triton.jit
def load_codes(address, first, at, count, full, FORMAT: tl.constexpr, ALIGNED: tl.constexpr):
    """The codes of a format, with their sign where they are integers; undoes store_codes."""
    BITS: tl.constexpr = formats.code_bits(FORMAT)
    codes = load_bits(address, first, at, count, full, BITS, ALIGNED)
    if formats.is_integer(FORMAT):
        SIGN: tl.constexpr = 1 << (BITS - 1)
        codes = (codes ^ SIGN) - SIGN
    return codes
