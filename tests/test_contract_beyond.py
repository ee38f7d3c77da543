"""Numbers at the end of a format: the largest of a block times its inverse scale may be an error of rounding beyond
the largest number, from where noise could carry it to a code that no number has."""

from __future__ import annotations

import pytest
import torch
from contract_backends import CPU_BACKENDS, agree

import fastgrad
from fastgrad.reference.formats import FORMATS

BLOCK = 128
ELEMENTS = 1 << 20


def largest_everywhere(seed: int) -> torch.Tensor:
    """Every element has the largest magnitude of its block; blocks have any."""
    generator = torch.Generator().manual_seed(seed)
    magnitudes = torch.rand(ELEMENTS // BLOCK, generator=generator) + 0.5
    signs = torch.randint(0, 2, (ELEMENTS,), generator=generator) * 2.0 - 1.0
    return magnitudes.repeat_interleave(BLOCK) * signs


@pytest.mark.parametrize("format", ["int8", "int4", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "fp16"])
@pytest.mark.parametrize("scale", ["block", "given"])
def test_an_error_of_rounding_beyond_the_largest(format, scale):
    largest = FORMATS[format].largest
    x = largest_everywhere(7)
    if scale == "given":
        x, s = [x.sign()], [torch.tensor([1.0]) / largest]  # 1 / s is rounded: 1 may be beyond the largest
        options = {"scale": s}
    else:
        x, options = [x], {"scale": "block", "block": BLOCK}
    quantized, table = fastgrad.quantize(x, format, seed=3, **options)
    blocks = quantized[0].scale.repeat_interleave(BLOCK) if scale == "block" else quantized[0].scale
    beyond = (x[0].abs() * (1.0 / blocks) > largest).sum()
    assert float(table[0, 12]) == float(beyond), "counted as saturated"
    if scale == "block":
        assert beyond > 50_000, "two noises of 65,536 carry; a few of so many elements meet one"
    restored = fastgrad.dequantize(quantized)[0].abs()
    assert bool((restored <= largest * blocks).all())
    assert bool(torch.isfinite(restored).all())

    def run():
        q, t = fastgrad.quantize([v.clone() for v in x], format, seed=3, **options)
        return [q[0].codes, q[0].scale, t]

    agree(run, f"{format}, {scale}", backends=CPU_BACKENDS)
