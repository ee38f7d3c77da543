"""Reading a disassembly: blocks, loops, the hot path and its pipes, on texts made by hand."""

from __future__ import annotations

import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench.sass import gate, ops, pipes, ptx, report, tools  # noqa: E402
from bench.sass.flow import Graph  # noqa: E402
from bench.sass.hot import hot_path  # noqa: E402
from bench.sass.parse import parse  # noqa: E402
from bench.sass.roofline import in_flight, read, resident_warps  # noqa: E402

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
        '\t\tFunction : k\n\t.headerflags\t@"EF_CUDA_SM90"\n'
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


def test_an_indirect_branch_goes_where_the_disassembler_says():
    text = (
        '.text.k:\n /*0000*/ BRX R2 -0x10 (*"BRANCH_TARGETS .L_x_1,.L_x_2"*);\n /*0010*/ NOP ;\n'
        ".L_x_1:\n /*0020*/ EXIT ;\n.L_x_2:\n /*0030*/ EXIT ;\n"
    )
    graph = Graph(parse(text)["k"])
    assert {graph.blocks[n].instructions[0].address for n in graph.reachable} == {0, 0x20, 0x30}
    assert graph.unresolved == []
    unknown = Graph(parse(".text.k:\n /*0000*/ BRX R2 -0x10 ;\n /*0010*/ EXIT ;\n")["k"])
    assert len(unknown.unresolved) == 1


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


def test_a_stack_frame_that_nothing_reaches_is_a_remark(hand):
    kernel = tools.Kernel("k", 90, hand.function, stack=8)
    assert gate.memory_findings(kernel) == []
    assert "a stack frame of 8 bytes that nothing reads or writes" in report.remarks(read(kernel))
    generic = parse(".text.k:\n /*0000*/ ST.E [R2.64], R4 ;\n /*0010*/ EXIT ;\n")["k"]
    found = gate.memory_findings(tools.Kernel("k", 90, generic, stack=8))
    assert found == ["stack frame of 8 bytes, local memory of 0"]
