"""The built module: one text for several instruction sets, and no way from one into another."""

from __future__ import annotations

import collections
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from contract_backends import CPU_BACKENDS, needs_native

from bench.cpu_code import disassemble
from fastgrad import library

SETS = ("avx512", "avx2", "baseline")
pytestmark = needs_native


def output_of(tool: str, *arguments: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: the symbols of the built module are not read")
    return subprocess.run(
        [tool, *arguments, library.native.__file__], capture_output=True, text=True, check=True
    ).stdout


def set_of(symbol: str) -> str | None:
    """The instruction set a demangled name belongs to; None for code that is built once."""
    return next((name for name in SETS if re.search(rf"\b{name}::|kernels_{name}\b", symbol)), None)


def test_every_set_has_its_own_kernels():
    """Three times the same names, but for the namespace."""
    names = collections.defaultdict(set)
    for line in output_of("nm", "-C").splitlines():
        _, _, symbol = line[17:].partition(" ")
        if (owner := set_of(symbol)) and "clone" not in symbol:
            names[owner].add(symbol)
    available = {backend.instruction_set for backend in CPU_BACKENDS}
    assert available <= set(names)
    assert all(len(found) > 20 for found in names.values())


def test_weak_symbols_of_kernels_carry_their_set():
    """What the linker may merge must not be a kernel: weak symbols of ours name their instruction set."""
    weak = [line[17:] for line in output_of("nm", "-C").splitlines() if line[17:18] in ("W", "V", "u")]
    ours = [symbol for symbol in weak if "fastgrad::" in symbol]
    assert weak, "no weak symbol at all: nm was not understood"
    assert [symbol for symbol in ours if set_of(symbol) is None] == []


WIDE = re.compile(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])\b|\{%k[0-7]\}")


@pytest.fixture(scope="module")
def instructions() -> dict[str, list[str]]:
    """Function -> its instructions, of the x86 module."""
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed: the symbols of the built module are not read")
    functions = {
        name: [f"{mnemonic} {operands}" for _, mnemonic, operands in code]
        for name, code in disassemble(Path(library.native.__file__)).items()
    }
    if not any("%rsp" in text for texts in functions.values() for text in texts):
        pytest.skip("not an x86 build")
    return functions


def test_code_of_one_set_stays_there(instructions):
    """AVX-512 instructions only in avx512, VEX ones there and in avx2; the rest is for any x86-64.

    A standard-library function compiled with -mavx512f and merged by the linker into all of the module would
    show here, and so would code that runs when the module is loaded.
    """
    wide = {f for f, texts in instructions.items() if any(WIDE.search(text) for text in texts)}
    vex = {f for f, texts in instructions.items() if any(re.match(r"v[a-z]", text) for text in texts)}
    assert wide and vex, "the disassembly was not understood"
    assert {f for f in wide if set_of(f) != "avx512"} == set()
    assert {f for f in vex if set_of(f) not in ("avx512", "avx2")} == set()


def test_no_fused_multiply_add(instructions):
    """A fused multiply-add rounds once where the contract rounds twice."""
    fused = re.compile(r"vf(n?)m(add|sub|addsub|subadd)\d*(p|s)[sd]")
    assert fused.match("vfmadd213ps %zmm0") and fused.match("vfnmadd231sd %xmm1")
    assert {f for f, texts in instructions.items() if any(fused.match(text) for text in texts)} == set()


@pytest.mark.parametrize("name", ["quantize_rows<", "moments_of_some_rows<", "adamw_rows<"])
def test_loops_ask_for_memory_ahead(instructions, name):
    """GCC drops the calls of a function that only prefetches, unless it is always inlined: the loops then wait for
    memory in every tile, which no result shows."""
    for owner in ("avx512", "avx2"):
        loops = {
            f: texts for f, texts in instructions.items()
            if set_of(f) == owner and name in f and len(texts) > 100
        }  # fmt: skip
        assert loops, f"no {name} of {owner}"
        assert [f for f, texts in loops.items() if not any("prefetch" in text for text in texts)] == []


def test_no_openmp_is_linked():
    """PyTorch's OpenMP runtime is used where it is found; a second one in the process would fight it."""
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output_of("readelf", "-d"))
    assert any(name.startswith("libc.so") for name in needed)
    assert [name for name in needed if re.match(r"lib(gomp|omp|iomp5)", name)] == []
