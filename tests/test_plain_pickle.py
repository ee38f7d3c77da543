"""Pickles read as data."""

from __future__ import annotations

import pickle
import struct
import tracemalloc

import pytest

from fastgrad import plain_pickle

VALUE = [{"question": "is it?", "answer": "yes", "image": "test_0001", "n": [1, 2.5, None, True, "x" * 300]}] * 3


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back(protocol):
    assert plain_pickle.load(pickle.dumps(VALUE, protocol)) == VALUE


def test_nothing_is_run():
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    with pytest.raises(pickle.UnpicklingError, match=r"wants builtins.print"):
        plain_pickle.load(pickle.dumps(Evil()))
    asked = []
    plain_pickle.load(pickle.dumps(Evil()), lambda module, name: asked.append((module, name)) or str)
    assert asked == [("builtins", "print")]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"Nr" + struct.pack("<I", 1 << 31) + b".", pickle.UnpicklingError),  # a place in the memo
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 33) + b"N.", pickle.UnpicklingError),  # a frame
        (b"T" + struct.pack("<i", (1 << 31) - 1) + b"ab.", ValueError),  # a string
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 34) + b"ab.", ValueError),  # bytes
    ],
    ids=["memo", "frame", "string", "bytes"],
)
def test_no_memory_for_what_is_not_there(content, error):
    tracemalloc.start()
    try:
        with pytest.raises(error):
            plain_pickle.load(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
