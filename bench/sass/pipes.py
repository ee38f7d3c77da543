"""Which pipe an instruction takes and what the pipes of a device can do: every stated rate is in this file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from bench.sass.parse import Instruction

SOURCES = {
    "guide": "CUDA C++ Programming Guide, table 'Throughput of Native Arithmetic Instructions' (results per clock "
    "per SM): float32 add/mul/fma 64 on 8.0, 128 on 9.0; float64 32 on 8.0, 64 on 9.0; int32 add, multiply, shift, "
    "compare, min/max, logic and warp vote 64; shuffle 32; warp reduce, popc, clz, reciprocal and the like 16. "
    "Conversions have 16 or 64 there, by kind and version: all that are not I2FP or F2FP are taken at 16",
    "pipes": "NVIDIA developer forum, thread 302018, and Nsight Compute's kernel profiling guide, 'Pipelines': IMAD "
    "and float32 share the FMA pipe of 8.0; on 9.0 IMAD runs on the heavy half of two; FMNMX, FSETP, FSEL, I2FP, "
    "F2FP and integers but IMAD run on the ALU; conversions otherwise and MUFU on the XU",
    "assumed": "not documented: IMAD.WIDE and IMAD.HI at half the rate of IMAD; BRA, BSSY, BSYNC, uniform-datapath "
    "instructions, LDC and NOP cost their issue slot and nothing else; one instruction a clock for each of the four "
    "schedulers",
    "devices": "data sheets: A100 SXM 40 GB 108 SMs, 1.41 GHz boost, 1,555 GB/s; H100 SXM 80 GB 132 SMs, 3,350 GB/s, "
    "50 MB L2. The H100's clock under load is assumed to be 1.755 GHz. DRAM at its peak: no ratio can be larger",
    "latency": "assumed: 700 ns from a load to its use while DRAM is busy; no data sheet says",
}

LATENCY = 700e-9  # seconds from load to first use
ISSUE_PER_CLOCK = 4  # warp instructions per SM
WARP = 32


@dataclass(frozen=True)
class Device:
    """One card. Rates are results (lanes) per clock and SM."""

    name: str
    arch: int
    sms: int
    clock: float  # Hz
    bandwidth: float  # bytes/s
    rates: dict[str, int]
    warps: int = 64  # resident per SM
    blocks: int = 32
    registers: int = 65536
    shared: int = 228 << 10  # bytes


def _rates(fma: int, fp64: int) -> dict[str, int]:
    """The pipes a path is held against. ``imad`` is the part of the FMA pipe that can multiply integers."""
    return {"fma": fma, "imad": 64, "alu": 64, "xu": 16, "fp64": fp64, "lsu": 32, "reduce": 16, "half": 128}


DEVICES = {
    80: Device("A100 SXM 40 GB", 80, 108, 1.41e9, 1.555e12, _rates(64, 32), shared=164 << 10),
    90: Device("H100 SXM", 90, 132, 1.755e9, 3.35e12, _rates(128, 64)),
}  # a B200's clock and rates are not known well enough: sm_100 is compiled, gated and counted, not timed

_NAMES = {
    "fma": "FADD FMUL FFMA FADD32I FMUL32I FFMA32I FSWZADD FADD2 FMUL2 FFMA2",
    "imad": "IMAD IMUL IDP IDP4A XMAD",
    "alu": "FMNMX FMNMX3 FSETP FSEL FSET FCHK LOP3 LOP PLOP3 SHF SHL SHR IADD IADD3 VIADD VIADDMNMX IMNMX VIMNMX "
    "VIMNMX3 ISETP SEL PRMT VOTE VOTEU LEA IABS SGXT BMSK MOV MOV32I P2R R2P I2FP F2FP F2IP I2IP MATCH VABSDIFF "
    "VABSDIFF4 ICMP CSET CSETP PSET PSETP LOP32I IADD32I ISCADD VHMNMX IADD64",
    "xu": "MUFU I2F F2I F2F FRND POPC FLO BREV I2I",
    "fp64": "DADD DMUL DFMA DSETP DMNMX",
    "lsu": "LDG STG LD ST LDS STS LDSM STSM LDL STL LDGSTS ATOM ATOMG ATOMS RED SHFL LDTRAM CCTL ERRBAR MEMBAR",
    "reduce": "REDUX CREDUX",
    "half": "HADD2 HMUL2 HFMA2 HMNMX2 HSETP2 HSET2 HADD2_32I",
    "slot": "BRA BRX BRXU JMP JMX JMXU CALL RET EXIT BSSY BSYNC BREAK BMOV WARPSYNC YIELD NANOSLEEP BAR DEPBAR "
    "LDGDEPBAR NOP S2R CS2R S2UR R2UR LDC LDCU UR2UP PREEXIT ACQBULK ELECT SYNCS FENCE ACQSHMINIT ENDCOLLECTIVE UBLKCP "
    "UTMALDG UTMASTG BPT",
}
_PIPES = {name: pipe for pipe, names in _NAMES.items() for name in names.split()}


def pipe(instruction: Instruction) -> str:
    """One of the rates' names, ``wide`` (an IMAD with a 64-bit result), ``slot``, or ``unknown``."""
    name = instruction.name
    if name == "IMAD" and {"WIDE", "HI"} & set(instruction.modifiers):
        return "wide"
    if name in _PIPES:
        return _PIPES[name]
    return "slot" if name.startswith("U") else "unknown"


def count(instructions: Iterable[Instruction]) -> Counter[str]:
    return Counter(pipe(instruction) for instruction in instructions)


def clocks(counts: Counter[str], device: Device) -> dict[str, float]:
    """Clocks one warp keeps every pipe of an SM busy, and ``issue``, the schedulers."""
    load = dict.fromkeys(device.rates, 0.0) | {name: n for name, n in counts.items() if name in device.rates}
    load["imad"] = counts["imad"] + 2 * counts["wide"]
    load["fma"] = counts["fma"] + load["imad"]
    busy = {name: n * WARP / device.rates[name] for name, n in load.items()}
    return {"issue": sum(counts.values()) / ISSUE_PER_CLOCK} | busy
