"""The CPU kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

Twice: as the program of tests/portable, all of whose code is instrumented, threads included, and which must still
print the stored hashes; and as the Python module, under the contract tests and generated op calls. `pytest -m slow`
runs them.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"
THREAD = "-O1 -g1 -fsanitize=thread"
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",  # Python itself leaks at its end
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}
pytestmark = pytest.mark.slow


@cache
def build(name: str, flags: str, target: str, *configure: str) -> Path:
    """The folder in which CMake built a target with a sanitizer; skips where a tool is missing."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if lacking := [tool for tool in ("g++", "cmake", "ninja") if shutil.which(tool, path=path) is None]:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    probe = ["g++", *flags.split(), "-x", "c++", "-", "-o", os.devnull]
    if subprocess.run(probe, input="int main() {}", capture_output=True, text=True).returncode:
        pytest.skip(f"g++ {flags} does not work here")
    folder, last = ROOT / "build" / "sanitized" / name, flags.replace(" ", ";")
    commands = (
        ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", f"-DFASTGRAD_EXTRA_FLAGS={last}", *configure],
        ["cmake", "--build", str(folder), "--target", target],
    )
    for command in commands:
        done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return folder


def program(name: str, flags: str) -> Path:
    return build(name, flags, "portable_bits", "-DFASTGRAD_PYTHON=OFF", "-DFASTGRAD_PORTABLE_BITS=ON") / "portable_bits"


def run(what: Path, argument: str) -> subprocess.CompletedProcess:
    # The thread sanitizer wants its memory where randomized addresses may lie.
    fixed = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []
    command = [*fixed, str(what), argument]
    return subprocess.run(command, env=os.environ | OPTIONS, capture_output=True, text=True, timeout=1500)


def sets_of(what: Path) -> list[str]:
    return run(what, "all").stdout.split()


@pytest.mark.parametrize("name, flags", (("address", ADDRESS), ("thread", THREAD)), ids=("address", "thread"))
def test_every_result_of_the_program(name, flags):
    """No report on any instruction set, with one thread and with three, and the stored bits."""
    built = program(name, flags)
    expected = (ROOT / "tests" / "portable" / "hashes.txt").read_text()
    assert "baseline" in sets_of(built)
    for instruction_set in sets_of(built):
        done = run(built, instruction_set)
        assert done.returncode == 0, f"{instruction_set}: {done.stderr[-3000:]}"
        assert done.stdout == expected, instruction_set


def test_an_overrun_is_seen():
    done = run(program("address", ADDRESS), "planted-overrun")
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr


def test_a_race_is_seen():
    done = run(program("thread", THREAD), "planted-race")
    assert done.returncode != 0 and "data race" in done.stderr


SELECTED = (
    ("test_fuzz_ops.py", "test_generated_calls or test_adamw_factored"),
    ("test_contract.py", ""),
    ("test_contract_layouts.py", ""),
    ("test_contract_normalize.py", ""),
    ("test_contract_sgd.py", ""),
    ("test_contract_adamw.py", ""),
    ("test_contract_shards.py", ""),
    ("numerics/test_rounding.py", ""),
)


def in_sanitized_python(*arguments: str) -> subprocess.CompletedProcess:
    """pytest in a Python into which the sanitizer was loaded first, on the module built with it."""
    pybind11 = pytest.importorskip("pybind11")
    configure = (
        *("-DFASTGRAD_CUDA=OFF", f"-DPython_EXECUTABLE={sys.executable}"),
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    )
    (module,) = build("module", ADDRESS, "_native", *configure).glob("_native*.so")
    find = lambda library: subprocess.run(  # noqa: E731
        ["g++", f"-print-file-name={library}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        "LD_PRELOAD": " ".join(map(find, ("libasan.so", "libubsan.so", "libstdc++.so"))),
        "FASTGRAD_SANITIZED": str(module),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "sanitized_native", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | OPTIONS | environment, capture_output=True, text=True, timeout=3600
    )


@pytest.mark.parametrize("file, keyword", SELECTED, ids=[file for file, _ in SELECTED])
def test_the_module_under_its_tests(file, keyword):
    done = in_sanitized_python(f"tests/{file}", *(("-k", keyword) if keyword else ()))
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert " passed" in done.stdout and "sanitized module" in done.stdout


OVERRUN = """
import ctypes, torch, fastgrad

def test():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    columns = {"n": [3000], "flags": [0], "grad": [libc.malloc(ctypes.c_size_t(2999 * 4))]}
    table = torch.empty(2, 16, dtype=torch.float64)
    fastgrad.library.native.sweep(columns, {"count": 1}, table.data_ptr())
"""


def test_an_overrun_of_the_module_is_seen(tmp_path):
    (tmp_path / "test_overrun.py").write_text(OVERRUN)
    done = in_sanitized_python("-s", str(tmp_path / "test_overrun.py"))
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stdout + done.stderr
