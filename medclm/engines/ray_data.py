"""Ray Data, for a cluster whose nodes see the same folders: the tasks are a dataset, a shard is made where Ray puts it.

A running cluster is used where ``ray.init`` finds one (``RAY_ADDRESS``), else one is started on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from medclm.problems import DataError
from medclm.shards import Done, Task, make_shards


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
            yield Done(**json.loads(row["done"]))
    except RayError as error:
        raise _plain(error) from error
    finally:
        if started:
            ray.shutdown()


def _start(ray, workers: int) -> None:
    try:
        ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    except ConnectionError:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


def _plain(error: Exception) -> Exception:
    """The DataError that a worker raised, if it was one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DataError):
            return DataError(str(cause).strip().splitlines()[-1].removeprefix("medclm.problems.DataError: "))
        cause = getattr(cause, "cause", None) or cause.__cause__
    return error
