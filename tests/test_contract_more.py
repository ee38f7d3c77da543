"""The contract tests with Triton's interpreter on one case in ten, where those of every run take one in forty."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from contract_backends import TRITON_BACKENDS, needs_native

TESTS = Path(__file__).parent


@pytest.mark.slow
@needs_native
@pytest.mark.skipif(not TRITON_BACKENDS, reason="no triton that takes the kernels is installed")
def test_more_cases_are_interpreted():
    files = sorted(file for file in TESTS.glob("test_contract*.py") if file != Path(__file__))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files)]
    run = subprocess.run(
        command, cwd=TESTS.parent, env=os.environ | {"FASTGRAD_TRITON_CASES": "10"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    (cases,) = re.findall(r"Triton interpreted, one case in 10: ([\d,]+)", run.stdout)
    assert int(cases.replace(",", "")) > 50
