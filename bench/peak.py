"""Peak memory of a piece of work, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Writing 5 sets the kernel's record of the largest resident size back to the present one.
_PROGRAM = """
import gc, torch
torch.set_num_threads(1)
def resident(name):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(name))
{setup}
work = {work}
gc.collect()
open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS")
work()
print(resident("VmHWM") - before)
"""


def peak_bytes(setup: str, work: str) -> int:
    """By how many bytes the resident memory grew at most while ``work()`` ran, after the lines of ``setup``."""
    program = _PROGRAM.format(setup=setup, work=work)
    # Blocks go back to the system when they are freed, and are counted again when they are taken again.
    environment = dict(os.environ, PYTHONPATH=str(ROOT), MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])
