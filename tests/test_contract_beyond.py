"""Numbers a little beyond the largest of a format: of a block by an error of rounding, as its largest magnitude times
its inverse scale may be, and under a given scale by less than a ten-thousandth. Noise could carry them to codes that no
number has."""

from __future__ import annotations

import pytest
import torch
from contract_backends import CPU_BACKENDS, agree

import fastgrad
from fastgrad.reference.formats import FORMATS

BLOCK = 128
ELEMENTS = 1 << 20


def largest_everywhere(largest: float) -> torch.Tensor:
    """Every element has the largest magnitude of its block, and that of every block is one of those, out of a million,
    that rounding carries farthest beyond the largest of the format."""
    generator = torch.Generator().manual_seed(7)
    magnitudes = torch.rand(1 << 20, generator=generator) + 0.5
    v = magnitudes * (1.0 / (magnitudes / largest))
    farthest = magnitudes[v == v.max()]
    blocks = farthest[torch.arange(ELEMENTS // BLOCK) % len(farthest)]
    signs = torch.randint(0, 2, (ELEMENTS,), generator=generator) * 2.0 - 1.0
    return blocks.repeat_interleave(BLOCK) * signs


@pytest.mark.parametrize("format", ["int8", "int4", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "fp16"])
@pytest.mark.parametrize("scale", ["block", "given"])
def test_a_little_beyond_the_largest(format, scale):
    largest = FORMATS[format].largest
    x = largest_everywhere(largest)
    if scale == "given":
        x, options = [x.sign()], {"scale": [torch.tensor([(1 - 5e-5) / largest])]}
    else:
        x, options = [x], {"scale": "block", "block": BLOCK}
    quantized, table = fastgrad.quantize(x, format, seed=3, **options)
    blocks = quantized[0].scale.repeat_interleave(BLOCK) if scale == "block" else quantized[0].scale
    beyond = (x[0].abs() * (1.0 / blocks) > largest).sum()
    assert float(table[0, 12]) == float(beyond), "counted as saturated"
    assert beyond == ELEMENTS, "8 noises of 65,536 carry an fp16 in a block, which some of so many elements meet"
    restored = fastgrad.dequantize(quantized)[0].abs()
    assert bool((restored <= largest * blocks).all())
    assert bool(torch.isfinite(restored).all())

    def run():
        q, t = fastgrad.quantize([v.clone() for v in x], format, seed=3, **options)
        return [q[0].codes, q[0].scale, t]

    agree(run, f"{format}, {scale}", backends=CPU_BACKENDS)
