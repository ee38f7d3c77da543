"""The page about the GPU code (docs/gpu_code.md) and its JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.sass import gate, ops, pipes
from bench.sass.report import COLUMNS, LABEL, access_text, remarks
from bench.sass.roofline import Reading, resident_warps

METHOD = f"""\
No device was asked: every figure here is **{LABEL}**.
`python -m bench.gpu_code` compiles the kernels, disassembles them and follows the control flow of each.

- The **main loop** is the loop with the loads and stores of the op (where no op is known: with the widest loads). Its
  **hot path** is the way from the head of the loop to its latch that moves the bytes of the op, enters the fewest
  loops inside, and has the fewest instructions: a rare case (a slow division, an odd tile, a non-finite element) is
  an excursion that is not counted. Ways that contradict themselves about a predicate are left out. *longest* counts
  the longest way that moves the same bytes. An instruction counts as issued whether or not its predicate holds. Which
  way data takes is not in the code: where a rare case is the shorter one, the count is too low.
- **issue / DRAM** is the time the four schedulers of an SM need to issue the path over the time DRAM needs for the
  bytes of its elements; **pipe / DRAM** the same for the busiest pipe. Both are lower bounds of what can be hoped for:
  latencies, bank conflicts and the tail of a grid are not in them.
- **in flight** is the most bytes of global loads under way at once: those of one lane before their first use, times
  the lanes that fit on an SM by registers, shared memory and block size. *needed* is latency times bandwidth.
