"""Commands of the two programs in processes of their own, which are killed or whose disk is full.

They are forked by a server that has imported everything once, and has no threads.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import fastgrad.cli
import medclm.cli

PATIENCE = 300  # seconds
MAIN = {"fastgrad": fastgrad.cli.main, "medclm": medclm.cli.main}
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    ["commands", "fastgrad.cifar.cli", "medclm.models.tiny", "medclm.training.loop", "medclm.evaluation.running"]
)


class Command:
    """One process, begun. said: where its standard error goes. bound: by permissions, though it be root's."""

    def __init__(self, words: Sequence[str], said: Path, bound: bool = False) -> None:
        self._said = said
        self._process = _server.Process(target=_run, args=(list(map(str, words)), said, bound))
        self._process.start()

    def kill_when(self, ready: Callable[[], bool]) -> None:
        """kill -9; nothing where it ended by itself before."""
        deadline = time.monotonic() + PATIENCE
        while self._process.is_alive() and not ready():
            assert time.monotonic() < deadline, self._said.read_text()
            time.sleep(0.005)
        self._process.kill()
        self._process.join()

    def end(self) -> tuple[int | None, str]:
        """(exit code, standard error)."""
        self._process.join(PATIENCE)
        if self._process.exitcode is None:
            self._process.kill()
        return self._process.exitcode, self._said.read_text()


def _run(words: list[str], said: Path, bound: bool) -> None:
    torch.set_num_threads(1)
    for stream, path in ((1, os.devnull), (2, said)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
    if bound:
        _give_up_override()
    sys.argv = words
    MAIN[words[0]]()


def _give_up_override() -> None:
    """Root is above permissions by CAP_DAC_OVERRIDE (bit 1 of linux/capability.h); without it, it is as others are."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        for kind in range(3):  # effective, permitted, inheritable
            sets[kind] &= ~(1 << 1)
        if libc.capset(header, sets) == 0:
            return
    raise OSError(ctypes.get_errno(), "capset")
