"""A bar for a person who waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from medclm.pipeline import Progress


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """Images of finished shards, and images a second of this run; on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading annotations", total=None, rate="")

        def report(progress: Progress) -> None:
            elapsed = bar.tasks[task].elapsed or 0.0
            if bar.tasks[task].total is None:
                bar.reset(task, total=progress.total)  # the time of reading does not count
                elapsed = 0.0
            rate = f"{(progress.done - progress.resumed) / elapsed:.0f} images/s" if elapsed > 1.0 else ""
            bar.update(task, completed=progress.done, description="converting", rate=rate)

        yield report
