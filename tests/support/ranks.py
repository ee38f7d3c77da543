"""Real processes that make up a gloo group, for the tests."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[2]


def run(function: str, ranks: int, folder: Path, *arguments: str, timeout: int = 120) -> list:
    """Calls ``module:function(rank, ranks, *arguments)`` in the processes of a group; gives what each returned."""
    processes = start(function, ranks, folder, *arguments)
    outputs = [p.communicate(timeout=timeout)[0] for p in processes]
    for rank, (p, output) in enumerate(zip(processes, outputs, strict=True)):
        assert p.returncode == 0, f"rank {rank} of {ranks} ended with {p.returncode}:\n{output}"
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(ranks)]


def start(function: str, ranks: int, folder: Path, *arguments: str) -> list[subprocess.Popen]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rendezvous").unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "support")]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, "-m", "ranks", function, str(ranks), str(folder)]
    return [
        subprocess.Popen(
            [*command, str(rank), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]


def assert_others_end_with_an_error(function: str, ranks: int, folder: Path) -> None:
    """Kills a rank of ``function(rank, ranks, path)``, which makes the file ``path`` once it trains: others raise."""
    started = folder / "started"
    processes = start(function, ranks, folder, str(started))
    try:
        deadline = time.monotonic() + 60
        while not started.exists():
            assert time.monotonic() < deadline and all(p.poll() is None for p in processes), "did not start to train"
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGKILL)
        for p in (processes[0], *processes[2:]):
            output = p.communicate(timeout=40)[0]
            assert p.returncode not in (0, -signal.SIGKILL)
            assert "Error" in output
    finally:
        for p in processes:
            p.kill()
            p.communicate()


def _main() -> None:
    name, ranks, folder, rank, *arguments = sys.argv[1:]
    module, function = name.split(":")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=int(rank),
        world_size=int(ranks),
        timeout=timedelta(seconds=60),
    )
    result = getattr(importlib.import_module(module), function)(int(rank), int(ranks), *arguments)
    torch.save(result, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _main()
