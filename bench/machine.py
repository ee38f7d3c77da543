"""What the machine is, and what others do on it while we measure."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from pathlib import Path

import torch

from bench import allocator
from fastgrad import library


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _cpuinfo(key: str) -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.partition(":")[0].strip() == key:
            return line.partition(":")[2].strip()
    return ""


def cpu_model() -> str:
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    family, model = _cpuinfo("cpu family"), _cpuinfo("model")
    return f"{name} (family {family}, model {model})" if family else name


def _commit() -> str:
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        try:
            return subprocess.run(
                ["git", *arguments], cwd=root, capture_output=True, text=True
            ).stdout.strip()
        except OSError:
            return ""

    head = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "csrc", "fastgrad", "bench")
    return (head or "unknown") + (" + changes" if changed else "")


def description() -> dict[str, str]:
    """Everything a reader needs to know about where the numbers come from."""
    flags = set(_cpuinfo("flags").split())
    caches = [
        f"L{level} {_read(f'{folder}/size').strip()}"
        for i in range(8)
        if (folder := f"/sys/devices/system/cpu/cpu0/cache/index{i}")
        and _read(f"{folder}/type").strip() in ("Data", "Unified")
        and (level := _read(f"{folder}/level").strip())
    ]
    pages = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    info = library.info()
    return {
        "cpu": cpu_model(),
        "cpus": str(os.cpu_count()),
        "instruction sets": ", ".join(
            s for s in ("avx2", "fma", "avx512f", "avx512_bf16", "asimd") if s in flags
        ),
        "caches": ", ".join(caches) or "unknown",
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or "not readable",
        "huge pages": pages.partition("[")[2].partition("]")[0] or "unknown",
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fastgrad": f"{info['fastgrad']}, commit {_commit()}",
        "fastgrad kernels": f"{info['instruction set']}, {info['threads run by']}, {info['compiler']}",
        "malloc": allocator.description(),
        "load average": load_average(),
    }


def table(described: dict[str, str]) -> list[str]:
    """A description, as lines of markdown."""
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in described.items())]


def sentence() -> str:
    """The least that has to stand beside a number."""
    d = description()
    versions = f"kernels {d['fastgrad kernels']}; torch {d['torch']}, fastgrad {d['fastgrad']}"
    return f"Measured {time.strftime('%Y-%m-%d', time.gmtime())} on {d['cpu']}; {versions}."


def load_average() -> str:
    return " ".join(_read("/proc/loadavg").split()[:3]) or "unknown"


class Others:
    """The share of all CPUs that other processes (and a hypervisor) took since the last :meth:`start`.

    Counted in clock ticks of 10 ms, so a span of 0.1 s on 2 CPUs resolves 5 %.
    """

    def __init__(self) -> None:
        self.cpus = os.cpu_count() or 1
        self.tick = 1 / os.sysconf("SC_CLK_TCK")
        self.start()

    def _busy(self) -> float:
        fields = (
            _read("/proc/stat").partition("\n")[0].split()[1:9]
        )  # user nice system idle iowait irq softirq steal
        if len(fields) < 8:
            return 0.0
        values = list(map(int, fields))
        return (sum(values) - values[3] - values[4]) * self.tick

    def _own(self) -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def start(self) -> None:
        self.busy, self.own, self.time = self._busy(), self._own(), time.perf_counter()

    def share(self) -> float:
        elapsed = time.perf_counter() - self.time
        others = self._busy() - self.busy - (self._own() - self.own)
        return min(1.0, max(0.0, others / (elapsed * self.cpus)))


def idle_check(seconds: float = 1.0) -> float:
    """The share of the machine that others use while we do nothing."""
    others = Others()
    time.sleep(seconds)
    return others.share()
