"""A pytest plugin: tests run on the native module at $FASTGRAD_SANITIZED, built by test_cpu_sanitized.py.

Only the C++ of the CPU: the emulated GPU has sanitizers of its own (test_cuda_sanitized.py).
"""

from __future__ import annotations

import importlib.util
import os
import sys

import emulated_cuda

_spec = importlib.util.spec_from_file_location("fastgrad._native", os.environ["FASTGRAD_SANITIZED"])
sys.modules["fastgrad._native"] = _native = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_native)
emulated_cuda.missing = lambda: "left out under a sanitizer"
sys.modules["triton"] = None


def pytest_terminal_summary(terminalreporter) -> None:
    from fastgrad import library

    assert library.native is _native
    terminalreporter.write_line(f"sanitized module: {library.native.__file__}")
