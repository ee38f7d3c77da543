"""Resident memory of a process as the kernel counts it, in bytes."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

# The same for every contestant. Blocks from 1 MiB on are mapped one by one and go back to the system when they are
# freed (glibc would raise the bound to 32 MiB by itself); threads share one heap; a freed end of it is given back.
# So the peak is that of tensors that live, not of holes between them.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 20),
    "MALLOC_TOP_PAD_": "0",
}


def _status(name: str, pid: int | str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status: expected a line {name}, as a Linux kernel writes it")


def now(pid: int | str = "self") -> int:
    """VmRSS."""
    return _status("VmRSS", pid)


def of_files() -> int:
    """RssFile: resident pages of mapped files, the code of libraries above all; the kernel may take them back."""
    return _status("RssFile", "self")


def peak(pid: int | str = "self") -> int:
    """VmHWM: the largest VmRSS since the process began, or since :func:`forget_peak`."""
    return _status("VmHWM", pid)


def forget_peak() -> None:
    """Sets this process's VmHWM to its present VmRSS (proc_pid_clear_refs(5), value 5)."""
    Path("/proc/self/clear_refs").write_text("5")


def give_back() -> None:
    """Lets go of what is garbage: Python's cycles, and free pages at the end of the heap and inside it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def available() -> int:
    """What the machine can still give to a process without swapping, MemAvailable."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
