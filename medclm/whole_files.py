"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from medclm.problems import DataError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # met in writing alone, wherever they come from
NOT_ALLOWED = (errno.EACCES, errno.EPERM)  # in reading, too


@contextmanager
def room_on_disk(what: str, errors: tuple[int, ...] = FULL) -> Iterator[None]:
    """A file system that takes no more (full, quota, read-only) is a DataError: it is for the user to mend."""
    try:
        yield
    except OSError as error:
        if error.errno not in errors:
            raise
        raise DataError(f"cannot write {what}: {os.strerror(error.errno).lower()}") from error


def writing(path: Path) -> AbstractContextManager[None]:
    """Around what does nothing else than to write ``path``: also what is not allowed is a DataError."""
    return room_on_disk(str(path), (*FULL, *NOT_ALLOWED))


def make_folder(path: Path, mode: int = 0o777) -> None:
    """With its parents, where it is not there yet. Raises DataError where it cannot be made."""
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=mode, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise DataError(f"cannot make the folder {path}: a file is in its place") from None


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """``write`` fills a temporary file beside ``path``, which then takes its place; ``path`` is untouched where it
    fails. Raises DataError as :func:`writing` does."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):  # where nothing can be written, nothing can be deleted
            temporary.unlink()
