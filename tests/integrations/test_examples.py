"""The examples are short, and learn."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS = {
    "trainer": ("transformers", "accelerate"),
    "lightning_module": ("lightning",),
    "accelerate_loop": ("accelerate",),
    "several_ranks": (),
}
TORCHRUN = (
    "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
)  # fmt: skip
COMMANDS = {path.stem: [path] for path in EXAMPLES if path.stem != "several_ranks"} | {
    "several_ranks": [*TORCHRUN, ROOT / "examples" / "several_ranks.py"],
    "several_ranks --shard": [*TORCHRUN, ROOT / "examples" / "several_ranks.py", "--shard"],
}


def test_every_example_is_known():
    assert {path.stem for path in EXAMPLES} == set(NEEDS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short(path):
    assert len(path.read_text().splitlines()) <= 40


@pytest.mark.parametrize("command", COMMANDS)
def test_example(command, tmp_path):
    """Runs in a folder of its own, on one thread, without a network; the loss goes down."""
    for name in NEEDS[command.partition(" ")[0]]:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install -e .[integrations]")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    words = [sys.executable, *map(str, COMMANDS[command])]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (first, last) = re.search(r"^loss ([\d.]+) -> ([\d.]+)", done.stdout, re.MULTILINE).groups()
    assert float(last) < 0.8 * float(first), done.stdout
