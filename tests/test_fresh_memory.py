"""Outputs that are new memory ask the system for large pages, and nothing else does."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastgrad
from fastgrad import library

PAGE = 2 << 20
CSRC = Path(__file__).parent.parent / "csrc"


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


# What the system is asked for, said instead of done. Not read from the flags of real memory: those a system sets by
# itself, too, where it finds memory busy (DAMON), or a library that shares the process.
ASKED = """
#include <cstdio>
#include <cstdlib>

#include "cpu/pages.h"

extern "C" int madvise(void* memory, size_t bytes, int advice) noexcept {
  std::printf("%zu %zu %d", reinterpret_cast<size_t>(memory), bytes, int{advice == MADV_HUGEPAGE});
  return 0;
}

int main(int, char** given) {
  fastgrad::prefer_large_pages(std::strtoull(given[1], nullptr, 10), std::strtoull(given[2], nullptr, 10));
}
"""


@pytest.fixture(scope="module")
def asked_for(tmp_path_factory):
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    source = tmp_path_factory.mktemp("pages") / "asked.cpp"
    program = source.with_suffix("")
    source.write_text(ASKED)
    subprocess.run([compiler, "-std=c++20", f"-I{CSRC}", str(source), "-o", str(program)], check=True)
    return lambda *given: subprocess.run(
        [program, *map(str, given)], check=True, capture_output=True, text=True
    ).stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux is asked")
@pytest.mark.parametrize(
    "offset, nbytes, pages",
    (
        (0, 0, None),
        (0, PAGE - 1, None),
        (1, 2 * PAGE - 2, None),
        (0, PAGE, (0, 1)),
        (1, 2 * PAGE - 1, (1, 1)),
        (64, 3 * PAGE, (1, 2)),
        (PAGE - 1, 3 * PAGE + 1, (1, 3)),
    ),
)
def test_only_whole_pages_within_the_memory_are_asked_for(asked_for, offset, nbytes, pages):
    """Neighbours in memory are left as they are."""
    start = 37 * PAGE
    answer = [] if pages is None else [str(start + pages[0] * PAGE), str(pages[1] * PAGE), "1"]
    assert asked_for(start + offset, nbytes) == answer
