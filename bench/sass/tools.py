"""Runs nvcc, ptxas and nvdisasm: a .cu file to PTX, cubins, resources and SASS."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench.sass.parse import Function, parse

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'cuda'}")
FLAGS = ("-std=c++20", "--fmad=false", "-O3", *FOLDERS, "-DFASTGRAD_ISA=cuda")
PROCESSES = 2
MESSAGE_LINES = 12
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_ENTRY = re.compile(r"^(?:\.(?:visible|weak|extern)\s+)*\.(?:entry|func)\s+(?:\([^)]*\)\s*)?([\w$]+)", re.M)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


class ToolMissing(RuntimeError):
    pass


@dataclass
class Kernel:
    """One kernel, compiled for one architecture."""

    name: str  # as in the machine code
    arch: int
    function: Function
    registers: int = 0
    stack: int = 0
    local: int = 0
    shared: int = 0
    spill_stores: int = 0  # bytes
    spill_loads: int = 0
    threads: int | None = None  # per block, as far as the PTX tells
    ptx: str = ""
    ptx_error: str | None = None
    source: str = ""
    readable: str = ""

    def __post_init__(self) -> None:
        self.readable = self.readable or demangled(self.name)


@dataclass
class Build:
    kernels: list[Kernel] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@functools.cache
def tool(name: str) -> str:
    """Of the CUDA toolkit, or of the triton package (which brings ptxas, nvdisasm and cuobjdump)."""
    found = shutil.which(name)
    if found is None and (spec := importlib.util.find_spec("triton")) and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / "backends" / "nvidia" / "bin" / name
        found = str(path) if path.exists() else None
    if found is None:
        raise ToolMissing(f"{name} was found neither on PATH nor in the triton package")
    return found


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True)


@functools.cache
def demangled(name: str) -> str:
    if not name.startswith("_Z"):
        return name
    filt = shutil.which("cu++filt") or shutil.which("c++filt")
    return _run(filt, name).stdout.strip() or name if filt else name


def _checked(*arguments: str) -> str:
    done = _run(*arguments)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError("\n".join([f"{Path(arguments[0]).name} failed:", *lines[:MESSAGE_LINES]]))
    return done.stdout


def resources(cubin: Path) -> dict[str, tuple[int, int, int, int]]:
    """Registers, stack, shared and local bytes of every function of a cubin."""
    found, name = {}, ""
    for line in _checked(tool("cuobjdump"), "-res-usage", str(cubin)).splitlines():
        if "Function " in line:
            name = line.strip().removeprefix("Function ").rstrip(":")
        elif usage := _USAGE.search(line):
            found[name] = tuple(map(int, usage.groups()))
    return found


def spills(log: str) -> dict[str, tuple[int, int]]:
    """Bytes of spill stores and loads, from what ``ptxas -v`` printed."""
    found, name = {}, ""
    for line in log.splitlines():
        if "Compiling entry function" in line or "Function properties for" in line:
            name = line.split("'")[1] if "'" in line else line.split()[-1]
        elif numbers := _SPILLS.search(line):
            found[name] = (int(numbers[2]), int(numbers[3]))
    return found


def entries(ptx: str) -> dict[str, str]:
    """The text of every entry and device function of a PTX file."""
    starts = [(found.start(), found[1]) for found in _ENTRY.finditer(ptx)]
    ends = [*(start for start, _ in starts[1:]), len(ptx)]
    return {name: ptx[start:end] for (start, name), end in zip(starts, ends, strict=True)}


def block_size(ptx: str) -> int | None:
    found = re.search(r"\.(?:maxntid|reqntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", ptx)
    return int(found[1]) * int(found[2] or 1) * int(found[3] or 1) if found else None


def from_cubin(cubin: Path, arch: int, ptx: str, log: str = "", source: str = "") -> list[Kernel]:
    functions = parse(_checked(tool("nvdisasm"), "-c", str(cubin)))
    usage, spilled, texts = resources(cubin), spills(log), entries(ptx)
    inner = "".join(text for name, text in texts.items() if name not in functions)  # functions that were not inlined
    kernels = []
    for name, function in functions.items():
        registers, stack, shared, local = usage.get(name, (0, 0, 0, 0))
        stores, loads = spilled.get(name, (0, 0))
        text = texts[name] + inner if name in texts else ""
        numbers = (registers, stack, local, shared, stores, loads, block_size(text))
        kernels.append(Kernel(name, arch, function, *numbers, text, source=source))
    return kernels


@dataclass(frozen=True)
class Unit:
    """One run of the compiler."""

    source: Path
    arch: int
    flags: tuple[str, ...] = FLAGS
    variant: str = ""  # of several compilations of one file

    @property
    def name(self) -> str:
        return f"{self.source.name} {self.variant}".strip()


@functools.cache
def _headers() -> str:
    """A digest of everything a kernel may include."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix in (".h", ".cuh", ".cu"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def version(name: str) -> str:
    """The last line but one that ``--version`` prints: the release."""
    lines = [line for line in _checked(tool(name), "--version").splitlines() if "release" in line]
    return lines[-1].strip() if lines else "unknown"


def compile_unit(unit: Unit, folder: Path) -> list[Kernel]:
    """One nvcc run for PTX and one of ptxas for the cubin; what is in the folder already is used."""
    source, arch, flags = unit.source, unit.arch, unit.flags
    stem = ".".join(part for part in (source.stem, unit.variant, f"sm_{arch}") if part)
    identity = "\n".join([source.read_text(), *flags, str(arch), _headers(), version("nvcc"), version("ptxas")])
    stem += "." + hashlib.sha256(identity.encode()).hexdigest()[:16]
    ptx, cubin, log = (folder / f"{stem}.{kind}" for kind in ("ptx", "cubin", "log"))
    if log.exists():
        return from_cubin(cubin, arch, ptx.read_text(), log.read_text(), unit.name)
    passed = [flag for flag in flags if not flag.startswith("-maxrregcount")]
    _checked(tool("nvcc"), *passed, f"-arch=compute_{arch}", "-ptx", "-o", str(ptx), str(source))
    shared = [flag for flag in flags if flag.startswith(("--fmad", "-maxrregcount"))]
    done = _run(tool("ptxas"), "-v", "-O3", f"-arch=sm_{arch}", *shared, "-o", str(cubin), str(ptx))
    if done.returncode:
        raise RuntimeError(f"ptxas failed on {source.name}:\n{done.stderr.strip()}")
    log.write_text(done.stderr + done.stdout)  # last: the unit is complete
    return from_cubin(cubin, arch, ptx.read_text(), log.read_text(), unit.name)


def compile_all(units: list[Unit], folder: Path) -> Build:
    """At most two at a time; the kernels in the order given."""
    build = Build()
    with ThreadPoolExecutor(PROCESSES) as pool:
        futures = [pool.submit(compile_unit, unit, folder) for unit in units]
        for unit, future in zip(units, futures, strict=True):
            try:
                build.kernels += future.result()
            except RuntimeError as error:
                build.failures.append(f"{unit.name} for sm_{unit.arch}: {error}")
    return build
