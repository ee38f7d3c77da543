"""Runs the first Python example of a README:  python packaging/readme_example.py README.md

Needs nothing but what the example imports, so that it can judge a fresh installation. Says which kernels ran; with
FASTGRAD_REQUIRE_NATIVE=1 an installation without the native module is an error.
"""

import os
import re
import sys
from pathlib import Path

import fastgrad
from fastgrad import library

readme = Path(sys.argv[1]).read_text()
first = re.search(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
if first is None:
    sys.exit(f"{sys.argv[1]}: no Python example found")
names: dict = {}
exec(compile(first[1], sys.argv[1], "exec"), names)
loss = float(names["loss"].detach())
if not 0.0 < loss < 2.0:  # ten classes: guessing is 2.3
    sys.exit(f"the example ran, but its loss is {loss}")
if os.environ.get("FASTGRAD_REQUIRE_NATIVE") == "1" and library.native is None:
    sys.exit(f"native module: {library.native_state}")
print(f"{fastgrad.__file__}: loss {loss:.3f} on kernels: {library.instruction_set()}")
