"""The parent: starts a contestant in a process of its own, watches the machine's memory, stops what does not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from bench.memory_tiers import resident
from bench.memory_tiers.contestants import CONTESTANTS

ROOT = Path(__file__).resolve().parents[2]
RESERVE = 1 << 30  # bytes of MemAvailable that a contestant has to leave to others
POLL = 0.2  # seconds
Result = dict[str, object]


def environment(threads: int, cache: Path) -> dict[str, str]:
    """Of every contestant's process; ``cache`` is empty, so a compiler's time is in the first step."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | resident.MALLOC | {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # a waiting thread sleeps: on a busy machine spinning would count as work
        "PYTHONPATH": os.pathsep.join(paths),
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # compile in the measured process, no pool of workers beside it
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


def missing(name: str) -> str | None:
    """Why a contestant cannot be started, as far as its packages say; None if they are there."""
    try:
        CONTESTANTS[name].versions()
        metadata.version("transformers")
    except metadata.PackageNotFoundError as error:
        return f"not installed: {error.name}"
    return None


def run(name: str, shape: str, *, steps: int, length: int, threads: int, timeout: float) -> Result:
    """One contestant on one shape; ``failed`` says why there are no numbers."""
    result: Result = {"contestant": name, "shape": shape, "steps": steps, "length": length, "threads": threads}
    if reason := missing(name):
        return result | {"failed": reason}
    request = json.dumps(
        {"contestant": name, "shape": shape, "steps": steps, "length": length, "threads": threads}
    )
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder:
        out, errors = Path(folder) / "out.json", Path(folder) / "stderr"
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.memory_tiers.child", request, str(out)],
                env=environment(threads, Path(folder) / "inductor"), stdout=subprocess.DEVNULL, stderr=stderr,
            )  # fmt: skip
            stopped = _watch(process, timeout)
        if stopped or not out.exists():
            lines = errors.read_text().strip().splitlines()
            signalled = f"ended by {signal.Signals(-process.returncode).name}" if process.returncode < 0 else ""
            return result | {"failed": stopped or signalled or (lines[-1] if lines else f"rc {process.returncode}")}
        return result | json.loads(out.read_text())


def _watch(process: subprocess.Popen, timeout: float) -> str | None:
    """Waits for the end; kills it and says why when the machine runs short or the time is over."""
    begin, largest = time.monotonic(), 0
    while process.poll() is None:
        try:
            largest = max(largest, resident.now(process.pid))
        except (OSError, RuntimeError):  # it ended between the two lines
            continue
        reason = None
        if (left := resident.available()) < RESERVE:
            reason = f"does not fit: stopped at {largest / 2**30:.1f} GiB with {left / 2**30:.1f} GiB left to others"
        elif time.monotonic() - begin > timeout:
            reason = f"not done after {timeout:.0f} s, at {largest / 2**30:.1f} GiB"
        if reason:
            process.kill()
            process.wait()
            return reason
        time.sleep(POLL)
    return None
