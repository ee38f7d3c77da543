"""The counts of instructions in the README are read from the module that is installed."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from bench import cpu_code
from fastgrad import library

pytestmark = [
    pytest.mark.skipif(library.native is None, reason="the native module was not built"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the machine code of x86-64"),
    pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump (binutils) is not installed"),
]


@pytest.fixture(scope="module")
def functions() -> dict[str, cpu_code.Code]:
    return cpu_code.disassemble(Path(library.native.__file__))


def test_every_loop_is_found_and_is_the_one_that_is_meant(functions):
    """Philox: seven rounds of four multiplications, of which the first multiplies constants twice, and the second twice
    what these gave: they are made before the loop."""
    for isa, vectors in (("avx512", 1), ("avx2", 2)):
        loops = cpu_code.rounding_loops(functions, isa)
        assert set(loops) == set(cpu_code.ROWS)
        for name, loop in loops.items():
            assert loop.multiplications == 24 * vectors, (isa, name)
            assert loop.multiplications + loop.shuffles < loop.vector < loop.instructions, (isa, name)
        assert loops["bf16"].vector < loops["fp4_e2m1, scales of blocks"].vector


def test_kernels_that_are_not_there_are_named(functions):
    others = {name: code for name, code in functions.items() if "quantize_rows<" not in name}
    with pytest.raises(LookupError, match="no loop of fastgrad::avx512::quantize_rows"):
        cpu_code.rounding_loops(others, "avx512")
