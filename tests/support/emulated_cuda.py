"""The CUDA kernels as C++ on the CPU (tests/cuda_on_cpu): built when first asked for."""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "emulated"


def missing() -> str | None:
    """Why it cannot be built; None where everything is there."""
    if importlib.util.find_spec("pybind11") is None:
        return "pybind11 is not installed"
    if shutil.which("cmake", path=_path()) is None or shutil.which("ninja", path=_path()) is None:
        return "cmake or ninja is not installed"
    return "there is no C++ compiler" if shutil.which("c++") is None else None


@functools.cache
def load() -> tuple[ModuleType | None, str]:
    """The module, or why there is none. Building it takes minutes: a run without tests of it does not ask."""
    if reason := missing():
        return None, reason
    import pybind11

    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:  # of several processes of one run of the tests, one builds
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build(pybind11.get_cmake_dir())
    (built,) = BUILD.glob("_emulated_cuda*.so")
    spec = importlib.util.spec_from_file_location("_emulated_cuda", built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, "built"


def _build(pybind11_folder: str) -> None:
    configure = [
        *("cmake", str(ROOT), "-G", "Ninja", "-DFASTGRAD_PYTHON=OFF", "-DFASTGRAD_EMULATED_CUDA=ON"),
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11_folder}"),
    ]
    for command in (configure, ["cmake", "--build", ".", "--target", "_emulated_cuda"]):
        done = subprocess.run(
            command, cwd=BUILD, env=os.environ | {"PATH": _path()}, capture_output=True, text=True, timeout=900
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def _path() -> str:
    """Commands installed beside this Python come first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
