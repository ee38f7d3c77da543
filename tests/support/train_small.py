"""Trainings in processes of their own, for tests that kill them or take their disk away.

They are forked by a server that has imported everything once, and has no threads. As a program (for torchrun):

    python train_small.py SET OUT '{"settings": "as JSON"}'
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch

from medclm.problems import DataError
from medclm.training.loop import train
from medclm.training.run_folder import RunFolder
from medclm.training.settings import Settings

PATIENCE = 300  # seconds in which a process must have got somewhere
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["train_small", "medclm.models.tiny"])


class Training:
    """One process; ``largest_file``: bytes that a file of it may have."""

    def __init__(self, folder: Path, out: Path, settings: Settings, largest_file: int = 0) -> None:
        self.out = out
        self._said = out.with_name(f"{out.name}.error")
        self._process = _server.Process(target=_train, args=(folder, out, settings, self._said, largest_file))
        self._process.start()

    def kill_after(self, steps: int) -> None:
        """kill -9 when the log has that many."""
        deadline = time.monotonic() + PATIENCE
        while not any(line["step"] >= steps for line in RunFolder(self.out).lines()):
            if not self._process.is_alive() or time.monotonic() > deadline:
                self._process.kill()
                raise AssertionError(f"ended, or did nothing, before step {steps}: {self.error()}")
            time.sleep(0.005)
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()

    def end(self) -> int:
        """The exit code."""
        self._process.join(PATIENCE)
        if self._process.exitcode is None:
            self._process.kill()
        return self._process.exitcode

    def error(self) -> str:
        return self._said.read_text() if self._said.exists() else ""


def _train(folder: Path, out: Path, settings: Settings, said: Path, largest_file: int) -> None:
    torch.set_num_threads(1)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        train(folder, out, settings, show=False)
    except DataError as error:
        said.write_text(str(error))
        sys.exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), Path(sys.argv[2]), Settings(**json.loads(sys.argv[3])))
