"""What a look at the data side must not load."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "images",
    "images.flips",
    "privacy",
    "samples",
    "readers.brats",
    "readers.lidc",
    "readers.luna16",
    "readers.masks",
    "readers.rtstruct",
)
HEAVY = ("torch", "SimpleITK", "pydicom", "nibabel", "scipy", "pycocotools", "matplotlib", "pandas")


def test_import_loads_no_heavy_library():
    code = f"import sys, {', '.join(f'medclm.{name}' for name in MODULES)}; print(*(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
