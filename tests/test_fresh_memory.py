"""Outputs that are new memory ask the system for large pages, and nothing else does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import fastgrad
from fastgrad import library

PAGE = 2 << 20


def asked(t: torch.Tensor) -> bool:
    """Whether the middle of a tensor's memory is in a mapping for which large pages were asked (the flag ``hg``)."""
    address = t.data_ptr() + t.nbytes // 2
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(mapping[1], 16) <= address < int(mapping[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError("no mapping holds the tensor")


needs_large_pages = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists() or library.native is None,
    reason="this system has no transparent large pages, or the native module is not built",
)


@needs_large_pages
def test_large_outputs_ask_for_large_pages_and_others_do_not(monkeypatch):
    ask, addresses = library.native.prefer_large_pages, []

    def seen(address: int, nbytes: int) -> None:
        addresses.append(address)
        ask(address, nbytes)

    monkeypatch.setattr(library.native, "prefer_large_pages", seen)
    x = torch.randn(40 * PAGE // 4)
    (stored, _), out = fastgrad.quantize(x, "int8", scale="block"), torch.empty_like(x)
    values = fastgrad.dequantize(stored)
    fastgrad.dequantize(stored, out=out)
    assert asked(stored.codes) and asked(values)
    # Not from the flags of other memory: a system may ask for what it finds busy by itself (DAMON).
    assert addresses == [stored.codes.data_ptr(), values.data_ptr()]
    assert torch.equal(values, out)


@needs_large_pages
@pytest.mark.parametrize("offset, nbytes", ((0, PAGE - 1), (1, 2 * PAGE - 2), (64, 3 * PAGE), (0, 0)))
def test_only_whole_pages_within_the_memory_are_asked_for(offset, nbytes):
    """Neighbours in memory are left as they are."""
    memory = torch.empty(64 * PAGE, dtype=torch.uint8)
    first = memory[-memory.data_ptr() % PAGE :][16 * PAGE + offset :][:nbytes]
    library.native.prefer_large_pages(first.data_ptr() if nbytes else memory.data_ptr(), nbytes)
    assert not asked(memory[: 8 * PAGE]) and not asked(memory[-8 * PAGE :])
    if nbytes >= 3 * PAGE:
        assert asked(first)
