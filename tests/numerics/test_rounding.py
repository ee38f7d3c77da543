"""Sections 3 and 4 of docs/numerics.md: formats, codes and the rounding of one value.

`IMPLEMENTATIONS` lists the encoders under test: `encode(y, inv, format, rounding, noise) -> int32 codes`.
What a code is worth is decided by this file (`value_of`), from torch's own dtypes where they exist.
"""

import pytest
import torch

from fastgrad import library
from fastgrad.reference.formats import FORMATS, decode, encode, f32, load_codes, store_codes, store_float


def native_encode(y, inv, format, rounding, noise):
    """The C++ formula by itself. It serves one scale a call, and every format but fp32, which is not rounded."""
    if format == "fp32" or getattr(format, "name", None) == "fp32" or inv.numel() > 1:
        return encode(y, inv, format, rounding, noise)
    name = getattr(format, "name", format)
    y, z = torch.broadcast_tensors(y, torch.zeros_like(y, dtype=torch.int32) if noise is None else noise)
    y, z = y.float().contiguous(), z.to(torch.int32).contiguous()
    codes, values = torch.empty(y.shape, dtype=torch.int32), torch.empty(y.shape)
    library.native.round_values(
        y.data_ptr(), z.data_ptr(), y.numel(), float(inv), 1.0, list(FORMATS).index(name),
        ("stochastic", "nearest", "truncate").index(rounding), codes.data_ptr(), values.data_ptr(),
        library.instruction_set(),
    )  # fmt: skip
    bits = FORMATS[name].bits
    return codes & ((1 << bits) - 1)


IMPLEMENTATIONS = [("reference", encode)]
if library.native is not None:
    IMPLEMENTATIONS.append(("native", native_encode))

ONE = f32(1.0)
ALL_NOISE = torch.arange(1 << 16, dtype=torch.int32)
ROUNDED = [name for name in FORMATS if name != "fp32"]
TORCH_FLOATS = ["bf16", "fp16", "fp8_e4m3", "fp8_e5m2"]
NARROW = ["fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "int8", "int4"]
LARGEST = {
    "bf16": 0x7F7F,
    "fp16": 0x7BFF,
    "fp8_e4m3": 0x7E,
    "fp8_e5m2": 0x7B,
    "fp4_e2m1": 7,
    "int8": 127,
    "int4": 7,
}
INF, NAN = float("inf"), float("nan")


@pytest.fixture(params=[f for _, f in IMPLEMENTATIONS], ids=[name for name, _ in IMPLEMENTATIONS])
def enc(request):
    return request.param


def value_of(codes: torch.Tensor, name: str) -> torch.Tensor:
    """What non-negative codes are worth, float64, without the code under test."""
    if name.startswith("int"):
        return codes.double()
    if name == "fp4_e2m1":
        return torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=torch.float64)[codes.long()]
    width = torch.uint8 if FORMATS[name].bits == 8 else torch.int16
    return codes.to(width).view(FORMATS[name].dtype).float().double()


def sign_of(codes: torch.Tensor, name: str) -> torch.Tensor:
    """Codes of negative values from those of positive ones."""
    return -codes if name.startswith("int") else codes | FORMATS[name].sign_bit


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.int32)


def from_bits(b: torch.Tensor) -> torch.Tensor:
    return b.to(torch.int32).view(torch.float32)


def gaps(name: str) -> torch.Tensor:
    """Lower codes of the gaps looked at: all of a narrow format, else subnormals, seams and a sample."""
    largest = LARGEST[name]
    if name in NARROW:
        return torch.arange(largest)
    step = 1 << FORMATS[name].mantissa
    seams = torch.arange(step, largest, step)
    edges = torch.cat(
        [seams - 1, seams, torch.arange(64), torch.arange(step - 64, step), torch.tensor([largest - 1])]
    )
    sample = torch.randint(largest, (2048,), generator=torch.Generator().manual_seed(0))
    return torch.cat([edges, sample]).unique()


