"""Packaging only: runs CMake and puts the module it builds into the package.

FASTGRAD_CUDA=0 leaves the CUDA kernels out; FASTGRAD_CUDA_ARCHS=80,90 says for which compute capabilities they are
compiled (from 75 on; default: what nvcc knows of 80, 90 and 100).
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
    """Builds CMakeLists.txt; a failure leaves a package that runs on its PyTorch references."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            str(ROOT),
            "-G",
            "Ninja",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DFASTGRAD_CUDA={'OFF' if os.environ.get('FASTGRAD_CUDA') == '0' else 'ON'}",
            f"-DFASTGRAD_CUDA_ARCHS={os.environ.get('FASTGRAD_CUDA_ARCHS', '').replace(',', ';')}",
        ]
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        try:
            subprocess.run(configure, cwd=build, check=True)
            subprocess.run(["cmake", "--build", ".", "--parallel", jobs], cwd=build, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(str(error)) from error  # what setuptools forgives an optional extension


setup(
    # The Triton kernels lie at the root; the bare name triton_kernels belongs to another package. Of csrc only the
    # headers are installed (fastgrad.get_include).
    packages=[*find_packages(include=["fastgrad*", "medclm*"]), "fastgrad.triton_kernels", "fastgrad.csrc"],
    package_dir={"fastgrad.triton_kernels": "triton_kernels", "fastgrad.csrc": "csrc"},
    # optional: where no compiler is found the build warns and the references remain.
    ext_modules=[Extension("fastgrad._native", sources=[], optional=True)],
    cmdclass={"build_ext": CMakeBuild},
)
