"""Memory that is freed stays with the process while it measures, where jemalloc is installed.

glibc gives large blocks back to the system when they are freed and asks for new ones in the next call, whose pages the
system clears at their first touch: that takes longer than most kernels, and a virtual machine's host may add as much
again. Who trains on a CPU is advised to use an allocator that keeps memory (PyTorch's performance tuning guide).
"""

from __future__ import annotations

import ctypes.util
import os
import sys

CONFIGURATION = "dirty_decay_ms:-1,muzzy_decay_ms:-1"  # nothing that was freed is ever given back


def keeping() -> dict[str, str]:
    """The variables of a process whose memory stays with it; none where jemalloc is not installed."""
    library = ctypes.util.find_library("jemalloc")
    if library is None:
        return {}
    preloaded = [library, *filter(None, [os.environ.get("LD_PRELOAD")])]
    return {"LD_PRELOAD": ":".join(preloaded), "MALLOC_CONF": CONFIGURATION}


def keeps_memory() -> bool:
    """Of this process."""
    return "jemalloc" in os.environ.get("LD_PRELOAD", "") and os.environ.get("MALLOC_CONF") == CONFIGURATION


def description() -> str:
    return f"jemalloc, {CONFIGURATION}" if keeps_memory() else "the system's"


def start_again(module: str) -> None:
    """This process from its beginning, with memory that stays, unless that is so or cannot be."""
    if not keeps_memory() and (variables := keeping()):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], os.environ | variables)
