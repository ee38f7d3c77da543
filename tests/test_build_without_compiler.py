"""Where nothing compiles the package is built all the same, without its native module, and says so."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(importlib.util.find_spec("pybind11") is None, reason="pybind11 is not installed")
@pytest.mark.parametrize("broken", ("compiler", "cmake"))
def test_a_failed_build_warns_and_goes_on(broken, tmp_path):
    """A missing compiler; a missing CMake: before, either was an error of the whole installation."""
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join([beside, os.environ["PATH"]]) if broken == "compiler" else str(tmp_path)
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temp"],
        cwd=ROOT,
        env=os.environ | {"CXX": "/nonexistent/c++", "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'building extension "fastgrad._native" failed' in done.stdout + done.stderr
    assert not list(tmp_path.rglob("_native*.so"))
