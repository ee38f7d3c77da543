"""Processes of this machine. They get paths and give counts: pixels never leave the process that read them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from medclm.allocation import keep_freed
from medclm.problems import DataError
from medclm.shards import Done, Task, finished, make_shards


def run(tasks: Sequence[Task], workers: int) -> Iterator[Done]:
    """At most two shards a worker are handed out ahead."""
    if workers == 1:
        for task in tasks:
            yield _only(make_shards({"task": [task.to_json()]}))
        return
    waiting = iter(tasks)
    # Spawned: a forked child would inherit threads' locks from whatever the caller has imported.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, max(len(tasks), 1)), context, initializer=_start_worker) as pool:
        try:
            running = {_submit(pool, task) for task in islice(waiting, 2 * workers)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {_submit(pool, task) for task in islice(waiting, len(done))}
                for each in done:
                    yield _only(each.result())
        except BrokenProcessPool:
            raise DataError(
                "a worker died (killed, or out of memory?); the same command goes on where it stopped"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, task: Task) -> Future:
    return pool.submit(make_shards, {"task": [task.to_json()]})


def _only(batch: dict[str, list]) -> Done:
    return finished(batch["done"][0], batch["error"][0])


def _start_worker() -> None:
    """Ctrl-C is the parent's affair; and who kills the parent kills its workers."""
    keep_freed()
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
