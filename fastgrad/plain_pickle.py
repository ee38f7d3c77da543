"""Pickles of foreign files, read as data: nothing in them is run, and no more memory is taken than they hold bytes."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

_TO_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")


def load(content: bytes, find_class: Callable[[str, str], Any] | None = None, *, encoding: str = "ASCII") -> Any:
    """The value of a pickle.

    find_class: (module, name) -> what the pickle asks for by that name; not given, or where it raises, the pickle is
        refused. Lists, dicts, texts and numbers need none.
    encoding: of texts that Python 2 wrote, as in ``pickle.loads``.

    Errors: pickle.UnpicklingError for what is refused; damaged pickles raise nearly anything.
    """
    _check(content)
    return _Unpickler(content, find_class, encoding).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, find_class: Callable[[str, str], Any] | None, encoding: str) -> None:
        super().__init__(io.BytesIO(content), encoding=encoding)
        self._find_class = find_class

    def find_class(self, module: str, name: str) -> Any:
        if self._find_class is None:
            raise pickle.UnpicklingError(f"it wants {module}.{name}; expected lists, dicts, texts and numbers alone")
        return self._find_class(module, name)


def _check(content: bytes) -> None:
    """pickle takes memory for the length that an operation states, and for the largest place of its memo, before it
    looks at what is there: 70 bytes can ask for gigabytes. pickletools reads the same operations and takes none."""
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if operation.name in _TO_MEMO and int(argument or 0) > number:
            raise pickle.UnpicklingError(f"operation {number} puts a value in place {argument} of the memo")
        if operation.name == "FRAME" and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"operation {number} states a frame of {argument} bytes")
