"""`fastgrad.triton_kernels`, also where the package is not installed but run from its source tree."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

NAME = "fastgrad.triton_kernels"
SOURCES = Path(__file__).resolve().parents[2] / "triton_kernels"


def load(module: str = "") -> ModuleType:
    """The package, or a module of it."""
    if NAME not in sys.modules and importlib.util.find_spec(NAME) is None:
        places = [str(SOURCES)]
        spec = importlib.util.spec_from_file_location(NAME, SOURCES / "__init__.py", submodule_search_locations=places)
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    return importlib.import_module(f"{NAME}.{module}" if module else NAME)
