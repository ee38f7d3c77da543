"""A finished folder takes the place of an older one in a single step."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100  # fcntl.h


def take_place(made: Path, target: Path, aside: Path) -> None:
    """``made`` becomes ``target``. An older ``target`` ends as ``made`` (exchanged at once) or, where the system cannot
    exchange, as ``aside``: :func:`put_back` heals a kill between those two renames."""
    if not target.exists():
        made.rename(target)
    elif not _exchange(made, target):
        target.rename(aside)
        made.rename(target)
    sync_folder(target.parent)


def put_back(target: Path, aside: Path) -> None:
    if aside.exists() and not target.exists():
        aside.rename(target)


def sync_folder(folder: Path) -> None:
    """The names in it reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(a: Path, b: Path) -> bool:
    """False where the kernel, the C library or the file system has no atomic exchange."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(a))
