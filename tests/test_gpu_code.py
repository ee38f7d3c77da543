"""Reading machine code: the parser and the hot path on a text made by hand, the gate on kernels compiled here."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench import gpu_code  # noqa: E402
from bench.sass import gate, markdown, ops, pipes, ptx, report, sources, tools  # noqa: E402
from bench.sass.flow import Graph  # noqa: E402
from bench.sass.hot import hot_path  # noqa: E402
from bench.sass.parse import parse  # noqa: E402
from bench.sass.roofline import in_flight, read, resident_warps  # noqa: E402

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


# --- a text made by hand

HAND = """
//--------------------- .text.hand          --------------------------
	.section	.text.hand,"ax",@progbits
.text.hand:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   ISETP.GE.AND P0, PT, R0, c[0x0][0x170], PT ;
        /*0020*/               @P0 EXIT ;
.L_x_5:
        /*0030*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0040*/                   LDG.E.128.CONSTANT R8, desc[UR4][R2.64+0x200] ;
        /*0050*/                   BSSY B0, `(.L_x_1) ;
        /*0060*/                   FADD R12, R4, R5 ;
        /*0070*/                   IMAD.WIDE.U32 R14, R0, R6, RZ ;
        /*0080*/               @P1 BRA `(.L_x_2) ;
        /*0090*/                   MUFU.RCP R13, R12 ;
        /*00a0*/                   FFMA R13, R13, R12, R12 ;
        /*00b0*/                   CALL.REL.NOINC `($slow) ;
        /*00c0*/                   BRA `(.L_x_3) ;
.L_x_2:
        /*00d0*/                   LOP3.LUT R13, R12, R8, RZ, 0x3c, !PT ;
.L_x_3:
        /*00e0*/                   BSYNC B0 ;
.L_x_1:
        /*00f0*/                   STG.E.64 desc[UR4][R16.64], R12 ;
        /*0100*/                   UIADD3 UR6, UR6, 0x1, URZ ;
        /*0110*/                   F2I.TRUNC.NTZ R3, R6 ;
        /*0120*/                   DADD R20, R20, R22 ;
        /*0130*/                   SHFL.BFLY PT, R5, R4, 0x10, 0x1f ;
        /*0140*/                   REDUX.MAX UR8, R5 ;
        /*0150*/              @!P0 BRA `(.L_x_5) ;
        /*0160*/                   EXIT ;
$slow:
        /*0170*/                   FMUL R12, R12, R12 ;
        /*0180*/                   RET.REL.NODEC R4 `(hand) ;
