"""Bit patterns of floats: exact powers of two, finiteness, the canonical NaN. Section 3 of docs/numerics.md."""

import triton
import triton.language as tl

MAGNITUDE = tl.constexpr(0x7FFFFFFF)
SIGN = tl.constexpr(-0x80000000)
INFINITY = tl.constexpr(0x7F800000)
NAN = tl.constexpr(0x7FC00000)
FLT_MAX = tl.constexpr(0x7F7FFFFF)
LARGEST = tl.constexpr(3.4028234663852886e38)  # the float32 of those bits


@triton.jit
def bits_of(x):
    """float32 -> int32"""
    return x.to(tl.int32, bitcast=True)


@triton.jit
def float_of(bits):
    """int32 -> float32"""
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def double_of(bits):
    """int64 -> float64"""
    return bits.to(tl.float64, bitcast=True)


@triton.jit
def magnitude_bits(x):
    return bits_of(x) & MAGNITUDE


@triton.jit
def is_finite(x):
    return magnitude_bits(x) < INFINITY


@triton.jit
def is_nan(x):
    return magnitude_bits(x) > INFINITY


@triton.jit
def canonical(x):
    """float32 with every NaN replaced by 0x7FC00000."""
    b = bits_of(x)
    return float_of(tl.where((b & MAGNITUDE) > INFINITY, NAN, b))


@triton.jit
def exp2(exponent):
    """2^exponent, float32, for int32 exponents in [-126, 127]."""
    return float_of((exponent + 127) << 23)


@triton.jit
def exp2_double(exponent):
    """2^exponent, float64, for int32 exponents in [-1022, 1023]."""
    return double_of((exponent.to(tl.int64) + 1023) << 52)


@triton.jit
def divide(x, y):
    """float32 division to nearest even: `/` compiles to an approximation."""
    return tl.math.div_rn(x, y)
