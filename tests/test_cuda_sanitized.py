"""The CUDA kernels, emulated, under the sanitizers: no overrun, no race, one digest whatever the schedule."""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # five builds under sanitizers, minutes each

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "csrc/cuda/kernels.cu",
    "csrc/cuda/host.cu",
    "tests/cuda_on_cpu/sanitized.cpp",
    "tests/cuda_on_cpu/cuda_on_cpu.cpp",
)
FLAGS = (
    *("-std=c++20", "-O1", "-g1", "-ffp-contract=off", "-fno-math-errno", "-Wno-unknown-pragmas"),
    *("-Icsrc", "-Itests/cuda_on_cpu", "-DFASTGRAD_ISA=emulated", "-DFASTGRAD_CUDA_FORMAT=fp8_e4m3"),
)

ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREAD = ("-fsanitize=thread", "-DCUDA_ON_CPU_STRICT_FENCES")  # only fences order memory


@cache
def has(flag: str) -> bool:
    if shutil.which("g++") is None:
        return False
    found = subprocess.run(
        ["g++", flag, "-x", "c++", "-", "-o", "/dev/null"], input="int main() {}", capture_output=True, text=True
    )
    return found.returncode == 0


def build(folder: Path, *flags: str) -> Path:
    if not has(flags[0]):
        pytest.skip(f"g++ {flags[0]} does not work here")
    program = folder / "sweep"
    command = ["g++", *FLAGS, *flags, "-o", program, "-x", "c++", *SOURCES]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    return program


def run(program: Path, schedules: int) -> subprocess.CompletedProcess:
    # The thread sanitizer wants its memory where randomized addresses may lie.
    fixed = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []
    return subprocess.run([*fixed, program, str(schedules)], capture_output=True, text=True, timeout=300)


def test_no_overrun_and_one_digest(tmp_path):
    done = run(build(tmp_path, *ADDRESS), 12)
    assert done.returncode == 0, done.stderr[-3000:]
    digests = done.stdout.split()
    assert len(digests) == 12 and len(set(digests)) == 1


def test_no_race(tmp_path):
    """Shared memory, work space, what blocks wait for: with block counts and orders of several schedules."""
    done = run(build(tmp_path, *THREAD), 4)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(set(done.stdout.split())) == 1


def test_an_overrun_is_seen(tmp_path):
    """A tensor one element shorter than the kernel was told."""
    done = run(build(tmp_path, *ADDRESS, "-DOVERRUN"), 1)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr


@pytest.mark.parametrize("planted", ("PLANTED_LATE_READER", "PLANTED_NO_FENCE"))
def test_a_race_is_seen(planted, tmp_path):
    """A thread that reads a block's result late; an arrival that is announced without a fence."""
    done = run(build(tmp_path, *THREAD, f"-D{planted}"), 2)
    assert done.returncode != 0 and "data race" in done.stderr
