"""The hot path of a kernel against what a device can issue, compute, move and keep in flight."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from bench.sass import pipes
from bench.sass.flow import Graph, Loop
from bench.sass.hot import Path, Wanted, hot_path
from bench.sass.ops import Op
from bench.sass.parse import Instruction
from bench.sass.pipes import Device
from bench.sass.tools import Kernel

RESERVED_SHARED = 1024  # bytes a block takes for the system


def resident_warps(kernel: Kernel, device: Device, threads: int) -> int:
    """Warps on one SM by registers, shared memory and the limits of the device."""
    warps = math.ceil(threads / pipes.WARP)
    by_register = device.warps
    if kernel.registers:
        per_warp = math.ceil(kernel.registers * pipes.WARP / 256) * 256  # allocated in units of 256
        by_register = device.registers // 4 // per_warp * 4  # a warp's registers are in one of four partitions
    blocks = min(device.blocks, device.warps // warps, by_register // warps)
    if kernel.shared:
        blocks = min(blocks, device.shared // (kernel.shared + RESERVED_SHARED))
    return blocks * warps


def in_flight(instructions: tuple[Instruction, ...], loops: bool) -> int:
    """The most bytes of global loads one lane has under way before their first use.

    A load is under way until an instruction reads one of its registers; a path that loops is walked twice, so that
    loads for the next iteration count. Copies to shared memory (LDGSTS) are under way until a DEPBAR.
    """
    waiting: dict[int, tuple[frozenset[int], int]] = {}
    most = 0
    for number, instruction in enumerate(instructions * (2 if loops else 1)):
        read = instruction.registers_read | instruction.loaded
        waiting = {k: (regs, n) for k, (regs, n) in waiting.items() if not regs & read}
        if instruction.name == "DEPBAR":
            waiting = {k: (regs, n) for k, (regs, n) in waiting.items() if regs}
        if instruction.global_access == "load":
            waiting[number] = (instruction.loaded, instruction.bytes)
        most = max(most, sum(n for _, n in waiting.values()))
    return most


@dataclass(frozen=True)
class Cost:
    """One kernel on one device (or on none, where no rates are stated for the architecture)."""

    elements: int  # per lane on the hot path
    unrolled: int  # iterations of the source loop the path holds
    moved: Fraction  # bytes per element that the path loads and stores
    issue: float | None  # issue time / DRAM time
    busiest: str | None
    pipe: float | None  # time of the busiest pipe / DRAM time
    warps: int | None
    flying: int | None  # bytes in flight per SM
    needed: int | None  # latency times bandwidth, per SM


@dataclass(frozen=True)
class Reading:
    """Everything read from one kernel."""

    kernel: Kernel
    op: Op | None
    loop: Loop | None
    loops: int
    path: Path
    counts: Counter[str]
    accesses: Counter[tuple[str, int]]  # (load or store, bytes): how many
    flying: int  # bytes of loads one lane has under way at most
    cost: Cost | None
    unknown: tuple[str, ...]
    unresolved: int  # indirect branches


def cost(reading_op: Op, path: Path, flying: int, kernel: Kernel, device: Device | None, threads: int) -> Cost:
    moved = sum(i.bytes for i in path.instructions if i.global_access)
    unrolled = max(1, round(moved / float((reading_op.bytes + reading_op.scales) * reading_op.elements)))
    elements = reading_op.elements * unrolled
    per_element = Fraction(moved, elements)
    if device is None:
        return Cost(elements, unrolled, per_element, *(None,) * 6)
    busy = pipes.clocks(pipes.count(path.instructions), device)
    dram = float(reading_op.bytes) * elements * pipes.WARP / (device.bandwidth / device.sms) * device.clock
    issue = busy.pop("issue")
    busiest = max(busy, key=lambda name: (busy[name], name))
    warps = resident_warps(kernel, device, threads)
    return Cost(
        elements, unrolled, per_element, issue / dram, busiest, busy[busiest] / dram, warps,
        flying * pipes.WARP * warps, math.ceil(pipes.LATENCY * device.bandwidth / device.sms),
    )  # fmt: skip


MOST_BLOCKS = 300


def read(kernel: Kernel, op: Op | None = None, threads: int | None = None) -> Reading:
    """``threads`` of a block: given, or the launch bounds in the PTX, or 256."""
    graph = Graph(kernel.function)
    loop = graph.main_loop(op.accesses() if op else None)
    wanted = Wanted(int(op.bytes * op.elements), frozenset(op.accesses())) if op else None
    # Of a kernel that does whatever it is told at run time no way is the usual one.
    read_whole = op is not None or len(graph.blocks) <= MOST_BLOCKS
    path = hot_path(graph, loop, wanted) if read_whole else Path((), (), (), 0, 0)
    counts = pipes.count(path.instructions)
    accesses = Counter((i.global_access, i.bytes) for i in path.instructions if i.global_access)
    flying = in_flight(path.instructions, loop is not None)
    unknown = tuple(sorted({i.opcode for i in path.instructions if pipes.pipe(i) == "unknown"}))
    priced = None
    if op and path.instructions:
        device = pipes.DEVICES.get(kernel.arch)
        priced = cost(op, path, flying, kernel, device, threads or kernel.threads or 256)
    return Reading(
        kernel, op, loop, len(graph.loops), path, counts, accesses, flying, priced, unknown, len(graph.unresolved)
    )
