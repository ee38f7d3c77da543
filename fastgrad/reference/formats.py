"""Number formats, their storage and the rounding of values to them. Sections 3 and 4 of docs/numerics.md."""

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDINGS = ("stochastic", "nearest", "truncate")
FLT_MAX = 3.4028234663852886e38
NAN_BITS = 0x7FC00000


@dataclass(frozen=True)
class Format:
    """One row of the table in section 3."""

    name: str
    dtype: torch.dtype  # how codes are stored
    bits: int  # width of one code
    packed: bool  # two codes per byte
    mantissa: int  # mantissa bits; 0 for the integer formats
    e0: int  # biased float32 exponent of the smallest normal; 0 where there is none
    largest: float  # F, the largest finite value
    keeps_inf: bool  # else infinity becomes the largest value
    nan_code: int  # what a NaN is stored as
    integer: bool = False

    @property
    def sign_bit(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def inf_code(self) -> int:
        """The code of +infinity of a float format that keeps infinity: all exponent bits set."""
        return self.sign_bit - (1 << self.mantissa)


_BF16_MAX = 3.3895313892515355e38  # 0x7F7F
FORMATS = {
    fmt.name: fmt
    for fmt in (
        Format("fp32", torch.float32, 32, False, 23, 1, FLT_MAX, True, NAN_BITS),
        Format("bf16", torch.bfloat16, 16, False, 7, 1, _BF16_MAX, True, 0x7FC0),
        Format("fp16", torch.float16, 16, False, 10, 113, 65504.0, True, 0x7E00),
        Format("fp8_e4m3", torch.float8_e4m3fn, 8, False, 3, 121, 448.0, False, 0x7F),
        Format("fp8_e5m2", torch.float8_e5m2, 8, False, 2, 113, 57344.0, True, 0x7F),
        Format("fp4_e2m1", torch.uint8, 4, True, 1, 127, 6.0, False, 0),
        Format("int8", torch.int8, 8, False, 0, 0, 127.0, False, 0, integer=True),
        Format("int4", torch.uint8, 4, True, 0, 0, 7.0, False, 0, integer=True),
    )
}
_BY_DTYPE = {torch.float32: FORMATS["fp32"], torch.bfloat16: FORMATS["bf16"], torch.float16: FORMATS["fp16"]}


def get_format(name: str | Format) -> Format:
    if isinstance(name, Format):
        return name
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]


def f32(value: float) -> Tensor:
    """A float64 number rounded to float32, a 0-dim tensor: no operation sees it in another precision."""
    return torch.tensor(value, dtype=torch.float64, device="cpu").to(torch.float32)


def exp2_f32(exponent: Tensor) -> Tensor:
    """2^exponent in float32, exactly, for integers in [-126, 127] (made from bits: pow may round)."""
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)


