"""The gate on GPU code: on small kernels compiled here, and on the real ones."""

from __future__ import annotations

import json
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench import gpu_code  # noqa: E402
from bench.sass import gate, markdown, ops, report, sources, tools  # noqa: E402
from bench.sass.roofline import read  # noqa: E402

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")

KERNELS = """
#include <cstdint>
#define ALL_TILES for (int64_t t = blockIdx.x * 8ll + threadIdx.x / 32; t < tiles; t += gridDim.x * 8ll)
#define FOR_TILES _Pragma("unroll 1") ALL_TILES
#define KERNEL __global__ void __launch_bounds__(256)
#define ROWS _Pragma("unroll") for (int r = 0; r < 8; ++r)
#define LANE (t * 256 + threadIdx.x % 32 + r * 32)
extern "C" {
KERNEL op_copy_8B(const float4* __restrict__ x, float4* __restrict__ y, int64_t tiles) {
  FOR_TILES {
    float4 v[8];
    ROWS v[r] = x[LANE];
    ROWS y[LANE] = v[r];
  }
}
KERNEL op_unrolled_8B(const float4* __restrict__ x, float4* __restrict__ y, int64_t tiles) {
#pragma unroll 2
  ALL_TILES {
    float4 v[8];
    ROWS v[r] = x[LANE];
    ROWS y[LANE] = v[r];
  }
}
KERNEL op_cold_8B(const float4* __restrict__ x, float4* __restrict__ y, int64_t tiles) {
  FOR_TILES {
    float4 v[8];
    ROWS v[r] = x[LANE];
    if (__any_sync(0xffffffffu, v[0].x > 1e30f)) {
#pragma unroll 1
      for (int i = 0; i < 100; ++i) ROWS v[r].x = v[r].x * 0.5f + v[r].y / v[r].z;
    }
    ROWS y[LANE] = v[r];
  }
}
KERNEL op_scalar_8B(const float* __restrict__ x, float* __restrict__ y, int64_t tiles) {
  FOR_TILES {
    float v[32];
#pragma unroll
    for (int i = 0; i < 32; ++i) v[i] = x[t * 1024 + i * 32 + threadIdx.x % 32];
#pragma unroll
    for (int i = 0; i < 32; ++i) y[t * 1024 + i * 32 + threadIdx.x % 32] = v[i];
  }
}
KERNEL op_quantize_bf16_6B(const float4* __restrict__ x, uint2* __restrict__ y, int64_t tiles) {
  FOR_TILES {
    float4 v[8];
    ROWS v[r] = x[LANE];
    ROWS y[LANE] = make_uint2(__float_as_uint(v[r].x) >> 16 | __float_as_uint(v[r].y),
                              __float_as_uint(v[r].z) >> 16 | __float_as_uint(v[r].w));
  }
}
__global__ void multiply_add(float* x, const float* y) {
  const int i = threadIdx.x;
  x[i] = x[i] * y[i] + y[i + 1];
  x[i + 32] = y[i] / y[i + 2] + sqrtf(y[i + 3]) + 1.0f / y[i + 4];
}
__global__ void pressure(float* x) {
  float v[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) v[i] = x[i * 32 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) x[i * 32 + threadIdx.x] = v[63 - i] * v[i] + v[(7 * i + 1) % 64];
}
__global__ void array(float* x, const int* at) {
  float v[64];
  for (int i = 0; i < 64; ++i) v[i] = x[i * 32 + threadIdx.x];
  for (int i = 0; i < 64; ++i) v[at[i]] += v[at[i + 1]];
  for (int i = 0; i < 64; ++i) x[i * 32 + threadIdx.x] = v[i];
}
}
"""


def unit_of(folder: Path, name: str, text: str, *flags: str) -> dict[str, tools.Kernel]:
    source = folder / f"{name}.cu"
    source.write_text(text)
    kept = tuple(flag for flag in tools.FLAGS if not (flags and flag.startswith("--fmad") and "--fmad=true" in flags))
    return {k.name: k for k in tools.compile_unit(tools.Unit(source, 90, (*kept, *flags)), folder)}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> dict[str, tools.Kernel]:
    return unit_of(tmp_path_factory.mktemp("gpu_code"), "kernels", KERNELS)