.L_x_9:
        /*0190*/                   BRA `(.L_x_9);
"""


@pytest.fixture
def hand() -> Graph:
    return Graph(parse(HAND)["hand"])


def test_blocks_and_the_one_loop(hand):
    assert len(hand.function.instructions) == 26
    (loop,) = hand.loops
    assert hand.main_loop() is loop
    assert {hand.blocks[n].instructions[0].address for n in loop.body} == {0x30, 0x90, 0xC0, 0xD0, 0xE0, 0xF0}
    assert all(hand.blocks[n].instructions[0].address != 0x190 for n in hand.reachable), "what follows is padding"


def test_the_cold_branch_and_its_call_are_not_counted(hand):
    path = hot_path(hand, hand.main_loop())
    assert [i.opcode for i in path.instructions] == [
        *("LDG.E.128.CONSTANT", "LDG.E.128.CONSTANT", "BSSY", "FADD", "IMAD.WIDE.U32", "BRA", "LOP3.LUT", "BSYNC"),
        *("STG.E.64", "UIADD3", "F2I.TRUNC.NTZ", "DADD", "SHFL.BFLY", "REDUX.MAX", "BRA"),
    ]
    assert (path.calls, path.nested) == (0, ())
    assert path.longest == 15 - 1 + 4 + 2, "MUFU, FFMA, CALL, BRA and two of the function, but no LOP3"


def test_pipes_of_the_hot_path(hand):
    path = hot_path(hand, hand.main_loop())
    counts = pipes.count(path.instructions)
    assert counts == Counter(lsu=4, slot=5, fma=1, wide=1, alu=1, xu=1, fp64=1, reduce=1)
    busy = pipes.clocks(counts, pipes.DEVICES[90])
    assert busy["issue"] == 15 / 4 and busy["xu"] == 2 and busy["fp64"] == 0.5 and busy["lsu"] == 4
    assert busy["imad"] == 2 * 32 / 64, "half the rate of an IMAD"
    assert busy["fma"] == 3 * 32 / 128 and pipes.clocks(counts, pipes.DEVICES[80])["fma"] == 3 * 32 / 64


def test_loads_are_under_way_until_they_are_used(hand):
    path = hot_path(hand, hand.main_loop()).instructions
    assert in_flight(path, loops=True) == 32
    assert in_flight(path[:1] + path[3:4] + path[1:2], loops=False) == 16, "the first is used before the second"


def test_widths_and_registers_of_accesses():
    (function,) = parse(
        ".text.f:\n /*0000*/ LDG.E.U16.CONSTANT R7, desc[UR4][R2.64] ;\n /*0010*/ @!P0 STG.E.U8 [R2.64], R9 ;\n"
        " /*0020*/ LDG.E.64 R4, [R2.64+0x10] ;\n /*0030*/ LDG.E R6, [R8] ;\n /*0040*/ LDG.E.S8 R6, [R8] ;\n"
    ).values()
    assert [i.bytes for i in function.instructions] == [2, 1, 8, 4, 1]
    assert function.instructions[2].loaded == {4, 5} and function.instructions[1].registers_read == {2, 9}
    assert function.instructions[1].predicate == "!P0"


def test_text_of_cuobjdump():
    functions = parse(
        "\t\tFunction : k\n\t.headerflags\t@\"EF_CUDA_SM90\"\n"
        "        /*0000*/                   MOV R1, c[0x0][0x28] ;  /* 0x00000a0000017a02 */\n"
        "        /*0010*/                   IADD3 R0, R0, 0x1, RZ ;  /* 0x0 */\n"
        "        /*0020*/               @P0 BRA 0x10 ;  /* 0x0 */\n"
        "        /*0030*/                   EXIT ;  /* 0x0 */\n"
    )
    (loop,) = Graph(functions["k"]).loops
    assert len(hot_path(Graph(functions["k"]), loop)) == 2


def test_a_barrier_may_go_on_elsewhere():
    text = (
        ".text.k:\n /*0000*/ BSSY B0, `(.L_x_1) ;\n /*0010*/ @P0 BRA `(.L_x_2) ;\n /*0020*/ BSYNC B0 ;\n"
        ".L_x_2:\n /*0030*/ NOP ;\n /*0040*/ BSYNC B0 ;\n /*0050*/ NOP ;\n.L_x_1:\n /*0060*/ EXIT ;\n"
    )
    graph = Graph(parse(text)["k"])
    assert {graph.blocks[n].instructions[0].address for n in graph.reachable} == {0, 0x20, 0x30, 0x60}


def test_a_call_to_a_local_label_is_a_jump():
    text = (
        ".text.k:\n.L_x_0:\n /*0000*/ LDG.E R0, [R2] ;\n /*0010*/ @P0 CALL.REL.NOINC `(.L_x_1) ;\n"
        " /*0020*/ BRA `(.L_x_0) ;\n.L_x_1:\n /*0030*/ EXIT ;\n"
    )
    graph = Graph(parse(text)["k"])
    path = hot_path(graph, graph.main_loop())
    assert len(path) == 3 and path.calls == 0


CORRELATED = """
.text.k:
.L_x_0:
 /*0000*/ LDG.E.128 R4, [R2] ;
 /*0010*/ ISETP.NE.AND P2, PT, R60, 0x7f800000, PT ;
 /*0020*/ PLOP3.LUT P0, PT, PT, PT, PT, 0x80, 0x0 ;
 /*0030*/ @!P2 BRA `(.L_x_1) ;
 /*0040*/ FADD R4, R4, R5 ;
 /*0050*/ FADD R4, R4, R6 ;
 /*0060*/ FADD R4, R4, R7 ;
 /*0070*/ PLOP3.LUT P0, PT, PT, PT, PT, 0x8, 0x0 ;
.L_x_1:
 /*0080*/ @!P0 BRA `(.L_x_3) ;
.L_x_2:
 /*0090*/ LDG.E R8, [R9] ;
 /*00a0*/ @P4 BRA `(.L_x_2) ;
.L_x_3:
 /*00b0*/ ISETP.GE.AND P1, PT, R0, R1, PT ;
 /*00c0*/ @!P1 BRA `(.L_x_0) ;
 /*00d0*/ EXIT ;
"""


def test_ways_that_contradict_themselves_do_not_exist():
    """Out of the rare case (P2 false, P0 true) into the usual end (P0 false) would be the shortest."""
    graph = Graph(parse(CORRELATED)["k"])
    path = hot_path(graph, max(graph.loops, key=lambda loop: len(loop.body)))
    assert [i.address for i in path.instructions] == [*range(0, 0x90, 0x10), 0xB0, 0xC0] and path.nested == ()
    twice = (
        ".text.k:\n /*0000*/ @P0 BRA `(.L_x_1) ;\n /*0010*/ NOP ;\n /*0020*/ NOP ;\n"
        ".L_x_1:\n /*0030*/ NOP ;\n /*0040*/ @!P0 BRA `(.L_x_2) ;\n /*0050*/ NOP ;\n /*0060*/ NOP ;\n"
        " /*0070*/ NOP ;\n.L_x_2:\n /*0080*/ EXIT ;\n"
    )
    path = hot_path(Graph(parse(twice)["k"]), None)
    assert (len(path), path.longest) == (6, 7), "not 4 and 9"


