"""The same bits on another machine: tests/portable, built for aarch64 and run by qemu, prints the stored hashes.

The hashes are those of x86-64, the same on every instruction set. After a deliberate change of the numeric contract:
`python tests/test_portable_bits.py` builds the program for this machine and stores its hashes anew.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "tests" / "portable" / "hashes.txt"
CROSS = "aarch64-linux-gnu-g++"
LIBRARIES = "/usr/aarch64-linux-gnu"  # what Debian's cross compiler links with


def tool(*names: str) -> str | None:
    """The first of some programs that is installed; those beside this Python come first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def missing(*programs: tuple[str, ...]) -> str:
    return ", ".join(" or ".join(names) for names in programs if tool(*names) is None)


@functools.cache
def build(name: str, flags: str = "", cross: bool = False) -> Path:
    """The program, built by CMake with the flags of the product and these after them."""
    folder = ROOT / "build" / "portable" / name
    configure = [
        *(tool("cmake"), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"),
        *("-DFASTGRAD_PYTHON=OFF", "-DFASTGRAD_PORTABLE_BITS=ON", f"-DFASTGRAD_EXTRA_FLAGS={flags}"),
    ]
    if cross:
        configure += ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={CROSS}"]
    for command in (configure, [tool("cmake"), "--build", str(folder), "--target", "portable_bits"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return folder / "portable_bits"


def hashes(*command: str | Path) -> dict[str, str]:
    """Group of results -> hash."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.rpartition(" ") for line in done.stdout.splitlines()]
    assert len({name for name, _, _ in lines}) == len(lines)
    return {name: value for name, _, value in lines}


def stored() -> dict[str, str]:
    return {name: value for name, _, value in (line.rpartition(" ") for line in STORED.read_text().splitlines())}


def differing(found: dict[str, str]) -> list[str]:
    expected = stored()
    assert len(expected) > 100, "the stored hashes are not those of the whole program"
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def emulated(program: Path) -> list[str | Path]:
    return [tool("qemu-aarch64-static", "qemu-aarch64"), "-L", LIBRARIES, program]


def needs_aarch64() -> None:
    if what := missing((CROSS,), ("qemu-aarch64-static", "qemu-aarch64"), ("cmake",), ("ninja",)):
        pytest.skip(f"not installed: {what} (Debian: g++-aarch64-linux-gnu, qemu-user-static)")


def needs_x86() -> None:
    if what := missing(("g++",), ("cmake",), ("ninja",)):
        pytest.skip(f"not installed: {what}")


def test_aarch64_has_the_bits_of_x86():
    needs_aarch64()
    assert differing(hashes(*emulated(build("aarch64", cross=True)))) == []


@pytest.mark.slow
def test_aarch64_with_scalable_vectors_has_the_same_bits():
    """The plain loops vectorized for SVE: lengths of vectors that are not those of the sources."""
    needs_aarch64()
    program = build("aarch64_sve", "-march=armv8.2-a+sve", cross=True)
    objdump = tool("aarch64-linux-gnu-objdump")
    assembly = subprocess.run([objdump, "-d", program], capture_output=True, text=True, check=True).stdout
    assert "whilelo" in assembly, "no loop was vectorized for SVE"
    assert differing(hashes(*emulated(program))) == []


@pytest.mark.slow
def test_every_instruction_set_of_this_machine():
    """What is stored is what is computed here, whatever the vectors' length."""
    needs_x86()
    program = build("native")
    sets = subprocess.run([program, "all"], capture_output=True, text=True, check=True).stdout.split()
    assert "baseline" in sets
    for name in sets:
        assert differing(hashes(program, name)) == [], name


@pytest.mark.slow
def test_contraction_changes_hashes():
    """aarch64 has fused multiply-adds in its baseline: a build that allows them must be seen, in every part."""
    needs_aarch64()
    found = differing(hashes(*emulated(build("aarch64_fused", "-ffp-contract=fast", cross=True))))
    for part in ("formula", "quantize", "normalize", "sgd", "adamw"):
        assert any(name.startswith(part) for name in found), part
    assert not any(name.startswith("kernel noise") for name in found), "integers have no contraction"


if __name__ == "__main__":
    STORED.write_text("".join(f"{name} {value}\n" for name, value in hashes(build("native")).items()))
    print(f"{len(stored())} hashes in {STORED}")