- Violations fail the gate. Misses (issue or a pipe above {gate.LARGEST_ISSUE} of the DRAM time on an H100, too few
  bytes in flight) are listed with their limiter and fail it with `--strict` only."""


@dataclass
class Findings:
    """Everything that was read."""

    archs: list[int]
    tools: dict[str, str]
    wrappers: list[Reading] = field(default_factory=list)
    shipped: list[Reading] = field(default_factory=list)
    triton: list[Reading] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def readings(self) -> list[Reading]:
        return self.wrappers + self.shipped + self.triton

    def _lines(self, check: object) -> list[str]:
        return [f"sm_{r.kernel.arch} {short(r)}: {text}" for r in self.readings for text in check(r)]

    def violations(self) -> list[str]:
        return [*self.failures, *self._lines(gate.violations)]

    def misses(self) -> list[str]:
        return self._lines(gate.misses)


def short(reading: Reading) -> str:
    """A name without namespaces and parameters, and the file of a shipped kernel."""
    name = reading.kernel.readable.replace("fastgrad::cuda::", "").replace("fastgrad::", "").removeprefix("void ")
    name = name.partition("(fastgrad")[0]
    depth, end = 0, len(name)
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            end = i
            break
    return f"{name[:end]} [{reading.kernel.source}]" if reading.kernel.source.split(" ")[1:] else name[:end]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


def _timed(readings: list[Reading], arch: int) -> list[str]:
    device = pipes.DEVICES.get(arch)
    head = ["op", "bytes", "registers", "instructions", "longest", "global memory per lane"]
    head += ["issue / DRAM", "pipe / DRAM", "warps", "KB in flight"] if device else []
    rows = []
    for r in readings:
        c = r.cost
        row = [short(r), f"{float(r.op.bytes):g}", r.kernel.registers, f"{len(r.path) / c.elements:.2f}"]
        row += [f"{r.path.longest / c.elements:.2f}", access_text(r)]
        if device:
            row += [f"{c.issue:.2f}", f"{c.pipe:.2f} {c.busiest}", c.warps, f"{c.flying / 1024:.0f}"]
        rows.append(row)
    if device is None:
        title = f"## sm_{arch}: counted, not timed (no rates are stated for it)"
    else:
        needed = pipes.LATENCY * device.bandwidth / device.sms / 1024
        title = (
            f"## {device.name}, sm_{arch}: {device.sms} SMs, {device.clock / 1e9:g} GHz, "
            f"{device.bandwidth / 1e12:g} TB/s; {needed:.0f} KB in flight per SM needed"
        )
    return ["", title, "Per element; instructions and bytes of one lane.", "", *table(head, rows)]


def _pipes(readings: list[Reading], arch: int) -> list[str]:
    used = [name for name in COLUMNS if any(r.counts[name] for r in readings)]
    rows = [
        [short(r), *(f"{r.counts[name] / (r.cost.elements if r.cost else 1):.2f}" for name in used)] for r in readings
    ]
    return ["", f"Instructions per element by pipe, sm_{arch}:", "", *table(["op", *used], rows)]


def _plain(title: str, readings: list[Reading]) -> list[str]:
    head = ["kernel", "sm", "registers", "shared", "stack", "spilled", "warps", "instructions", "hot path"]
    head.append("KB in flight")
    rows = []
    for r in sorted(readings, key=lambda r: (short(r), r.kernel.arch)):
        k, device = r.kernel, pipes.DEVICES.get(r.kernel.arch)
        warps = resident_warps(k, device, k.threads or 256) if device else ""
        flying = f"{r.flying * pipes.WARP * warps / 1024:.0f}" if device else ""
        spilled = k.spill_stores + k.spill_loads
        size = len(k.function.instructions)
        rows.append([short(r), k.arch, k.registers, k.shared, k.stack, spilled, warps, size, len(r.path), flying])
    return ["", f"## {title}", "", *table(head, rows)] if rows else []


def markdown(found: Findings) -> str:
    lines = ["# What the machine code of the GPU kernels costs", "", METHOD, ""]
    lines += ["Made with " + "; ".join(f"{name} {text}" for name, text in sorted(found.tools.items())) + ".", ""]
    violations, misses = found.violations(), found.misses()
    lines += [f"## Gate: {len(violations)} violations, {len(misses)} misses", ""]
    read = f"{len(found.wrappers)} wrappers of ops, {len(found.shipped)} shipped and {len(found.triton)} Triton kernels"
    lines += [f"{read}, for sm_{', sm_'.join(map(str, found.archs))}.", ""]
    lines += [f"- **violation** {text}".replace("\n", "; ") for text in violations]
    lines += [f"- miss: {text}" for text in misses]
    lines += [f"- {text}" for text in found.notes]
    timed = [r for r in found.readings if r.kernel.arch == gate.TIMED_ARCH]
    lines += [f"- {short(r)}: {text}" for r in timed for text in remarks(r)]
    for arch in found.archs:
        readings = [r for r in found.wrappers if r.kernel.arch == arch and r.cost]
        if readings:
            lines += _timed(readings, arch)
            lines += _pipes(readings, arch) if arch == gate.TIMED_ARCH else []
    lines += _plain("Shipped kernels", found.shipped)
    lines += _plain("Triton kernels", found.triton)
    if ops.LAUNCHES:
        lines += ["", "## Launches of one call", "", *table(["op", "launches"], sorted(ops.LAUNCHES.items()))]
    lines += ["", "## Rates and where they are from", ""]
    lines += [f"- *{name}*: {text}." for name, text in pipes.SOURCES.items()]
    rates = [[d.name, *d.rates.values()] for d in pipes.DEVICES.values()]
    lines += ["", *table(["results per clock and SM", *next(iter(pipes.DEVICES.values())).rates], rates)]
    return "\n".join(lines) + "\n"


def record(reading: Reading) -> dict[str, object]:
    k, c = reading.kernel, reading.cost
    cost = None if c is None else {name: _plain_value(value) for name, value in vars(c).items()}
    return {
        "kernel": k.readable, "source": k.source, "arch": k.arch, "registers": k.registers, "stack": k.stack,
        "local": k.local, "shared": k.shared, "spill_stores": k.spill_stores, "spill_loads": k.spill_loads,
        "threads": k.threads, "size": len(k.function.instructions), "loops": reading.loops,
        "hot_path": len(reading.path), "longest": reading.path.longest, "nested_loops": len(reading.path.nested),
        "calls": reading.path.calls, "pipes": dict(sorted(reading.counts.items())),
        "accesses": {f"{kind} {width}": n for (kind, width), n in sorted(reading.accesses.items())},
        "lane_bytes_in_flight": reading.flying, "unknown_opcodes": list(reading.unknown),
        "bytes_per_element": None if reading.op is None else float(reading.op.bytes), "cost": cost,
        "violations": gate.violations(reading), "misses": gate.misses(reading),
    }  # fmt: skip


def _plain_value(value: object) -> object:
    return value if value is None or isinstance(value, str | int | float) else float(value)


def as_json(found: Findings) -> dict[str, object]:
    return {
        "label": LABEL, "tools": found.tools, "archs": found.archs, "violations": found.violations(),
        "misses": found.misses(), "notes": found.notes, "sources": pipes.SOURCES, "latency": pipes.LATENCY,
        "devices": {str(arch): vars(device) for arch, device in pipes.DEVICES.items()},
        "wrappers": [record(r) for r in found.wrappers], "shipped": [record(r) for r in found.shipped],
        "triton": [record(r) for r in found.triton], "launches": ops.LAUNCHES,
    }  # fmt: skip