def between(name: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 values v in [lower, upper) of each gap of a format, and the lower codes."""
    generator = torch.Generator().manual_seed(seed)
    codes = gaps(name)
    lower, upper = value_of(codes, name), value_of(codes + 1, name)
    fractions = torch.rand(5 if name in NARROW else 1, len(codes), dtype=torch.float64, generator=generator)
    if name in NARROW:
        # the code itself, the smallest step above it, the tie, the last value below the upper code
        fractions[0], fractions[1], fractions[2], fractions[3] = 0.0, 2.0**-20, 0.5, 1 - 2.0**-20
    values = (lower + fractions * (upper - lower)).float().double()
    codes = codes.expand_as(values)
    inside = (values >= lower) & (values < upper)
    return values[inside].float(), codes[inside].int()


def round_up_fraction(values: torch.Tensor, codes: torch.Tensor, name: str) -> torch.Tensor:
    """floor(fraction * 2^16) of the gap; every step is exact in float64 but for a floor that is meant."""
    lower, upper = value_of(codes, name), value_of(codes + 1, name)
    return torch.floor((values.double() - lower) / (upper - lower) * 65536).to(torch.int64)


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("negative", [False, True])
def test_exactly_the_fraction_rounds_up(enc, name, negative):
    if negative and name not in NARROW:
        pytest.skip("the sign is no part of the rounding; the narrow formats show it")
    values, codes = between(name, seed=1)
    expected = round_up_fraction(values, codes, name)
    for part, low, up in zip(values.split(32), codes.split(32), expected.split(32), strict=True):
        y = part[:, None].expand(-1, 1 << 16).reshape(-1)
        noise = ALL_NOISE.repeat(len(part))
        got = enc(-y if negative else y, ONE, name, "stochastic", noise).view(len(part), -1)
        lower, upper = low[:, None], low[:, None] + 1
        if negative:
            lower, upper = sign_of(lower, name), sign_of(upper, name)
        assert bool(((got == lower) | (got == upper)).all())
        assert torch.equal((got == upper).sum(dim=1), up)


@pytest.mark.parametrize("name", ROUNDED)
def test_noise_acts_as_a_threshold(enc, name):
    """The noises that round up are the largest ones, so 0 never does and 65535 does wherever any does."""
    values, codes = between(name, seed=2)
    count = round_up_fraction(values, codes, name).int()
    random = torch.randint(65536, values.shape, generator=torch.Generator().manual_seed(3))
    for noise in (0, 65535, random, 65536 - count, 65535 - count):
        noise = torch.as_tensor(noise).expand_as(values).int().clamp(0, 65535)
        got = enc(values, ONE, name, "stochastic", noise)
        assert torch.equal(got, codes + (noise >= 65536 - count).int())


@pytest.mark.parametrize("name", ROUNDED)
def test_truncate_goes_toward_zero(enc, name):
    values, codes = between(name, seed=4)
    assert torch.equal(enc(values, ONE, name, "truncate", None), codes)
    assert torch.equal(enc(-values, ONE, name, "truncate", None), sign_of(codes, name))


def dense_samples(name: str) -> torch.Tensor:
    """float32 patterns over the whole range, around the ties, at the codes and below all subnormals."""
    largest = value_of(torch.tensor([LARGEST[name]]), name).float()
    every = from_bits(torch.arange(0, int(bits(largest)) + 1, 4099))
    codes = gaps(name)
    ties = ((value_of(codes, name) + value_of(codes + 1, name)) / 2).float()
    around = torch.cat([bits(ties) + d for d in (-2, -1, 0, 1, 2)])
    exact = value_of(torch.cat([codes, codes + 1]), name).float()
    small = torch.arange(4096)
    x = torch.cat([every, exact, from_bits(around.clamp(0, int(bits(largest)))), from_bits(small)])
    return torch.cat([x, -x])


@pytest.mark.parametrize("name", TORCH_FLOATS)
def test_nearest_is_torchs(enc, name):
    x = dense_samples(name)
    theirs = load_codes(x.to(FORMATS[name].dtype), name, len(x))
    assert torch.equal(enc(x, ONE, name, "nearest", None), theirs)


@pytest.mark.parametrize("name", ["fp4_e2m1", "int8", "int4"])
def test_nearest_is_the_nearest(enc, name):
    """By distance to every code in float64, a tie going to the even code."""
    x = dense_samples(name)
    x = x[torch.isfinite(x)]
    table = value_of(torch.arange(LARGEST[name] + 1), name)
    above = torch.searchsorted(table, x.abs().double(), right=True).clamp(1, len(table) - 1)
    to_lower, to_upper = x.abs().double() - table[above - 1], table[above] - x.abs().double()
    odd = (above - 1) % 2 == 1
    best = torch.where((to_lower < to_upper) | ((to_lower == to_upper) & ~odd), above - 1, above).int()
    best = torch.where(torch.signbit(x), sign_of(best, name), best)
    assert torch.equal(enc(x, ONE, name, "nearest", None), best)


@pytest.mark.parametrize("rounding", ["stochastic", "nearest", "truncate"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_code_is_a_fixed_point(enc, name, rounding):
    fmt = FORMATS[name]
    if name == "fp32":
        codes = torch.randint(
            -(1 << 31), 1 << 31, (100_000,), generator=torch.Generator().manual_seed(0)
        ).int()
    elif fmt.integer:
        codes = torch.arange(-LARGEST[name], LARGEST[name] + 1, dtype=torch.int32)
    else:
        codes = torch.arange(1 << fmt.bits, dtype=torch.int32)
    values = decode(codes, ONE, name)
    codes = torch.where(torch.isnan(values), fmt.nan_code, codes)
    noise = torch.full_like(codes, 65535)
    assert torch.equal(enc(values, ONE, name, rounding, noise), codes)


@pytest.mark.parametrize("name", ROUNDED)
def test_decode_gives_the_values(name):
    codes = torch.arange(LARGEST[name] + 1, dtype=torch.int32)
    values = value_of(codes, name)
    assert torch.equal(decode(codes, ONE, name).double(), values)
    assert torch.equal(bits(decode(sign_of(codes[1:], name), ONE, name)), bits(-values[1:].float()))
    for s in (3.0, 2.0**-126, 0.1, 1e38):
        scaled = (values.float() * f32(s)).clamp(max=torch.finfo(torch.float32).max)
        assert torch.equal(bits(decode(codes, f32(s), name)), bits(scaled))


@pytest.mark.parametrize("rounding", ["stochastic", "nearest", "truncate"])
@pytest.mark.parametrize("name", ROUNDED)
def test_clamps_before_the_noise(enc, name, rounding):
    largest = float(value_of(torch.tensor([LARGEST[name]]), name))
    above = from_bits(bits(torch.tensor([largest])) + torch.tensor([0, 1, 2, 1000]))
    y = torch.cat(
        [above, torch.tensor([1.4 * largest, 1e4 * largest, torch.finfo(torch.float32).max]).float()]
    )
    y = y[torch.isfinite(y)]
    noise = torch.full(y.shape, 65535, dtype=torch.int32)
    top = torch.full_like(noise, LARGEST[name])
    assert torch.equal(enc(y, ONE, name, rounding, noise), top)
    assert torch.equal(enc(-y, ONE, name, rounding, noise), sign_of(top, name))
    # a finite y saturates although y * inv is infinite
    assert torch.equal(enc(y.clamp(min=8.0), f32(2.0**126), name, rounding, noise), top)


SPECIAL = {  # name: codes of NaN, -NaN, inf, -inf, 0, -0
    "fp32": (0x7FC00000, 0x7FC00000, 0x7F800000, 0xFF800000 - (1 << 32), 0, -(1 << 31)),
    "bf16": (0x7FC0, 0x7FC0, 0x7F80, 0xFF80, 0, 0x8000),
    "fp16": (0x7E00, 0x7E00, 0x7C00, 0xFC00, 0, 0x8000),
    "fp8_e4m3": (0x7F, 0x7F, 0x7E, 0xFE, 0, 0x80),
    "fp8_e5m2": (0x7F, 0x7F, 0x7C, 0xFC, 0, 0x80),
    "fp4_e2m1": (0, 0, 7, 15, 0, 8),
    "int8": (0, 0, 127, -127, 0, 0),
    "int4": (0, 0, 7, -7, 0, 0),
}


@pytest.mark.parametrize("rounding", ["stochastic", "nearest", "truncate"])
@pytest.mark.parametrize("inv", [1.0, 2.0**126, 2.0**-120])
@pytest.mark.parametrize("name", FORMATS)
def test_special_values(enc, name, inv, rounding):
    nans = from_bits(torch.tensor([0x7F812345, 0xFFC00000 - (1 << 32)]))
    y = torch.cat([nans, torch.tensor([INF, -INF, 0.0, -0.0])])
    noise = torch.full(y.shape, 65535, dtype=torch.int32)
    codes = enc(y, f32(1.0 if name == "fp32" else inv), name, rounding, noise)
    assert codes.tolist() == list(SPECIAL[name])

    q = decode(codes, f32(2.0), name)
    if SPECIAL[name][0]:
        assert bits(q)[:2].tolist() == [0x7FC00000] * 2
    if FORMATS[name].keeps_inf:
        assert q[2:4].tolist() == [INF, -INF]
    else:
        assert q[2:4].tolist() == [2 * FORMATS[name].largest, -2 * FORMATS[name].largest]
    zeros = [0, 0] if FORMATS[name].integer else [0, -(1 << 31)]
    assert bits(q)[4:].tolist() == zeros


@pytest.mark.parametrize("name", ROUNDED)
def test_decoded_values_stay_finite(name):
    """A code times its scale may pass the largest float32; the value stored does not."""
    top = torch.tensor([LARGEST[name]], dtype=torch.int32)
    limit = torch.finfo(torch.float32).max
    assert decode(top, f32(3e38), name).item() == limit
    assert decode(sign_of(top, name), f32(3e38), name).item() == -limit


@pytest.mark.parametrize("name", ROUNDED)
def test_scale_per_element(enc, name):
    generator = torch.Generator().manual_seed(5)
    y = torch.randn(1000, generator=generator)
    inv = torch.rand(1000, generator=generator) + 0.5
    noise = torch.randint(65536, (1000,), generator=generator).int()
    assert torch.equal(enc(y, inv, name, "stochastic", noise), enc(y * inv, ONE, name, "stochastic", noise))


@pytest.mark.parametrize("n", [0, 1, 2, 7, 1000])
@pytest.mark.parametrize("name", FORMATS)
def test_storage(name, n):
    fmt = FORMATS[name]
    codes = encode(torch.randn(n, generator=torch.Generator().manual_seed(n)) * 3, ONE, name, "nearest")
    stored = store_codes(codes, name)
    assert stored.dtype == fmt.dtype
    assert stored.numel() == ((n + 1) // 2 if fmt.packed else n)
    assert torch.equal(load_codes(stored, name, n), codes)


def test_packed_layout():
    assert store_codes(torch.tensor([1, -2, -7], dtype=torch.int32), "int4").tolist() == [0xE1, 0x09]
    assert store_codes(torch.tensor([1, 0xE, 7], dtype=torch.int32), "fp4_e2m1").tolist() == [0xE1, 0x07]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stored_nan_is_canonical(dtype):
    x = from_bits(torch.tensor([0x7F800001, -1, 0xFFC00000 - (1 << 32)]))
    stored = store_float(x, dtype)
    expected = {torch.float32: 0x7FC00000, torch.bfloat16: 0x7FC0, torch.float16: 0x7E00}[dtype]
    assert stored.view(torch.int32 if dtype == torch.float32 else torch.int16).tolist() == [expected] * 3


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="fp8_e4m3"):
        encode(torch.ones(1), ONE, "fp8", "nearest")
    with pytest.raises(ValueError, match="truncate"):
        encode(torch.ones(1), ONE, "bf16", "up")