# --- kernels compiled here


@needs_nvcc
def test_copy_is_clean_and_its_loads_are_found(kernels):
    reading = read(kernels["op_copy_8B"], ops.of_kernel("op_copy_8B"))
    assert reading.accesses == {("load", 16): 8, ("store", 16): 8}
    assert gate.violations(reading) == [] and gate.misses(reading) == []
    assert (reading.cost.elements, reading.cost.moved) == (32, 8)
    assert reading.flying in (64, 128), "ptxas takes the eight loads in two groups"
    assert 18 <= len(reading.path) <= 60 and reading.kernel.threads == 256
    assert 0 < reading.cost.issue < 0.2 and reading.unknown == ()
    assert "8 x 16 B in, 8 x 16 B out" in report.full(reading)


@needs_nvcc
def test_a_loop_that_the_compiler_unrolled_holds_more_elements(kernels):
    reading = read(kernels["op_unrolled_8B"], ops.op("copy", "4", "4"))
    assert reading.accesses == {("load", 16): 16, ("store", 16): 16}
    assert (reading.cost.unrolled, reading.cost.elements, reading.cost.moved) == (2, 64, 8)
    assert gate.violations(reading) == []


@needs_nvcc
def test_a_cold_branch_is_an_excursion(kernels):
    hot, plain = (read(kernels[name], ops.plain(name, 32, Fraction(8))) for name in ("op_cold_8B", "op_copy_8B"))
    assert len(plain.path) < len(hot.path) < len(plain.path) + 12
    assert hot.path.longest > len(hot.path) + 50 and hot.path.nested == ()
    assert gate.violations(hot) == []


@needs_nvcc
def test_narrow_stores_fill_their_sectors(kernels):
    name = "op_quantize_bf16_6B"
    assert gate.violations(read(kernels[name], ops.of_kernel(name))) == []
    wide = ops.op("wide", "4", "4", elements=24)  # as if float32 came out
    assert gate.width_violations(read(kernels[name], wide)) == [
        "main loop: 0 stores of 16 bytes a lane, expected 6; there are 8 of 8 bytes"
    ]


@needs_nvcc
def test_scalar_loads_fail(kernels):
    name = "op_scalar_8B"
    found = gate.violations(read(kernels[name], ops.op("copy", "4", "4")))
    assert found == [
        "main loop: 0 loads of 16 bytes a lane, expected 8; there are 32 of 4 bytes",
        "main loop: 0 stores of 16 bytes a lane, expected 8; there are 32 of 4 bytes",
    ]
    assert gate.violations(read(kernels[name], ops.plain(name, 32, Fraction(8)))), "nor as an op that is not listed"


@needs_nvcc
def test_a_local_array_fails(kernels):
    found = " ".join(gate.violations(read(kernels["array"])))
    assert "LDL" in found and "STL" in found and "stack frame of 256 bytes" in found


@needs_nvcc
def test_a_kernel_that_may_spill_is_named_with_the_reason(kernels, monkeypatch):
    monkeypatch.setattr(ops, "MAY_SPILL", (("^array$", "it is a test"),))
    reading = read(kernels["array"])
    assert gate.violations(reading) == []
    assert any("stack frame of 256" in text and "allowed, it is a test" in text for text in report.remarks(reading))


@needs_nvcc
def test_spills_fail(tmp_path):
    kernel = unit_of(tmp_path, "spills", KERNELS, "-maxrregcount=24")["pressure"]
    assert kernel.registers <= 24
    found = " ".join(gate.violations(read(kernel)))
    assert "spills" in found and "local memory" in found


@needs_nvcc
def test_contraction_fails(kernels, tmp_path):
    assert gate.violations(read(kernels["multiply_add"])) == []
    contracted = unit_of(tmp_path, "contracted", KERNELS, "--fmad=true")["multiply_add"]
    found = " ".join(gate.violations(read(contracted)))
    assert "fma.rn.f32" in found and "contracted" in found


