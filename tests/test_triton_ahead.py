"""Every Triton kernel compiles for GPUs that are not here, and its PTX holds no operation that is not rounded right.

In a process without TRITON_INTERPRET, under which nothing would be compiled.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastgrad import library

pytest.importorskip("triton")
if not library.has_recent_triton():
    pytest.skip("triton is older than 3.6", allow_module_level=True)

SUPPORT = Path(__file__).parent / "support"
SCRIPT = """
import json, sys
from triton.backends.compiler import GPUTarget
import triton_package
ahead = triton_package.load("ahead")
target = GPUTarget("cuda", int(sys.argv[1]), 32)
kernels = ahead.compiled(target, int(sys.argv[2]))
print(json.dumps([(name, kernel.asm["ptx"], len(kernel.asm["cubin"])) for name, kernel in kernels]))
"""
FLOAT_INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+ )?([a-z][^\s;]*\.f(?:16|32|64)\b[^\s;]*)", re.MULTILINE)
ROUNDED = r"(add|sub|mul|div|sqrt)\.rn(\.f32|\.f64)"  # to nearest even, not flushed
EXACT = (
    r"redux\.sync\.(min|max)\.f32",
    r"(abs|neg|min|max)\.(f32|f64)",
    r"setp\.[a-z]+(\.and|\.or|\.xor)?\.(f32|f64)",
    r"selp\.(f32|f64)",
    r"(mov|ld|st)\.\S*",
    r"cvt\.rn\.f32\.(f64|s32|u32|s16|u16)",
    r"cvt\.rn\.f64\.(s32|s64|u32|u64)",
    r"cvt\.f64\.f32",
    r"cvt\.f32\.f16",
    r"cvt\.rzi\.s32\.f32",
    r"cvt\.rzi\.s64\.f64",  # of whole numbers
)


def allowed(instruction: str) -> bool:
    return any(re.fullmatch(pattern, instruction) for pattern in (ROUNDED, *EXACT))


def compiled(folder: Path, capability: int, every: int = 1) -> list[tuple[str, str, int]]:
    """Name, PTX and bytes of machine code of the kernels, or of one in so many."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", SCRIPT, str(capability), str(every)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=(80, 90, 100), ids=lambda capability: f"sm_{capability}")
def kernels(request, tmp_path_factory) -> list[tuple[str, str, int]]:
    """All of them, which takes two minutes."""
    return compiled(tmp_path_factory.mktemp("cache"), request.param)


def round_right(kernels: list[tuple[str, str, int]]) -> None:
    assert all(size > 0 for _, _, size in kernels)
    found = {(name, i) for name, ptx, _ in kernels for i in FLOAT_INSTRUCTION.findall(ptx) if not allowed(i)}
    assert found == set()
    for name, ptx, _ in kernels:
        assert not re.search(r"\bfma\.|\.approx|\.full|\.ftz", ptx), name
        assert not re.search(r"call\.uni", ptx), f"{name}: calls a function of a library"


def test_one_kernel_in_eight_compiles_and_rounds_right(tmp_path):
    some = compiled(tmp_path, 90, every=8)
    assert len(some) > 8
    round_right(some)


@pytest.mark.slow
def test_kernels_compile_and_round_right(kernels):
    assert len(kernels) > 70
    round_right(kernels)


@pytest.mark.slow
def test_logarithm_constants_keep_their_bits(kernels):
    """float64 constants go into the code as float64."""
    ptx = {name: text for name, text, _ in kernels}["coefficients_autoscale_log"]
    assert "0d3FE62E42FEFA39EF" in ptx  # log 2
    assert "0d3FE6A09E667F3BCD" in ptx  # sqrt(1/2)


@pytest.mark.slow
def test_full_tiles_move_in_16_bytes(kernels):
    ptx = {name: text for name, text, _ in kernels}
    widths = (
        ("measure", 8, 0),
        ("process_normalize", 8, 8),
        ("process_sgd", 24, 16),
        ("process_sgd_shard", 24, 16),
        # Two warps a tile, 16 elements a lane: gradient, parameter and states of 4, 2 or 1 bytes, or half a one.
        ("process_adamw_fp32", 16, 12),
        ("process_adamw_fp32_shard", 16, 12),
        ("process_adamw_bf16", 10, 6),
        ("process_adamw_int8", 10, 6),
        ("factored_squares", 8, 0),
    )
    for name, loads, stores in widths:
        assert len(re.findall(r"ld\.global[^ ]*\.v4\.b32", ptx[name])) == loads
        assert len(re.findall(r"st\.global[^ ]*\.v4\.b32", ptx[name])) == stores


def test_reader_sees_what_is_forbidden():
    """What the tests above rely on."""
    text = "\tfma.rn.f32 %f1;\n @%p1 div.full.f32 %f2;\n mul.rn.f32 %f3;\n sqrt.approx.ftz.f32 %f4;\n add.f32 %f5;"
    assert [i for i in FLOAT_INSTRUCTION.findall(text) if not allowed(i)] == [
        "fma.rn.f32",
        "div.full.f32",
        "sqrt.approx.ftz.f32",
        "add.f32",  # would round right, but may be contracted
    ]
