"""Rounding values to a format and back. Section 4 of docs/numerics.md."""

import triton
import triton.language as tl

from . import formats
from .bits import FLT_MAX, INFINITY, NAN, SIGN, bits_of, canonical, exp2, float_of, is_finite, magnitude_bits

STOCHASTIC, NEAREST, TRUNCATE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def round_up(w, inexact, noise, ROUNDING: tl.constexpr):
    """`(w + add) >> 16` for a number w of target gaps with 16 fraction bits."""
    if ROUNDING == STOCHASTIC:
        w = w + noise
    elif ROUNDING == NEAREST:
        w = w | inexact.to(tl.int32)  # a value just above a tie must not look like the tie
        w = w + 0x7FFF + ((w >> 16) & 1)
    return w >> 16


@triton.jit
def encode_magnitude(b, noise, FORMAT: tl.constexpr, ROUNDING: tl.constexpr):
    """The code of a magnitude, given as float32 bits in [0, F]."""
    if formats.is_integer(FORMAT):
        scaled = float_of(b) * 65536.0
        w = scaled.to(tl.int32)
        return round_up(w, scaled != w.to(tl.float32), noise, ROUNDING)
    else:
        M: tl.constexpr = formats.mantissa(FORMAT)
        E0: tl.constexpr = formats.smallest_exponent(FORMAT)
        exponent = b >> 23
        fraction = b & 0x7FFFFF
        wide = tl.where(exponent > 0, fraction | 0x800000, fraction) << 3
        exponent = tl.maximum(exponent, 1)
        h = tl.minimum(10 - M + tl.maximum(E0 - exponent, 0), 31)
        w = wide >> h
        return (tl.maximum(exponent - E0, 0) << M) + round_up(w, (w << h) != wide, noise, ROUNDING)


@triton.jit
def encode(y, inverse, noise, FORMAT: tl.constexpr, ROUNDING: tl.constexpr):
    """The codes (int32) of `v = y * inverse`; for integer formats the signed integers, else bit patterns."""
    v = y * inverse
    if FORMAT == formats.FP32:
        return bits_of(canonical(v))
    else:
        b = magnitude_bits(v)
        b = tl.where(b > INFINITY, 0, tl.minimum(b, formats.largest_bits(FORMAT)))
        codes = encode_magnitude(b, noise, FORMAT, ROUNDING)
        sign = bits_of(y) < 0
        # Non-finite is decided on y: a finite y whose v overflows saturates.
        special = magnitude_bits(y)
        if formats.is_integer(FORMAT):
            codes = tl.where(sign, 0 - codes, codes)
        else:
            if formats.keeps_infinity(FORMAT):
                codes = tl.where(special >= INFINITY, formats.infinity_code(FORMAT), codes)
            codes = tl.where(sign, codes | formats.sign_bit(FORMAT), codes)
        return tl.where(special > INFINITY, formats.nan_code(FORMAT), codes)


@triton.jit
def decode(codes, scale, FORMAT: tl.constexpr):
    """`q = min(|decode(code)| * s, FLT_MAX)` with its sign, float32; infinity and NaN stay."""
    if FORMAT == formats.FP32:
        return canonical(float_of(codes))
    elif formats.is_integer(FORMAT):
        negative = codes < 0
        q = tl.minimum(bits_of(tl.where(negative, 0 - codes, codes).to(tl.float32) * scale), FLT_MAX)
        return float_of(tl.where(negative, q | SIGN, q))
    else:
        payload = codes & (formats.sign_bit(FORMAT) - 1)
        # The format's fields at the place of float32's: the multiplication moves the exponent and normalizes
        # subnormals; it is exact.
        magnitude = float_of(payload << (23 - formats.mantissa(FORMAT)))
        q = tl.minimum(bits_of(magnitude * exp2_of(formats.smallest_exponent(FORMAT) - 1) * scale), FLT_MAX)
        if formats.keeps_infinity(FORMAT):
            q = tl.where(payload >= formats.infinity_code(FORMAT), INFINITY, q)
        q = tl.where((codes & formats.sign_bit(FORMAT)) != 0, q | SIGN, q)
        if formats.keeps_infinity(FORMAT):
            q = tl.where(payload > formats.infinity_code(FORMAT), NAN, q)
        elif formats.nan_code(FORMAT) != 0:
            q = tl.where(payload == formats.nan_code(FORMAT), NAN, q)
        return float_of(q)


@triton.jit
def exp2_of(EXPONENT: tl.constexpr):
    return exp2(tl.full((), EXPONENT, tl.int32))


@triton.jit
def was_zeroed(y, q):
    """A finite y other than 0 whose value is 0."""
    return is_finite(y) & (magnitude_bits(y) != 0) & (magnitude_bits(q) == 0)


@triton.jit
def was_saturated(y, inverse, FORMAT: tl.constexpr):
    """A finite y with |y * inverse| > F."""
    return is_finite(y) & (magnitude_bits(y * inverse) > formats.largest_bits(FORMAT))