def exp2_f64(exponent: Tensor) -> Tensor:
    """2^exponent in float64, exactly, for integers in [-1022, 1023]."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def square_root(x: Tensor) -> Tensor:
    """The correctly rounded root of float32 or float64. torch's own is not on every CPU, where it may be MKL's."""
    if x.is_cuda:
        return torch.sqrt(x)
    import numpy as np  # here: `import fastgrad` needs no NumPy

    return torch.from_numpy(np.sqrt(x.numpy()))


def canonical(x: Tensor) -> Tensor:
    """float32 with every NaN replaced by 0x7FC00000."""
    nan = torch.full_like(x, NAN_BITS, dtype=torch.int32)
    return torch.where(torch.isnan(x), nan, x.contiguous().view(torch.int32)).view(torch.float32)


def _round_up(w: Tensor, inexact: Tensor, rounding: str, noise: Tensor | None) -> Tensor:
    """`(w + add) >> 16` for a number w of target gaps with 16 fraction bits (section 4)."""
    if rounding == "stochastic":
        if noise is None:
            raise ValueError("noise is needed for stochastic rounding")
        return (w + noise) >> 16
    if rounding == "nearest":
        w = w | inexact.to(torch.int32)  # a value just above a tie must not look like the tie
        return (w + 0x7FFF + ((w >> 16) & 1)) >> 16
    if rounding == "truncate":
        return w >> 16
    raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")


def _encode_magnitude(magnitude: Tensor, fmt: Format, rounding: str, noise: Tensor | None) -> Tensor:
    """The code of a magnitude that is already clamped to [0, F]."""
    if fmt.integer:
        scaled = magnitude * f32(65536.0)
        w = scaled.to(torch.int32)
        return _round_up(w, scaled != w.to(torch.float32), rounding, noise)
    b = magnitude.view(torch.int32)
    exponent = b >> 23
    fraction = b & 0x7FFFFF
    sig = torch.where(exponent > 0, fraction | 0x800000, fraction)
    exponent = exponent.clamp(min=1)
    h = (10 - fmt.mantissa + (fmt.e0 - exponent).clamp(min=0)).clamp(max=31)
    wide = sig << 3
    w = wide >> h
    rounded = _round_up(w, (w << h) != wide, rounding, noise)
    return ((exponent - fmt.e0).clamp(min=0) << fmt.mantissa) + rounded


def encode(
    y: Tensor, inv: Tensor, format: str | Format, rounding: str = "nearest", noise: Tensor | None = None
) -> Tensor:
    """Round `v = y * inv` to codes of the format, int32, one per element (section 4).

    `y` and `inv` are float32; `noise` is int32 in [0, 65536), used by stochastic rounding. Codes of float
    formats are their bit patterns (unsigned but for fp32), codes of integer formats the signed integers.
    """
    fmt = get_format(format)
    v = y * inv
    if fmt.name == "fp32":
        return canonical(v).view(torch.int32)
    finite = torch.isfinite(y)
    largest = f32(fmt.largest)
    # Non-finite is decided on y: a finite y whose v overflows saturates. NaN is 0 here, its code comes below.
    magnitude = torch.where(torch.isnan(v), torch.zeros_like(v), v.abs())
    codes = _encode_magnitude(torch.minimum(magnitude, largest), fmt, rounding, noise)
    negative = y.contiguous().view(torch.int32) < 0
    if fmt.integer:
        codes = torch.where(negative, -codes, codes)
    else:
        if fmt.keeps_inf:
            codes = torch.where(finite, codes, torch.full_like(codes, fmt.inf_code))
        codes = torch.where(negative, codes | fmt.sign_bit, codes)
    return torch.where(torch.isnan(y), torch.full_like(codes, fmt.nan_code), codes)


def decode(codes: Tensor, scale: Tensor, format: str | Format) -> Tensor:
    """`q = min(|decode(code)| * s, FLT_MAX)` with its sign, float32; infinity and NaN stay (section 4)."""
    fmt = get_format(format)
    if fmt.name == "fp32":
        return canonical(codes.to(torch.int32).contiguous().view(torch.float32))
    if fmt.integer:
        magnitude, negative = codes.abs().to(torch.float32), codes < 0
        special = torch.zeros_like(negative)
    else:
        payload, negative = codes & (fmt.sign_bit - 1), (codes & fmt.sign_bit) != 0
        field = payload >> fmt.mantissa
        fraction = payload & ((1 << fmt.mantissa) - 1)
        sig = torch.where(field > 0, fraction | (1 << fmt.mantissa), fraction)
        exponent = field.clamp(min=1) - 1 + (fmt.e0 - 127 - fmt.mantissa)
        value = sig.to(torch.float64) * exp2_f64(exponent)  # exact
        magnitude = value.to(torch.float32)  # exact as well: every value of every format is a float32
        special = _nan_or_inf(payload, fmt)
    q = torch.minimum(magnitude * scale, f32(FLT_MAX))
    q = torch.where(negative, -q, q)
    if not fmt.integer:
        inf = torch.full_like(q, torch.inf)
        q = torch.where(special, torch.where(negative, -inf, inf), q)
        if fmt.nan_code:
            is_nan = special & (payload != fmt.inf_code) if fmt.keeps_inf else special
            q = canonical(torch.where(is_nan, torch.full_like(q, torch.nan), q))
    return q


def _nan_or_inf(payload: Tensor, fmt: Format) -> Tensor:
    if fmt.keeps_inf:
        return payload >= fmt.inf_code
    # e4m3 has one NaN and no infinity, e2m1 neither
    return payload == fmt.nan_code if fmt.nan_code else torch.zeros_like(payload, dtype=torch.bool)


def store_codes(codes: Tensor, format: str | Format) -> Tensor:
    """Codes (int32, flat) as the storage tensor of section 3: even elements in low nibbles where packed."""
    fmt = get_format(format)
    if fmt.packed:
        nibbles = torch.cat([codes & 0xF, codes.new_zeros(codes.numel() % 2)]).view(-1, 2)
        return (nibbles[:, 0] | nibbles[:, 1] << 4).to(torch.uint8)
    if fmt.bits == 32:
        return codes.contiguous().view(fmt.dtype)
    if fmt.integer:
        return codes.to(torch.int8)
    if fmt.bits == 8:
        return codes.to(torch.uint8).view(fmt.dtype)
    return torch.where(codes >= 0x8000, codes - 0x10000, codes).to(torch.int16).view(fmt.dtype)


def load_codes(stored: Tensor, format: str | Format, n: int) -> Tensor:
    """The `n` codes (int32) in a storage tensor; the inverse of `store_codes`."""
    fmt = get_format(format)
    if fmt.packed:
        both = stored.to(torch.int32)
        codes = torch.stack([both & 0xF, both >> 4], dim=1).reshape(-1)[:n]
        return (codes ^ 8) - 8 if fmt.integer else codes
    if fmt.bits == 32:
        return stored.view(torch.int32).clone()
    if fmt.integer:
        return stored.to(torch.int32)
    if fmt.bits == 8:
        return stored.view(torch.uint8).to(torch.int32)
    return stored.view(torch.int16).to(torch.int32) & 0xFFFF


def store_float(
    x: Tensor, dtype: torch.dtype, rounding: str = "nearest", noise: Tensor | None = None
) -> Tensor:
    """float32 values as fp32, bf16 or fp16: the rounding of section 4, the canonical NaN of section 3."""
    fmt = _BY_DTYPE[dtype]
    return store_codes(encode(x, f32(1.0), fmt, rounding, noise), fmt)
