"""Files that appear complete or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(path: Path, mode: str) -> Iterator[IO]:
    """A file that takes the place of ``path`` when it is complete and on the disk, or never."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        newline, encoding = (None, None) if "b" in mode else ("", "utf-8")
        with temporary.open(mode, newline=newline, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing can be deleted
            temporary.unlink()
    if hasattr(os, "O_DIRECTORY"):  # the rename itself survives a power cut only once its folder is written
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
