"""Memory that a process frees and soon wants again stays with it."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 32 * 2**20  # bytes; glibc takes no larger M_MMAP_THRESHOLD
KEPT = 256 * 2**20


def keep_freed() -> None:
    """glibc hands every freed picture back to the kernel, which clears the next one page by page: a tenth of a
    conversion's time. Nothing happens where the C library is another."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST)
    mallopt(M_TRIM_THRESHOLD, KEPT)
