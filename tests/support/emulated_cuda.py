"""The CUDA kernels as C++ on the CPU (tests/cuda_on_cpu): built when first asked for."""

from __future__ import annotations

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


@functools.cache
def load() -> tuple[ModuleType | None, str]:
    """The module, or why there is none."""
    try:
        import pybind11
    except ImportError:
        return None, "pybind11 is not installed"
    if shutil.which("cmake", path=_path()) is None or shutil.which("ninja", path=_path()) is None:
        return None, "cmake or ninja is not installed"
    if shutil.which("c++") is None:
        return None, "there is no C++ compiler"
    BUILD.mkdir(parents=True, exist_ok=True)
    configure = [
        *("cmake", str(ROOT), "-G", "Ninja", "-DFASTGRAD_PYTHON=OFF", "-DFASTGRAD_EMULATED_CUDA=ON"),
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"),
    ]
    for command in (configure, ["cmake", "--build", ".", "--target", "_emulated_cuda"]):
        done = subprocess.run(
            command, cwd=BUILD, env=os.environ | {"PATH": _path()}, capture_output=True, text=True, timeout=900
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    (built,) = BUILD.glob("_emulated_cuda*.so")
    spec = importlib.util.spec_from_file_location("_emulated_cuda", built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, "built"


def _path() -> str:
    """Commands installed beside this Python come first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
