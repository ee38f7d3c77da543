"""Readings as text: one kernel in full for the terminal."""

from __future__ import annotations

from collections import Counter

from bench.sass import gate, ops, pipes
from bench.sass.roofline import Reading

LABEL = "computed from machine code at stated rates, not measured"
COLUMNS = ("fma", "imad", "wide", "alu", "xu", "fp64", "lsu", "reduce", "half", "slot", "unknown")


def access_text(reading: Reading) -> str:
    """2 x 16 B in, 1 x 8 B out"""
    words = [
        f"{n} x {width} B {'in' if kind == 'load' else 'out'}"
        for (kind, width), n in sorted(reading.accesses.items(), key=lambda item: (item[0][0], -item[0][1]))
    ]
    return ", ".join(words) or "none"


def listing(reading: Reading) -> str:
    """The instructions of the hot path."""
    lines = []
    for i in reading.path.instructions:
        guard = f"@{i.predicate}" if i.predicate else ""
        lines.append(f"    {i.address:#06x} {pipes.pipe(i):>7} {guard:>5} {i.opcode} {i.operands}")
    return "\n".join(lines)


def remarks(reading: Reading) -> list[str]:
    """What makes the count of the hot path less certain, and what the gate lets pass."""
    found = []
    if reading.path.nested:
        found.append(f"the hot path enters {len(reading.path.nested)} nested loops, each counted as one iteration")
    if reading.path.calls:
        found.append(f"{reading.path.calls} calls on the hot path, the shortest way through each counted")
    if reading.unresolved:
        found.append(f"{reading.unresolved} indirect branches without known targets")
    kernel = reading.kernel
    if kernel.stack and not gate.may_reach_stack(kernel):
        found.append(f"a stack frame of {kernel.stack} bytes that nothing reads or writes")
    if reason := ops.may_spill(kernel.readable):
        found += [f"{text}: allowed, {reason}" for text in gate.memory_findings(kernel)]
    if reading.unknown:
        found.append(f"opcodes without a pipe: {', '.join(reading.unknown)}")
    return found


def full(reading: Reading, opcodes: int = 12) -> str:
    """One kernel, everything that was read from it."""
    kernel, path, price = reading.kernel, reading.path, reading.cost
    where = f"main loop ({reading.loops} in all)" if reading.loop else "no loop: the whole kernel"
    span = f", {path.instructions[0].address:#x} to {path.instructions[-1].address:#x}" if path.instructions else ""
    lines = [
        f"{kernel.readable}  sm_{kernel.arch}  ({LABEL})",
        f"  {kernel.registers} registers, {kernel.shared} B shared, {kernel.stack} B stack, "
        f"{kernel.spill_stores}/{kernel.spill_loads} B spilled, {len(kernel.function.instructions)} instructions",
        f"  {where}{span}: hot path {len(path)} instructions, {len(path.blocks)} blocks (longest way {path.longest})",
        f"  global memory on it: {access_text(reading)}; at most {reading.flying} B of loads under way per lane",
        "  pipes: " + ", ".join(f"{name} {reading.counts[name]}" for name in COLUMNS if reading.counts[name]),
        "  most frequent: "
        + ", ".join(f"{name} {n}" for name, n in Counter(i.opcode for i in path.instructions).most_common(opcodes)),
    ]
    lines += [f"  {text}" for text in remarks(reading)]
    if price:
        lines.append(
            f"  {len(path) / price.elements:.2f} instructions per element "
            f"({price.elements} elements a lane, {float(price.moved):g} B each)"
        )
        device = pipes.DEVICES.get(kernel.arch)
        if device:
            lines.append(
                f"  {device.name}: issue {price.issue:.2f} of the DRAM time, busiest pipe {price.busiest} "
                f"{price.pipe:.2f}; "
                f"{price.warps} warps per SM, {price.flying:,} B in flight of {price.needed:,} needed"
            )
        else:
            lines.append(f"  no rates are stated for sm_{kernel.arch}")
    lines += [f"  VIOLATION: {text}" for text in gate.violations(reading)]
    lines += [f"  miss: {text}" for text in gate.misses(reading)]
    return "\n".join(lines)
