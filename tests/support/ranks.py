"""Real processes that make up a gloo group, for the tests."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
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
