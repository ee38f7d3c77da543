"""Packaging only: runs CMake and puts the module it builds into the package.

FASTGRAD_CUDA=0 leaves the CUDA kernels out; FASTGRAD_CUDA_ARCHS=80,90 says for which compute capabilities they are
compiled (from 75 on; default: what nvcc knows of 80, 90 and 100). A native build that fails leaves a package that runs
on its PyTorch references, with a warning in the log and another at `import fastgrad`; with FASTGRAD_REQUIRE_NATIVE=1,
as release wheels are built, it is an error. FASTGRAD_NATIVE=0 builds no native module: a wheel for every platform.
"""

import os
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Builds CMakeLists.txt; setuptools turns a CompileError of an optional extension into a warning."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # What an earlier build left must not be packaged beside newer sources if this one fails.
        target.unlink(missing_ok=True)
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            str(ROOT),
            "-G",
            "Ninja",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DFASTGRAD_CUDA={'OFF' if os.environ.get('FASTGRAD_CUDA') == '0' else 'ON'}",
            f"-DFASTGRAD_CUDA_ARCHS={os.environ.get('FASTGRAD_CUDA_ARCHS', '').replace(',', ';')}",
        ]
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        try:
            subprocess.run(configure, cwd=build, check=True)
            subprocess.run(["cmake", "--build", ".", "--parallel", jobs], cwd=build, check=True)
            if not target.exists():
                raise FileNotFoundError(f"CMake ended without {target.name}")
        except (OSError, subprocess.CalledProcessError) as error:
            if self.editable_mode:  # the tree itself is what will be imported
                (ROOT / "fastgrad" / target.name).unlink(missing_ok=True)
            raise CompileError(
                f"{error}\n*** fastgrad: the native module was NOT built (it needs a C++20 compiler, see above). The "
                "package works without it, on its slower PyTorch references; `fastgrad info` says what runs. ***"
            ) from error


with_native = os.environ.get("FASTGRAD_NATIVE") != "0"
required = os.environ.get("FASTGRAD_REQUIRE_NATIVE") == "1"
setup(
    # The Triton kernels lie at the root; the bare name triton_kernels belongs to another package. Of csrc only the
    # headers are installed (fastgrad.get_include).
    packages=[*find_packages(include=["fastgrad*", "medclm*"]), "fastgrad.triton_kernels", "fastgrad.csrc"],
    package_dir={"fastgrad.triton_kernels": "triton_kernels", "fastgrad.csrc": "csrc"},
    ext_modules=[Extension("fastgrad._native", sources=[], optional=not required)] if with_native else [],
    cmdclass={"build_ext": CMakeBuild},
)
