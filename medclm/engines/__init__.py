"""What runs the shards: every engine maps :func:`medclm.shards.make_shards` over the tasks and yields what is done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from medclm.problems import DataError
from medclm.shards import Done, Task

ENGINES = ("local", "ray")


def run(engine: str, tasks: Sequence[Task], workers: int | None = None) -> Iterator[Done]:
    """In any order. workers: processes; None: one a core. Raises DataError as :func:`medclm.shards.make_shard` does,
    or where a worker dies."""
    workers = workers or _cores()
    if engine == "local":
        from medclm.engines import local

        return local.run(tasks, workers)
    if engine == "ray":
        from medclm.engines import ray_data

        return ray_data.run(tasks, workers)
    raise DataError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