def test_the_page_is_written_to_build_unless_told_otherwise():
    assert gpu_code.parser().parse_args([]).out == ROOT / "build" / "gpu_code.md"


@needs_nvcc
def test_a_file_and_the_page(tmp_path, monkeypatch, capsys):
    source = tmp_path / "gpu_ops.cu"
    source.write_text(KERNELS)
    arguments = ["--file", str(source), "--arch", "90", "--kernel"]
    assert gpu_code.main([*arguments, "op_copy"]) == 0
    assert "instructions per element" in capsys.readouterr().out
    assert gpu_code.main([*arguments, "array"]) == 1
    assert "VIOLATION" in capsys.readouterr().out
    monkeypatch.setattr(sources, "WRAPPERS", source)
    monkeypatch.setattr(gpu_code, "BUILD", tmp_path / "build")
    monkeypatch.setattr(sources, "shipped", lambda archs, formats: iter(()))
    monkeypatch.setattr(sources, "triton", lambda archs, folder: (tools.Build(), "not read: no module"))
    texts = []
    for out in ("a.md", "b.md"):  # the second from what the first has compiled
        stored = ["--out", str(tmp_path / out), "--json", str(tmp_path / "x.json"), "--archs", "90"]
        assert gpu_code.main(stored) == 1
        texts.append((tmp_path / out).read_text() + (tmp_path / "x.json").read_text())
    assert texts[0] == texts[1] and str(tmp_path) not in texts[0]
    assert markdown.LABEL in texts[0] and "| op_copy_8B | 8 |" in texts[0] and "no module" in texts[0]
    record = json.loads((tmp_path / "x.json").read_text())
    assert any("array" in text for text in record["violations"])
    assert all("op_copy_8B" not in text for text in record["violations"])


@needs_nvcc
def test_a_file_that_does_not_compile_is_a_violation(tmp_path):
    source = tmp_path / "bad.cu"
    source.write_text("nonsense")
    build = tools.compile_all([tools.Unit(source, 90)], tmp_path)
    assert len(build.failures) == 1 and "bad.cu for sm_90: nvcc failed" in build.failures[0]


def test_triton_kernels_are_read_as_they_are_compiled(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    monkeypatch.setitem(sys.modules, "fastgrad.triton_kernels", None)
    build, reason = sources.triton([90], tmp_path)
    assert build.kernels == [] and reason.startswith("not read: ")
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    copy = KERNELS.replace("op_copy_8B", "triton_copy")
    made = unit_of(tmp_path, "made", copy)["triton_copy"]
    (cubin,) = tmp_path.glob("made.*.cubin")

    class Compiled:
        asm = {"cubin": cubin.read_bytes(), "ptx": made.ptx}  # noqa: RUF012
        metadata = type("Metadata", (), {"num_warps": 4})

    class Ahead:
        @staticmethod
        def compiled(target):
            assert target == GPUTarget("cuda", 90, 32)
            yield "copy", Compiled

    monkeypatch.setattr(sources.importlib, "import_module", lambda name: Ahead)
    build, reason = sources.triton([90], tmp_path)
    assert reason is None and "copy" in {k.readable for k in build.kernels}
    kernel = next(k for k in build.kernels if k.name == "triton_copy")
    assert kernel.threads == 256 and gate.violations(read(kernel)) == []


# --- the real ones


def _checked(only: str, formats: tuple[str, ...]) -> None:
    found = gpu_code.survey([90], formats, only)
    if not found.readings and not found.failures:
        pytest.skip("; ".join(found.notes))
    assert found.violations() == []


@needs_nvcc
def test_wrappers_of_ops_pass_the_gate():
    _checked("wrappers", sources.FORMATS)


@needs_nvcc
@pytest.mark.slow
def test_all_shipped_kernels_pass_the_gate():
    _checked("shipped", sources.FORMATS)


@pytest.mark.slow
def test_triton_kernels_pass_the_gate():
    _checked("triton", sources.FORMATS)
