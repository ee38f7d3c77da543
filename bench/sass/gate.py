"""What a kernel must not do (violations) and what it should not (misses, each with its limiter)."""

from __future__ import annotations

from collections import Counter

from bench.sass import ptx
from bench.sass.ops import LANE_COLUMNS, Op, may_spill
from bench.sass.roofline import Reading
from bench.sass.tools import Kernel

LARGEST_ISSUE = 0.6  # of the DRAM time: leaves room for stalls
TIMED_ARCH = 90


def memory_findings(kernel: Kernel) -> list[str]:
    """Spills and local memory. A stack frame that no instruction can reach costs nothing (see report.remarks)."""
    found = []
    local = Counter(i.name for i in kernel.function.instructions if i.name in ("LDL", "STL"))
    if local:
        found.append("local memory: " + ", ".join(f"{n} {name}" for name, n in sorted(local.items())))
    if kernel.spill_stores or kernel.spill_loads:
        found.append(f"spills {kernel.spill_stores} bytes and loads {kernel.spill_loads}")
    if (kernel.stack or kernel.local) and may_reach_stack(kernel):
        found.append(f"stack frame of {kernel.stack} bytes, local memory of {kernel.local}")
    return found


def may_reach_stack(kernel: Kernel) -> bool:
    """Local or generic accesses."""
    return any(i.name in ("LDL", "STL", "LD", "ST", "ATOM") for i in kernel.function.instructions)


def ptx_violations(kernel: Kernel) -> list[str]:
    if kernel.ptx_error:
        return [kernel.ptx_error]
    return ptx.violations(kernel.ptx) if kernel.ptx else ["no PTX of it was found"]


def width_violations(reading: Reading) -> list[str]:
    """Every stream in accesses of four elements: 16 bytes of float32, 8, 4 or 2 of a narrower type.

    A warp's store then fills whole 32-byte sectors. Further accesses (a scale, a sum) may have any width.
    """
    op, price = reading.op, reading.cost
    if op is None or price is None:
        return []
    if not op.listed:
        return _unlisted(reading, op, price.elements)
    found = []
    for (kind, width), wanted in sorted(op.accesses(price.elements).items()):
        seen = reading.accesses[kind, width] + (2 * reading.accesses[kind, 32] if width == 16 else 0)
        if seen < wanted:
            others = [f"{n} of {w}" for (k, w), n in sorted(reading.accesses.items()) if k == kind and w != width]
            found.append(
                f"main loop: {seen} {kind}s of {width} bytes a lane, expected {wanted}"
                + (f"; there are {', '.join(others)} bytes" if others else "")
            )
    return found


def _unlisted(reading: Reading, op: Op, elements: int) -> list[str]:
    moved = sum(w * n for (_, w), n in reading.accesses.items())
    found = []
    if moved < op.bytes * elements:
        found.append(f"main loop moves {moved} bytes a lane, expected {float(op.bytes * elements):g}")
    narrow = sum(n for (kind, w), n in reading.accesses.items() if kind == "load" and w < 8)
    if narrow > elements // LANE_COLUMNS:
        found.append(f"main loop: {narrow} loads narrower than 8 bytes")
    return found


def violations(reading: Reading) -> list[str]:
    found = [] if may_spill(reading.kernel.readable) else memory_findings(reading.kernel)
    if reading.op is None or reading.op.bitwise:
        found += ptx_violations(reading.kernel)
    if reading.op and not reading.path.instructions:
        found.append("no hot path was found")
    return found + width_violations(reading)


def misses(reading: Reading) -> list[str]:
    """Above the share of issue slots, or too few bytes in flight; on the timed device only."""
    price = reading.cost
    if price is None or price.issue is None or reading.kernel.arch != TIMED_ARCH:
        return []
    found = []
    if price.issue > LARGEST_ISSUE:
        found.append(f"issue slots: {price.issue:.2f} of the DRAM time, at most {LARGEST_ISSUE}")
    if price.pipe > LARGEST_ISSUE:
        found.append(f"{price.busiest} pipe: {price.pipe:.2f} of the DRAM time, at most {LARGEST_ISSUE}")
    if price.flying < price.needed:
        found.append(f"memory parallelism: {price.flying:,} bytes in flight per SM, {price.needed:,} hide the latency")
    return found
