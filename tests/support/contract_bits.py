"""Comparing results as bits: NaN equals NaN, +0 is not -0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
CANONICAL_NAN = {torch.float32: 0x7FC00000, torch.bfloat16: 0x7FC0, torch.float16: 0x7E00}


def bits(t: Tensor) -> Tensor:
    """The tensor's elements as integers of the same width, contiguous."""
    return t.detach().contiguous().view(_INTEGERS[t.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def first_difference(a: Tensor, b: Tensor) -> str:
    """Where and what, for a message that can be worked with."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{a.dtype} {list(a.shape)} is not {b.dtype} {list(b.shape)}"
    x, y = bits(a).flatten(), bits(b).flatten()
    places = (x != y).nonzero().flatten()
    i = int(places[0])
    va, vb = a.contiguous().flatten()[i].item(), b.contiguous().flatten()[i].item()
    what = f"{va!r} ({int(x[i]):#x}) is not {vb!r} ({int(y[i]):#x})"
    return f"{len(places)} of {x.numel()} differ, first at {i}: {what}"


def assert_same_bits(got: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    assert len(got) == len(expected), what
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert same_bits(a, b), f"{what}: result {k}: {first_difference(a, b)}"


def assert_nans_canonical(t: Tensor, what: str) -> int:
    """Every NaN of a float32, bfloat16 or float16 tensor has the contract's bits. Gives their number."""
    nan = torch.isnan(t)
    found = bits(t)[nan.contiguous()]
    expected = CANONICAL_NAN[t.dtype]
    assert bool((found == expected).all()), f"{what}: NaN bits {[hex(v) for v in set(found.tolist())]}"
    return int(nan.sum())