def test_occupancy_by_registers_and_shared_memory(hand):
    kernel = tools.Kernel("k", 90, hand.function, registers=80)
    device = pipes.DEVICES[90]
    assert resident_warps(kernel, device, 256) == 24
    kernel.registers = 32
    assert resident_warps(kernel, device, 256) == 64
    kernel.shared = 56 << 10
    assert resident_warps(kernel, device, 256) == 32
    assert resident_warps(kernel, device, 1024) == 64


@pytest.mark.parametrize(
    ("opcode", "allowed"),
    [
        *((f"{base}.rn.{t}", True) for base in ("add", "sub", "mul", "div", "sqrt", "rcp") for t in ("f32", "f64")),
        *((text, True) for text in ("neg.f32", "abs.f64", "min.f32", "max.NaN.f32", "setp.lt.f32", "selp.f32")),
        *((text, True) for text in ("cvt.rn.f32.s32", "cvt.rzi.s32.f32", "ld.global.nc.v4.f32", "mad.lo.s32")),
        *((text, True) for text in ("add.s64", "mov.f32", "atom.global.add.u64", "red.global.max.s32", "mad.wide.u32")),
        *((text, False) for text in ("add.f32", "mul.f64", "fma.rn.f32", "mad.rn.f32", "div.full.f32")),
        *((text, False) for text in ("div.approx.f32", "add.rn.ftz.f32", "rcp.approx.ftz.f32", "ex2.approx.f32")),
        *((text, False) for text in ("sqrt.approx.f32", "rsqrt.approx.f32", "setp.lt.ftz.f32", "add.rz.f32")),
        *((text, False) for text in ("cvt.ftz.f32.f16", "atom.global.add.f32", "add.rn.sat.f32", "mul.f16x2")),
    ],
)
def test_arithmetic_of_bitwise_kernels(opcode, allowed):
    assert (ptx.violations(f"{{\n\t@%p1 {opcode} \t%f1, %f2, %f3;\n}}") == []) is allowed


def test_the_traffic_of_an_op():
    assert ops.of_kernel("op_sgd_momentum_20B").bytes == 20 and ops.of_kernel("op_sgd_momentum_20B").listed
    assert ops.of_kernel("op_quantize_fp4_4p5B").bytes == Fraction(9, 2)
    assert not ops.of_kernel("op_copy_12B").listed, "another traffic than that of the op of this name"
    assert ops.of_kernel("something_else") is None


def test_the_main_loop_is_that_of_the_op():
    text = (
        ".text.k:\n.L_x_0:\n /*0000*/ LDG.E.128 R4, [R2] ;\n /*0010*/ @P0 BRA `(.L_x_0) ;\n"
        ".L_x_1:\n /*0020*/ LDG.E R0, [R2] ;\n /*0030*/ STG.E.128 [R2], R4 ;\n /*0040*/ @P0 BRA `(.L_x_1) ;\n"
        " /*0050*/ EXIT ;\n"
    )
    graph = Graph(parse(text)["k"])
    heads = [graph.blocks[loop.head].instructions[0].address for loop in graph.loops]
    assert heads == [0, 0x20] and graph.main_loop() is graph.loops[0]
    assert graph.main_loop(ops.op("dequantize", "1", "4").accesses()) is graph.loops[1]


def test_shipped_kernels_have_the_ops_of_their_names():
    name = "void fastgrad::cuda::dequantize_kernel<(fastgrad::cuda::Format)5>(fastgrad::DequantizeJob const*, int)"
    assert ops.of_kernel(name).name == "dequantize_fp4_e2m1" and ops.of_kernel(name).bytes == Fraction(9, 2)
    assert ops.of_kernel("fastgrad::cuda::moments_kernel(fastgrad::cuda::DeviceSweep)").bytes == 4
    assert ops.of_kernel("void fastgrad::cuda::sweep_kernel<(fastgrad::cuda::Format)5, true>(int)") is None


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


def test_a_stack_frame_that_nothing_reaches_is_a_remark(hand):
    kernel = tools.Kernel("k", 90, hand.function, stack=8)
    assert gate.memory_findings(kernel) == []
    assert "a stack frame of 8 bytes that nothing reads or writes" in report.remarks(read(kernel))
    generic = parse(".text.k:\n /*0000*/ ST.E [R2.64], R4 ;\n /*0010*/ EXIT ;\n")["k"]
    assert gate.memory_findings(tools.Kernel("k", 90, generic, stack=8)) == ["stack frame of 8 bytes, local memory of 0"]


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
def test_shipped_kernels_of_one_format_pass_the_gate():
    """fp32 is the quickest to compile; the rest is slow."""
    _checked("shipped", ("fp32",))


@needs_nvcc
@pytest.mark.slow
def test_all_shipped_kernels_pass_the_gate():
    _checked("shipped", sources.FORMATS)


@pytest.mark.slow
def test_triton_kernels_pass_the_gate():
    _checked("triton", sources.FORMATS)
