"""Noise as training code meets it: micro-batches, parameters, seeds, replicas."""

from __future__ import annotations

import math

import pytest
import torch

import fastgrad
from fastgrad.ops import sweeps

N = 1 << 15
QUANTIZED = [name for name in sweeps.FORMATS if name != "fp32"]


def gradient() -> torch.Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(1))


def error(**names) -> torch.Tensor:
    """What rounding to int8 adds to one fixed gradient, float64."""
    x = gradient()
    return fastgrad.dequantize(fastgrad.quantize([x], "int8", **names)[0])[0].double() - x.double()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return (torch.dot(a - a.mean(), b - b.mean()) / ((a - a.mean()).norm() * (b - b.mean()).norm())).item()


BASE = {"seed": 7, "step": 3, "slot": 5, "purpose": "gradient", "ids": [4]}
OTHERS = (
    {"seed": 8},
    {"seed": 7 + 2**32},
    {"step": 4},
    {"slot": 6},
    {"purpose": "state"},
    {"ids": [5]},
    {"step": 2**30},
)


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_names_make_independent_noise(other, backend):
    """Another seed, step, micro-batch, purpose or parameter: errors that do not correlate (4 sigma)."""
    a, b = error(**BASE), error(**{**BASE, **other})
    # The sign of a rounding error leans on the fraction, which both share: compare the coin, not the error.
    # For a fraction f the coin is up with probability f; what is left over after f is independent.
    scale = fastgrad.quantize(gradient(), "int8")[0].scale.double()
    f = torch.frac(gradient().double().abs() / scale)
    up_a, up_b = ((e * torch.sign(gradient().double()) > 0).double() - f for e in (a, b))
    assert abs(correlation(up_a, up_b)) < 4 / math.sqrt(N)
    assert abs(correlation(up_a, (error(**BASE) * torch.sign(gradient().double()) > 0).double() - f)) > 0.999


def test_micro_batches_average_out(backend):
    """The error of a mean of k slots falls as 1/sqrt(k), that of one slot used k times not at all."""
    one = error(slot=0).pow(2).mean().sqrt().item()
    for k in (4, 16, 64):
        mean = torch.stack([error(slot=slot) for slot in range(k)]).mean(dim=0)
        assert mean.pow(2).mean().sqrt().item() == pytest.approx(one / math.sqrt(k), rel=0.05)
        repeated = torch.stack([error(slot=0) for _ in range(k)]).mean(dim=0)
        assert repeated.pow(2).mean().sqrt().item() == pytest.approx(one, rel=1e-6)


def test_parameter_ids(backend):
    """Equal tensors of a list are rounded apart; an id names the noise wherever the tensor stands."""
    x = gradient()
    (a, b), _ = fastgrad.quantize([x, x], "int8")
    assert 0.2 < (a.codes != b.codes).double().mean().item() < 0.8
    (c, d, e), _ = fastgrad.quantize([x, torch.ones(5), x], "int8", ids=[1, 9, 0])
    assert torch.equal(c.codes, b.codes) and torch.equal(e.codes, a.codes)
    assert d.codes.tolist() == [127] * 5


def coins(seed: int, n: int = 8192) -> torch.Tensor:
    """+1 where a half-way value was rounded up, else -1: bit 15 of the noise of every element."""
    codes, _ = fastgrad.quantize(torch.full((n,), 10.5), "int8", scale=torch.ones(1), seed=seed)
    return codes.codes.double() * 2 - 21


def test_next_seed_is_no_shifted_copy(backend):
    """A counter of index + seed would make seed s + 1 the noise of seed s, moved by one element."""
    a, b = coins(100), coins(101)
    n = a.numel()
    for shift in (*range(-300, 301), 1024, -1024, 4096):
        left, right = (a[shift:], b[: n - shift]) if shift >= 0 else (a[:shift], b[-shift:])
        assert abs(torch.dot(left, right).item()) < 6 * math.sqrt(len(left)), shift
    # the same measure does find a shift, and the noise has no short period of its own
    assert torch.dot(a[1:], a[1:].clone()).item() == n - 1
    for shift in (1, 2, 64, 128, 256, 512, 1024):
        assert abs(torch.dot(a[shift:], a[:-shift]).item()) < 6 * math.sqrt(n), shift


@pytest.mark.parametrize("format", QUANTIZED)
def test_stochastic_rounding_is_unbiased(format, backend):
    """The mean of what a value is rounded to is the value (5 sigma), below the smallest code as well."""
    for value in (1.0 + 0.3 * 2**-12, 1.37, 0.0123, 3.3e-5):
        n = 1 << 17
        scale = {"scale": torch.full((1,), 0.9)} if format not in ("bf16", "fp16") else {}
        codes, _ = fastgrad.quantize(torch.full((n,), value), format, **scale, seed=11)
        got = fastgrad.dequantize(codes, torch.float32).double()
        levels = got.unique()
        assert len(levels) == 2
        gap = (levels.max() - levels.min()).item()
        sigma = got.std(correction=0).item() / math.sqrt(n)
        bias = 2.0**-16 * gap + 2.0**-23 * value  # of 16 bits of noise; of float32 products with the scale
        assert abs(got.mean().item() - value) <= 5 * sigma + bias
        nearest, _ = fastgrad.quantize(torch.full((1,), value), format, **scale, rounding="nearest")
        assert fastgrad.dequantize(nearest, torch.float32).double() in levels


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_small_updates_survive_stochastic_weights(dtype, backend):
    """Updates far below half a gap are lost to nearest rounding and kept, on average, by stochastic."""
    hyper = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    gap = 2.0**-7 if dtype == torch.bfloat16 else 2.0**-10
    moved = {}
    for rounding in ("nearest", "stochastic"):
        p = torch.full((20_000,), 1.25, dtype=dtype)
        for step in range(20):
            fastgrad.sgd_step_(
                [p],
                [torch.full((20_000,), -gap / 50)],
                [],
                hyper,
                step=step,
                weight_rounding=rounding,
                measure=False,
            )
        moved[rounding] = (p.double() - 1.25).mean().item()
    assert moved["nearest"] == 0.0
    assert moved["stochastic"] == pytest.approx(20 * gap / 50, rel=0.05)


def test_reproducible(backend):
    """Nothing of torch's own generators enters, and nothing is taken from them."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = error(**BASE)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(error(**BASE), a)
