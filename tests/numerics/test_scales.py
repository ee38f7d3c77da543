"""Section 5 of docs/numerics.md: scales of tensors and blocks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgrad.reference.formats import FORMATS, decode, encode
from fastgrad.reference.scales import (
    BLOCKS,
    block_absmax,
    block_count,
    inverse_scale,
    scale_from_absmax,
    spread,
)

SCALED = [name for name in FORMATS if name != "fp32"]
TINY = 2.0**-126
magnitudes = st.floats(0.0, torch.finfo(torch.float32).max, width=32)


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float32)


@pytest.mark.parametrize("pow2", [False, True])
@pytest.mark.parametrize("name", SCALED)
def test_zero_gives_one(name, pow2):
    assert scale_from_absmax(one(0.0), name, pow2).item() == 1.0


@settings(max_examples=200, deadline=None)
@given(magnitudes, st.sampled_from(SCALED))
def test_float_scale(absmax, name):
    scale = scale_from_absmax(one(absmax), name).item()
    if absmax == 0:
        assert scale == 1.0
    else:
        exact = absmax / FORMATS[name].largest
        assert scale == max(one(exact).item(), TINY)
    assert 0 < inverse_scale(one(scale)).item() <= 2.0**126


@settings(max_examples=200, deadline=None)
@given(magnitudes, st.sampled_from(SCALED))
def test_pow2_scale_is_the_smallest(absmax, name):
    scale = scale_from_absmax(one(absmax), name, pow2=True).item()
    assert math.frexp(scale)[0] == 0.5
    assert TINY <= scale <= 2.0**127
    if absmax > 0:
        largest = FORMATS[name].largest
        assert largest * scale >= absmax
        assert scale == TINY or largest * (scale / 2) < absmax
    assert inverse_scale(one(scale)).item() * scale == 1.0


@pytest.mark.parametrize("name", SCALED)
def test_pow2_at_the_seams(name):
    """A = F * 2^k takes 2^k itself, the next float32 above it 2^(k+1)."""
    largest = FORMATS[name].largest
    for k in (-126, -100, -1, 0, 1, 100):
        absmax = one(largest * 2.0**k)
        if not torch.isfinite(absmax):
            continue
        assert scale_from_absmax(absmax, name, pow2=True).item() == 2.0**k
        above = torch.nextafter(absmax, one(math.inf))
        if torch.isfinite(above):
            assert scale_from_absmax(above, name, pow2=True).item() == 2.0 ** (k + 1)


@pytest.mark.parametrize("pow2", [False, True])
@pytest.mark.parametrize("name", SCALED)
def test_the_largest_element_survives(name, pow2):
    """absmax * (1 / (absmax / F)) may exceed F: it must neither become NaN or wrap nor be lost."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        y = torch.randn(1000, generator=generator) * 10.0 ** (seed - 10)
        absmax = y.abs().max()
        s = scale_from_absmax(absmax.view(1), name, pow2)
        noise = torch.full(y.shape, 65535, dtype=torch.int32)
        for rounding in ("nearest", "truncate", "stochastic"):
            q = decode(encode(y, inverse_scale(s), name, rounding, noise), s, name)
            assert torch.isfinite(q).all()
            step = s.item() * FORMATS[name].largest / {"fp4_e2m1": 3, "int4": 7}.get(name, 7)
            assert abs(q.abs().max().item() - absmax.item()) <= step * 1.001


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 256, 1000, 5000])
def test_block_absmax(n, block):
    y = torch.randn(n, generator=torch.Generator().manual_seed(n))
    y[::5], y[1::9], y[2::13] = math.nan, -math.inf, math.inf
    got = block_absmax(y, block)
    assert got.shape == (block_count(n, block),)
    for i, value in enumerate(got.tolist()):
        part = y[i * block : (i + 1) * block]
        finite = part[torch.isfinite(part)].abs().tolist()
        assert value == max(finite, default=0.0)


def test_block_without_a_finite_element():
    y = torch.full((32,), math.inf)
    y[16:] = 2.0
    assert scale_from_absmax(block_absmax(y, 16), "int8").tolist()[0] == 1.0


def test_spread():
    assert spread(torch.tensor([1.0, 2.0, 3.0]), 16, 35).tolist() == [1.0] * 16 + [2.0] * 16 + [3.0] * 3


def test_other_blocks_are_refused():
    with pytest.raises(ValueError, match="16, 32, 64, 128, 256"):
        block_absmax(torch.ones(10), 8)
