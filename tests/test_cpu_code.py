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
def module() -> Path:
    return Path(library.native.__file__)


def test_every_loop_is_found_and_is_the_one_that_is_meant(module):
    """Philox: seven rounds of four multiplications for eight vectors, less those of constants in the first round."""
    for isa, vectors in (("avx512", 1), ("avx2", 2)):
        loops = cpu_code.rounding_loops(module, isa)
        assert set(loops) == set(cpu_code.ROWS)
        for name, loop in loops.items():
            assert 20 * vectors <= loop.multiplications <= 28 * vectors, (isa, name)
            assert loop.multiplications + loop.shuffles < loop.vector < loop.instructions, (isa, name)
        assert loops["bf16"].vector < loops["fp4_e2m1, scales of blocks"].vector


def test_a_module_without_the_kernels_is_named(tmp_path):
    library_path = shutil.which("objdump")
    with pytest.raises(LookupError, match="no loop of fastgrad::avx512::quantize_rows"):
        cpu_code.rounding_loops(Path(library_path), "avx512")
