"""What the kernels should do: the traffic of every op, and launches per step.

A wrapper kernel of ``bench/gpu_ops.cu`` is named ``op_<name>_<bytes>B``. One that is not listed here is held
against its bytes alone: all of them in 16-byte accesses, or in stores of four elements.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction

LANE_ELEMENTS = 32  # a warp takes a tile: 8 rows of 4 columns for each lane
LANE_COLUMNS = 4  # what one access of a lane covers
_NAME = re.compile(r"^op_(\w+?)_(\d+(?:p\d+)?)B$")  # 4p5 is 4.5


@dataclass(frozen=True)
class Op:
    """DRAM traffic of one element, stream by stream; an element of a stream has 4, 2, 1 or 0.5 bytes."""

    name: str
    reads: tuple[Fraction, ...]
    writes: tuple[Fraction, ...]
    elements: int = LANE_ELEMENTS  # per lane and iteration of the main loop
    listed: bool = True
    bitwise: bool = True
    scales: Fraction = Fraction(0)  # bytes of scales per element: every lane reads or writes the one its block shares

    @property
    def bytes(self) -> Fraction:
        return sum(self.reads + self.writes, Fraction(0))

    def accesses(self, elements: int | None = None) -> Counter[tuple[str, int]]:
        """What a lane does, each access covering four elements of a stream: (load or store, bytes): how many."""
        found: Counter[tuple[str, int]] = Counter()
        if self.listed:
            for kind, streams in (("load", self.reads), ("store", self.writes)):
                for size in streams:
                    found[kind, int(size * LANE_COLUMNS)] += (elements or self.elements) // LANE_COLUMNS
        return found


def op(name: str, reads: str, writes: str = "", elements: int = LANE_ELEMENTS, bitwise: bool = True) -> Op:
    """``op("bf16", "4", "2")`` reads one float32 and writes one bfloat16."""
    streams = [tuple(Fraction(size) for size in text.split()) for text in (reads, writes)]
    return Op(name, *streams, elements, bitwise=bitwise)


OPS: dict[str, Op] = {
    entry.name: entry
    for entry in (
        op("copy", "4", "4"),
        op("moments", "4"),
        op("normalize", "4", "4"),
        op("znorm", "4", "4"),
        op("bf16", "4", "2"),
        op("quantize_bf16", "4", "2"),
        op("quantize_fp16", "4", "2"),
        op("quantize_fp8_e4m3", "4", "1"),
        op("quantize_fp8_e5m2", "4", "1"),
        op("quantize_fp8_e4m3_nearest", "4", "1"),
        op("quantize_int8", "4", "1"),
        op("quantize_int8_block", "4", "1"),
        op("quantize_fp4", "4", "1/2"),
        op("quantize_fp4_e2m1", "4", "1/2"),
        op("quantize_int4", "4", "1/2"),
        op("sgd", "4 4", "4"),
        op("momentum", "4 4 4", "4 4"),
        op("sgd_momentum", "4 4 4", "4 4"),
        op("chain", "4 4 4", "4 4"),
        # Gradient, parameter, first and second moment; the roots of a factored second moment come from cache.
        op("adamw_fp32", "4 4 4 4", "4 4 4"),
        op("adamw_bf16_int8", "2 2 1 1", "2 1 1"),
        op("adamw_bf16_fp4_factored", "2 2 1/2", "2 1/2"),
        replace(op("adamw_int8_factored", "2 1", "1"), scales=Fraction(2)),
    )
}

# Kernels of csrc/cuda that are held to the widths of an op: a pattern of the readable name, and the op.
# The sweep kernels decide at run time which streams there are: they are read, the wrappers are held to widths.
_CODE_BYTES = {"fp32": "4", "bf16": "2", "fp16": "2", "fp8_e4m3": "1", "fp8_e5m2": "1", "fp4_e2m1": "1/2", "int8": "1"}
_CODE_BYTES |= {"int4": "1/2"}
SHIPPED: tuple[tuple[str, Op], ...] = (
    (r"\bmoments_kernel\b", op("moments", "4")),
    *(
        (rf"\bdequantize_kernel<\(\S*Format\){number}>", op(f"dequantize_{name}", size, "4"))
        for number, (name, size) in enumerate(_CODE_BYTES.items())
    ),
    # Triton: a program is one tile.
    (r"^process_normalize$", op("normalize", "4", "4")),
    (r"^process_sgd$", op("sgd_momentum", "4 4 4", "4 4")),
    (r"^process_sgd_fp8$", op("chain", "4 4 4", "4 4")),
)

# Kernels that may use local memory: a pattern of the readable name, and why. The page lists them.
_TRITON = "Triton gives no hold on registers, and this kernel only runs where the CUDA part is missing"
MAY_SPILL: tuple[tuple[str, str], ...] = (
    (r"^measure(_mixed)?$", _TRITON),
    (r"^coefficients_autoscale", _TRITON),
    (r"^process_(codes|values|sgd|centralize)", _TRITON),
    (r"^process_adamw_(fp32_fp8|int8_shard)$", _TRITON),
    (r"^table$", _TRITON),
)

# Kernel launches (copies and memsets included) of one call, whatever the number of tensors.
LAUNCHES: dict[str, str] = {
    "gradient_moments, normalize_, quantize, normalize_quantize_, sgd_step_, adamw_step_ (CUDA)":
        "1 kernel, 1 copy of the list",
    "dequantize (CUDA)": "1 kernel, 1 copy of the list",
}


def of_kernel(name: str) -> Op | None:
    """The op of a wrapper or shipped kernel; None where nothing is known of it."""
    if found := _NAME.match(name):
        moved = Fraction(found[2].replace("p", "."))
        known = OPS.get(found[1])
        if known and known.bytes == moved:
            return known
        return plain(found[1], LANE_ELEMENTS, moved)
    return next((entry for pattern, entry in SHIPPED if re.search(pattern, name)), None)


def may_spill(name: str) -> str | None:
    """Why a kernel may use local memory, if it may."""
    return next((reason for pattern, reason in MAY_SPILL if re.search(pattern, name)), None)


def plain(name: str, elements: int, moved: Fraction) -> Op:
    """An op of which only the bytes are known."""
    return Op(name, (), (moved,), elements, listed=False)
