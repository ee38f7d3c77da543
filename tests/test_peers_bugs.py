"""Faults found in other libraries' rounding, each as a test of ours that is shown to fail on the fault.

Every faulty rule is written out here in a few lines; `prop` is the property, asked of ours and of that rule.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from contract_bits import bits
from contract_data import from_bits
from torch import Tensor

import fastgrad
from fastgrad import shrinkage
from fastgrad.ops import sweeps

FLT_MAX = torch.finfo(torch.float32).max


def ours(x: Tensor, format: str, **options) -> Tensor:
    return fastgrad.dequantize(fastgrad.quantize(x, format, **options)[0], torch.float32)


def add_noise_and_mask(x: Tensor, seed: int = 0) -> Tensor:
    """Stochastic bfloat16 as in torchao, HeavyBall and pytorch_optimizer: noise added, low half cut off."""
    noise = torch.randint(0, 1 << 16, x.shape, generator=torch.Generator().manual_seed(seed))
    summed = (x.view(torch.int32).long() + noise) & 0xFFFF0000
    return torch.where(summed >= 2**31, summed - 2**32, summed).to(torch.int32).view(torch.float32)


def holds(prop, value) -> bool:
    try:
        prop(value)
    except AssertionError:
        return False
    return True


def test_nan_stays_nan():
    """0x7FFFFFFF + noise wraps to -0.0 and 0x7F800001 becomes infinity: a diverged run hides."""
    x = from_bits([0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF, 0x7FC00000]).repeat(1000)

    def prop(rule):
        assert bool(torch.isnan(rule(x)).all())

    prop(lambda x: ours(x, "bf16"))
    assert not holds(prop, add_noise_and_mask)
    p = torch.ones(4000, dtype=torch.bfloat16)
    hyper = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    fastgrad.sgd_step_([p], [x], [], hyper, weight_rounding="stochastic")
    assert set(bits(p).tolist()) == {0x7FC0}


def test_largest_float_saturates_and_is_counted():
    """Values above the largest bfloat16 round to infinity under noise; ours stay finite and are counted."""
    x = torch.full((1000,), FLT_MAX)

    def prop(rule):
        assert bool(torch.isfinite(rule(x)).all())

    prop(lambda x: ours(x, "bf16"))
    assert not holds(prop, add_noise_and_mask)
    for format in ("bf16", "fp16", "fp8_e4m3", "fp8_e5m2"):
        quantized, table = fastgrad.quantize(x, format, scale="none", moments=True)
        assert torch.isfinite(fastgrad.dequantize(quantized, torch.float32)).all()
        assert table[0, 12] == 1000 and table[0, 5] == 0
    kept, table = fastgrad.quantize(torch.tensor([torch.inf, -torch.inf]), "bf16", moments=True)
    assert kept.codes.tolist() == [torch.inf, -torch.inf] and table[0, 12] == 0 and table[0, 5] == 2


def test_same_seed_same_bits():
    """Noise of a global generator: the seed that is given has no effect, or eager and compiled differ."""
    x = torch.randn(3000)

    def prop(rule):
        assert torch.equal(rule(7), rule(7)) and not torch.equal(rule(7), rule(8))

    prop(lambda seed: ours(x, "int8", seed=seed))
    assert not holds(prop, lambda seed: torch.floor(x * 10 + torch.rand_like(x)))
    assert not holds(prop, lambda seed: ours(x, "int8", seed=0))


@pytest.mark.parametrize("format, largest, faulty", (("fp8_e4m3", 448.0, 480.0), ("fp8_e5m2", 57344.0, 114688.0)))
def test_largest_value_is_that_of_ocp(format, largest, faulty):
    """A range that forgets that the top codes are NaN or infinity (qtorch, DeepSpeed)."""

    def prop(top):
        dtype = sweeps.reference.get_format(format).dtype
        assert torch.tensor(top).to(dtype).float().item() == top == torch.finfo(dtype).max

    quantized, table = fastgrad.quantize(torch.tensor([largest, largest * 1.001, 1e30]), format, scale="none")
    assert table[0, 12] == 2
    for value in fastgrad.dequantize(quantized).tolist():
        prop(value)
    assert not holds(prop, faulty)


def q_k(x: Tensor, q: Tensor) -> float:
    x, q = x.double(), q.double()
    return ((x * q).sum() / (x * x).sum()).item()


def test_shrinkage_of_stochastic_e4m3():
    """q_k of Gaussian e4m3 is 1 within 3 sigma; poisson(10) noise of 2^20 is truncation, q_k about 0.956."""
    x = torch.randn(200_000)
    quantized, table = fastgrad.quantize(x, "fp8_e4m3")
    q = fastgrad.dequantize(quantized)
    error = (q - x).double()
    sigma = ((x.double() * error).pow(2).sum().sqrt() / x.double().pow(2).sum()).item()

    def prop(value):
        assert abs(value - 1) < 3 * sigma

    prop(q_k(x, q))
    prop(shrinkage.projection(table[0, 8], table[0, 9]).item())
    noise = torch.poisson(torch.full(x.shape, 10.0)).int()
    scale = quantized.scale
    faulty = (((x / scale).view(torch.int32) + (noise & 0xFFFFF)) & ~0xFFFFF).view(torch.float32) * scale
    assert not holds(prop, q_k(x, faulty))
    assert 0.94 < q_k(x, faulty) < 0.97


@pytest.mark.parametrize("format", ("fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "int8", "int4"))
def test_mx_exponents_round_up(format):
    """A shared exponent made with floor saturates the top of many blocks: q_k stays below 1."""
    x = torch.randn(64_000)
    spec = sweeps.reference.get_format(format)
    top = x.view(-1, 32).abs().amax(dim=1)

    def prop(scales):
        assert bool((top / scales <= spec.largest).all())

    quantized, table = fastgrad.quantize(x, format, scale="block", block=32, pow2=True)
    prop(quantized.scale)
    assert table[0, 12] == 0
    assert bool((top / quantized.scale > spec.largest / 2).all()), "no larger than need be"
    floor = 2.0 ** (torch.floor(torch.log2(top)) - torch.floor(torch.log2(torch.tensor(spec.largest))))
    assert not holds(prop, floor)


def test_seed_and_next_seed_are_not_shifted():
    """A counter of index + seed: seed s + 1 is the noise of seed s, moved by one element."""

    def prop(rule):
        a, b = rule(100), rule(101)
        for shift in (-2, -1, 1, 2):
            left, right = (a[shift:], b[:-shift]) if shift > 0 else (a[:shift], b[-shift:])
            assert not torch.equal(left, right)
            assert 0.4 < (left == right).double().mean() < 0.6

    prop(lambda seed: ours(torch.full((4096,), 10.5), "int8", scale=torch.ones(1), seed=seed))

    def hashed(seed: int) -> Tensor:
        counter = torch.arange(4096) + seed
        return torch.floor(10.5 + (counter * 2654435761 % 2**32) / 2**32)

    assert not holds(prop, hashed)


def test_empty_tensors_in_a_list():
    """Chunks counted per tensor, none for an empty one, shift everything behind it (torch _foreach_norm)."""
    tensors = [torch.randn(5), torch.zeros(0), torch.randn(7), torch.zeros(3, 0), torch.randn(2)]

    def prop(norms):
        assert torch.allclose(norms, torch.stack([t.norm() for t in tensors]))

    n, mean, m2 = fastgrad.gradient_moments(tensors)[:-1, :3].unbind(1)
    prop(torch.sqrt(m2 + n * mean**2).float())
    skipped = torch.stack([t.norm() for t in tensors if t.numel()])
    assert not holds(prop, torch.cat([skipped, torch.zeros(2)]))


@pytest.mark.parametrize("format", ("int8", "int4", "fp8_e4m3", "fp4_e2m1"))
def test_nan_in_one_block_leaves_the_others(format):
    """A NaN in absmax makes the scale NaN and every code of the block, or the tensor, zero."""
    x = torch.randn(8, 64)
    x[3, 5] = torch.nan
    good = torch.isfinite(x)

    def prop(q):
        assert bool(((q - x)[good].abs() <= x[good].abs() * 0.5 + x[good].abs().max() / 3).all())
        assert (q[good] != 0).double().mean() > 0.6

    for scale in ("block", "tensor"):
        prop(ours(x, format, scale=scale, block=64))
    s = x.abs().amax(dim=1, keepdim=True) / 127
    assert not holds(prop, torch.nan_to_num(torch.round(x / s.amax())) * torch.nan_to_num(s))


def test_eight_bit_casts_of_infinity_are_ours():
    """torch casts 450 and infinity to e4m3's 448, but 1e9 to e5m2's infinity; ours saturate it."""
    x = torch.tensor([450.0, 1e9, torch.inf, -torch.inf])
    assert ours(x, "fp8_e4m3", scale="none").tolist() == [448.0, 448.0, 448.0, -448.0]
    assert ours(x, "fp8_e5m2", scale="none", rounding="nearest").tolist() == [
        448.0,
        57344.0,
        torch.inf,
        -torch.inf,
    ]
    assert x.to(torch.float8_e5m2).float().tolist() != ours(x, "fp8_e5m2", scale="none", rounding="nearest").tolist()


@pytest.mark.parametrize("format", [f for f in sweeps.FORMATS if f != "fp32"])
def test_noise_is_not_shared_by_tensors_of_a_list(format):
    """One seed for every tensor of a launch: equal tensors get equal errors, which add up."""
    x = torch.randn(4096)

    def prop(pair):
        a, b = pair
        assert not torch.equal(a, b)

    codes, _ = fastgrad.quantize([x, x], format)
    prop([bits(q.codes) for q in codes])
    shared, _ = fastgrad.quantize([x, x], format, ids=[0, 0])
    assert not holds(prop, [bits(q.codes) for q in shared])
    assert all(bool(q.codes.view(torch.uint8).any()) for q in codes), "all zeros"


@pytest.mark.parametrize("format", ("fp8_e4m3", "fp8_e5m2", "bf16", "fp16"))
def test_nan_is_not_the_largest_value(format):
    """A clamp written as a comparison makes the largest value of a NaN (qtorch): a diverged run hides."""
    x = torch.tensor([torch.nan, 1.0, -torch.nan])

    def prop(rule):
        assert torch.isnan(rule(x)).tolist() == [True, False, True]

    for scale in ("none", "tensor", "block"):
        for rounding in sweeps.ROUNDINGS:
            prop(lambda x, o=dict(scale=scale, rounding=rounding): ours(x, format, **o))
    largest = sweeps.reference.get_format(format).largest
    assert not holds(prop, lambda x: torch.where(x < largest, x, largest).clamp(min=-largest))


def test_eager_and_compiled_have_one_stream():
    """Noise of a generator that the compiler replaces by its own: one seed, two results (torchao)."""
    x = torch.randn(3000)

    def prop(rule):
        torch.manual_seed(7)
        eager = rule(x)
        torch._dynamo.reset()
        torch.manual_seed(7)
        assert torch.equal(bits(torch.compile(rule, backend="inductor")(x)), bits(eager))

    prop(lambda x: fastgrad.quantize(x, "bf16", seed=7)[0].codes)
    assert not holds(prop, lambda x: torch.floor(x * 256 + torch.rand_like(x)))


LAUNCHES = {
    "quantize": lambda x, seed, step: [fastgrad.quantize(x, "int8", seed=seed, step=step)[0].codes],
    "quantize, given scale": lambda x, seed, step: [
        fastgrad.quantize(x, "fp8_e4m3", scale=torch.ones(1), seed=seed, step=step)[0].codes
    ],
    "a list": lambda x, seed, step: [q.codes for q in fastgrad.quantize([x[:9], x], "int4", seed=seed, step=step)[0]],
    "a short tensor": lambda x, seed, step: [fastgrad.quantize(x[:120], "int8", seed=seed, step=step)[0].codes],
    "normalize_quantize_": lambda x, seed, step: [
        fastgrad.normalize_quantize_([y := x.clone()], "znorm", "bf16", seed=seed, step=step),
        y,
    ],
    "weights": lambda x, seed, step: _weights_after_a_step(x, seed, step),
}


def _weights_after_a_step(x: Tensor, seed: int, step: int) -> list[Tensor]:
    p = torch.ones(x.shape, dtype=torch.bfloat16)
    hyper = torch.tensor([[1e-3, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    fastgrad.sgd_step_([p], [x], [], hyper, weight_rounding="stochastic", seed=seed, step=step)
    return [p]


@pytest.mark.parametrize("launch", LAUNCHES)
def test_the_seed_reaches_every_launch(launch):
    """Some launches of a kernel got seed 0 whatever was asked for: their noise was the same at every step."""
    x = torch.randn(3000)

    def prop(run):
        results = [run(x, seed, step)[-1] for seed, step in ((0, 0), (5, 0), (5, 1), (2**64 - 1, 0))]
        for i, a in enumerate(results):
            assert not any(torch.equal(bits(a), bits(b)) for b in results[:i])
        assert torch.equal(bits(run(x, 5, 1)[-1]), bits(results[2]))

    prop(LAUNCHES[launch])
    assert not holds(prop, lambda x, seed, step: LAUNCHES[launch](x, 0, 0))


@pytest.mark.parametrize("format", [f for f in sweeps.FORMATS if f != "fp32"])
def test_a_kernel_that_writes_nothing_is_seen(format, backend):
    """All codes were zero, because the code that wrote them was not compiled in (Transformer Engine, NVFP4)."""
    x = torch.randn(2000)

    def prop(quantize):
        q, table = quantize(x)
        values = fastgrad.dequantize(q, torch.float32)
        assert (values != 0).double().mean() > 0.6
        assert abs(q_k(x, values) - 1) < 0.2
        assert table[0, 11] == ((x != 0) & (values == 0)).sum(), "what became zero is counted"
        assert abs(shrinkage.projection(table[0, 8], table[0, 9]).item() - q_k(x, values)) < 1e-5

    def idle(x: Tensor):
        q, table = fastgrad.quantize(x, format)
        q.codes.view(torch.uint8).zero_()
        return q, table

    prop(lambda x: fastgrad.quantize(x, format))
    assert not holds(prop, idle)


def test_every_fault_of_the_table_has_its_test():
    text = (Path(__file__).parents[1] / "docs" / "reliability.md").read_text()
    named = re.findall(r"\| `(test_\w+)` \|", text.partition("## Faults of other libraries")[2])
    assert len(named) > 12 and [name for name in named if not callable(globals().get(name))] == []
    tests = {name for name in globals() if name.startswith("test_")}
    assert tests - set(named) == {"test_every_fault_of_the_table_has_its_test"}
