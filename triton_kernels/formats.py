"""The eight formats as compile-time numbers. Section 3 of docs/numerics.md."""

import struct

import triton
import triton.language as tl

from fastgrad.reference.formats import FORMATS

NAMES = tuple(FORMATS)
FP32, BF16, FP16 = (tl.constexpr(NAMES.index(name)) for name in ("fp32", "bf16", "fp16"))


LARGEST_BITS = tuple(struct.unpack("<i", struct.pack("<f", spec.largest))[0] for spec in FORMATS.values())


@triton.constexpr_function
def is_integer(format):
    return FORMATS[NAMES[format]].integer


@triton.constexpr_function
def mantissa(format):
    """Explicit mantissa bits, m."""
    return FORMATS[NAMES[format]].mantissa


@triton.constexpr_function
def smallest_exponent(format):
    """Biased float32 exponent of the smallest normal, E0."""
    return FORMATS[NAMES[format]].e0


@triton.constexpr_function
def largest_bits(format):
    """Bits of F, the largest finite value, as float32."""
    return LARGEST_BITS[format]


@triton.constexpr_function
def keeps_infinity(format):
    return FORMATS[NAMES[format]].keeps_inf


@triton.constexpr_function
def infinity_code(format):
    return FORMATS[NAMES[format]].inf_code


@triton.constexpr_function
def nan_code(format):
    return FORMATS[NAMES[format]].nan_code


@triton.constexpr_function
def sign_bit(format):
    return FORMATS[NAMES[format]].sign_bit


@triton.constexpr_function
def code_bits(format):
    return FORMATS[NAMES[format]].bits
