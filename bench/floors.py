"""The floors: plain C++ loops that move the same bytes, compiled on the fly and run on the same tensors."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import platform
import shutil
import subprocess
import tempfile
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.machine import cpu_model
from bench.shapes import Workspace

SOURCE = Path(__file__).with_name("floors.cpp")
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-fno-strict-aliasing"),
    *(
        "-fassociative-math",
        "-fno-signed-zeros",
        "-fno-trapping-math",
        "-fno-math-errno",
    ),  # not FTZ: no -ffast-math
    *(("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()),
)
BODIES = ("nothing", "to_u16", "to_u8", "in_place", "momentum", "adamw", "from_u8")


class NoCompiler(RuntimeError):
    pass


@dataclass(frozen=True)
class Floor:
    """One loop. ``read_first``: sums the gradients before, in windows of whole tensors (0: all at once)."""

    body: str
    read_first: bool = False
    streaming: bool = False
    window: int = 0

    @property
    def name(self) -> str:
        words = [] if self.body == "nothing" else [self.body]
        if self.read_first:
            place = f", then by {self.window >> 10} k" if self.window else ", then" if words else ""
            words.insert(0, f"read{place}")
        return " ".join(words) + (" streaming" if self.streaming else "")


def _compiler() -> str:
    names = [os.environ.get("CXX"), "g++", "c++"]
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        raise NoCompiler("floors: no C++ compiler found (looked for $CXX, g++, c++); floors.cpp needs one")
    return found


def _torch_openmp() -> str | None:
    """The OpenMP runtime of torch; sharing it shares its threads, which may spin after a call."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    return next((path for line in lines if "gomp" in (path := line.split()[-1])), None)


@functools.cache
def load() -> ctypes.CDLL:
    """Compiles floors.cpp, once for a source, compiler and processor, and loads it."""
    compiler, openmp = _compiler(), _torch_openmp()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    identity = "\n".join(
        [SOURCE.read_text(), *FLAGS, version, cpu_model(), platform.machine(), str(openmp is None)]
    )
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastgrad"
    library = folder / f"floors-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            compiled, built = Path(temporary) / "floors.o", Path(temporary) / "floors.so"
            # Linked without -fopenmp, the runtime's names are found in the one torch has loaded.
            link = ["-shared", str(compiled), "-o", str(built), *([] if openmp else ["-fopenmp"])]
            for arguments in ([*FLAGS, "-c", str(SOURCE), "-o", str(compiled)], link):
                done = subprocess.run([compiler, *arguments], capture_output=True, text=True)
                if done.returncode:
                    raise NoCompiler(
                        f"floors: {Path(compiler).name} could not compile floors.cpp:\n{done.stderr}"
                    )
            os.replace(built, library)
    if openmp:
        ctypes.CDLL(openmp, mode=ctypes.RTLD_GLOBAL)
    loaded = ctypes.CDLL(str(library))
    loaded.floor_run.restype = ctypes.c_double
    return loaded


def has_streaming() -> bool:
    return bool(load().floor_has_streaming())


class Addresses:
    """Start offsets and addresses of a workspace; keeps what it points to alive."""

    def __init__(self, work: Workspace, body: str) -> None:
        self.work = work
        self.seconds = work.momenta
        if body == "adamw":
            self.seconds = [torch.zeros_like(t) for t in work.momenta]
        elif body == "from_u8":  # what is restored has the dtype of the gradients
            self.seconds = [torch.zeros_like(t) for t in work.grads]
        self.outs = [torch.empty(t.shape, dtype=torch.int16) for t in work.grads]
        sizes = [t.numel() for t in work.grads]
        columns = [array("q", itertools.accumulate(sizes, initial=0))]
        lists = (work.grads, self.outs, work.params, work.momenta, self.seconds)
        columns += [array("q", [t.data_ptr() for t in tensors]) for tensors in lists]
        self.columns = columns
        self.arguments = [ctypes.c_int64(len(sizes)), *(ctypes.c_void_p(c.buffer_info()[0]) for c in columns)]


def bind(
    floor: Floor, work: Workspace, *, a: float = 1.0, c: float = 0.0, mu: float = 0.9, lr: float = 1e-3
) -> Callable[[], float]:
    """A call without arguments: the loop over the tensors of a workspace, with torch's number of threads."""
    if floor.streaming and not has_streaming():
        raise NoCompiler("floors: no streaming stores on this machine")
    addresses = Addresses(work, floor.body)
    run = load().floor_run
    arguments = [
        *addresses.arguments,
        work.grads[0].element_size(),
        BODIES.index(floor.body),
        int(floor.read_first),
        int(floor.streaming),
        ctypes.c_int64(floor.window),
        *map(ctypes.c_float, (a, c, mu, lr)),
        torch.get_num_threads(),
    ]

    def call() -> float:
        return run(*arguments)

    call.addresses = addresses  # type: ignore[attr-defined]
    return call
