"""What differs between benchmarking a GPU and a CPU: the timer, the floors, and what is said of the machine."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench import gate, machine
from bench.gate import Call
from bench.measure import Timing
from bench.rows import Contestant
from bench.shapes import Workspace

_QUERY = (
    "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,power.limit,temperature.gpu,"
    "persistence_mode,ecc.mode.current"
)


class EventTimer:
    """CUDA events on the current stream: the device's own clock. What the host needs longer for is in it, too."""

    name = "CUDA events"

    def seconds(self, call: Callable[[], object], calls: int) -> float:
        """Of one call, the mean of ``calls`` that follow each other."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / calls


class WallTimer:
    """For a dry run on the CPU."""

    name = "wall clock"

    def seconds(self, call: Callable[[], object], calls: int) -> float:
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - begin) / calls


Timer = EventTimer | WallTimer


def timer_for(device: torch.device) -> Timer:
    return EventTimer() if device.type == "cuda" else WallTimer()


def measure(
    calls: Mapping[str, Callable[[], object]],
    timer: Timer,
    repeats: int,
    *,
    seconds: float = 0.05,  # per sample, at least
    warmup: float = 0.2,  # per contestant
) -> dict[str, Timing]:
    """Every contestant is warmed up; then they take turns, each round beginning with another."""
    timings = {}
    for name, call in calls.items():
        once = min(timer.seconds(call, 1) for _ in range(3))
        spent = 0.0
        while spent < warmup:
            spent += max(timer.seconds(call, 1), 1e-9)
        timings[name] = Timing(max(1, min(10_000, round(seconds / max(once, 1e-9)))))
    names = list(calls)
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            timings[name].samples.append(timer.seconds(calls[name], timings[name].calls))
    return timings


@dataclass
class Scratch:
    """Two halves of the bytes that a floor moves."""

    work: Workspace
    bytes: int
    halves: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = max(1, self.bytes // 2)
        self.halves = [torch.zeros(n, dtype=torch.uint8, device=self.work.device) for _ in range(2)]


def _copy(work: Workspace, moved: int) -> Call:
    source, target = Scratch(work, moved).halves
    return Call(target.copy_, (source,))


def _triad(work: Workspace, moved: int) -> Call:
    n = max(1, moved // 12)  # two float32 are read and one is written
    a, b, c = (torch.zeros(n, device=work.device) for _ in range(3))
    return Call(lambda: torch.add(a, b, alpha=2.0, out=c))


def _memset(work: Workspace, moved: int) -> Call:
    return Call(torch.empty(max(1, moved), dtype=torch.uint8, device=work.device).zero_)


def _read(work: Workspace, moved: int) -> Call:
    return Call(torch.ones(max(1, moved // 4), device=work.device).sum)


def floors(bytes_per_element: float, reads_only: bool) -> tuple[Contestant, ...]:
    """Plain kernels of torch that move as many bytes: one tensor, no list, no arithmetic to speak of."""

    def contestant(name: str, kind: str, make: Callable[[Workspace, int], Call]) -> Contestant:
        def build(work: Workspace) -> Call:
            return make(work, round(bytes_per_element * work.elements))

        return Contestant(name, kind, build, gate.nothing)

    read = (contestant("floor: sum of one tensor", "floor", _read),) if reads_only else ()
    return (
        contestant("floor: device-to-device copy", "floor", _copy),
        contestant("floor: triad", "floor", _triad),
        *read,
        contestant("only memset (writes)", "reference", _memset),
    )


def _nvidia_smi() -> dict[str, str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {"nvidia-smi": "not found"}
    number = torch.cuda.current_device()
    uuid = getattr(torch.cuda.get_device_properties(number), "uuid", None)  # numbers change by CUDA_VISIBLE_DEVICES
    card = f"GPU-{uuid}" if uuid else str(number)
    arguments = [tool, "-i", card, f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        return {"nvidia-smi": done.stderr.strip() or done.stdout.strip() or "failed"}
    return dict(zip(_QUERY.split(","), (value.strip() for value in done.stdout.split(",")), strict=False))


def clocks(device: torch.device) -> dict[str, str]:
    """As they are now."""
    if device.type != "cuda":
        return {}
    wanted = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
    return {name: value for name, value in _nvidia_smi().items() if name in wanted or name == "nvidia-smi"}


def description(device: torch.device) -> dict[str, str]:
    """What a reader needs to know about where the numbers come from."""
    host = machine.description()
    kept = ("cpu", "system", "python", "torch", "fastgrad", "fastgrad kernels")
    facts = {name: host[name] for name in kept if name in host}
    if device.type != "cuda":
        return {"device": "cpu (a dry run: these are not figures of a GPU)"} | facts
    properties = torch.cuda.get_device_properties(device)
    return (
        {
            "device": properties.name,
            "compute capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": str(properties.multi_processor_count),
            "memory": f"{properties.total_memory / 2**30:.1f} GiB",
            "CUDA of torch": str(torch.version.cuda),
        }
        | _nvidia_smi()
        | facts
    )
