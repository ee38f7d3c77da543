"""Ray Data, for a cluster whose nodes see the same folders: the tasks are a dataset, a shard is made where Ray puts it.

A running cluster is used where ``ray.init`` finds one (``RAY_ADDRESS``), else one is started on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from medclm.problems import DataError
from medclm.shards import Done, Task, finished, make_shards


def run(tasks: Sequence[Task], workers: int) -> Iterator[Done]:
    """workers: CPUs of a cluster that is started here; one that is running has its own."""
    if not tasks:
        return
    import ray
    from ray.exceptions import RayError

    started = not ray.is_initialized()
    if started:
        _start(ray, workers)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = ray.data.from_items([{"task": task.to_json()} for task in tasks], override_num_blocks=len(tasks))
        for row in items.map_batches(make_shards, batch_size=1, batch_format="numpy").iter_rows():
            yield finished(row["done"], row["error"])
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise DataError(f"Ray: {reason}; the same command goes on where it stopped") from error
    finally:
        if started:
            ray.shutdown()


def _start(ray: Any, workers: int) -> None:
    try:
        ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    except ConnectionError:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
