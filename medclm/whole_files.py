"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medclm.problems import DataError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def room_on_disk(what: str) -> Iterator[None]:
    """A file system that takes no more (full, quota, read-only) is a DataError: it is for the user to mend."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DataError(f"cannot write {what}: {os.strerror(error.errno).lower()}") from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """``write`` fills a temporary file beside ``path``, which then takes its place; ``path`` is untouched where it
    fails. Raises DataError as :func:`room_on_disk` does."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with room_on_disk(str(path)):
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
