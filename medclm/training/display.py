"""What a person sees who waits: a bar with the losses of the stages; a line now and then without a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from medclm.schema import STAGES

EVERY_SECONDS = 15.0


def summary(line: dict) -> str:
    """Of a line of the log: loss by stage, how many of each were shown, memory, q_k."""
    if "validation" in line:
        parts = [f"{stage} {line['validation'][stage]:.3f}" for stage in STAGES if stage in line["validation"]]
        return f"validation {line['validation']['mean']:.4f} ({', '.join(parts)})"
    found = line["loss_by_stage"]
    by_stage = " ".join(f"{stage} {found[stage]:.3f}" for stage in STAGES if stage in found)
    mix = "/".join(str(line["shown"].get(stage, 0)) for stage in STAGES)
    q = " ".join(f"q_k({name}) {value:.4f}" for name, value in line["q_k"].items())
    loss = "skipped" if line["loss"] is None else f"{line['loss']:.4f}"
    return f"loss {loss} ({by_stage}) shown {mix}  {line['memory']['peak_mib']:.0f} MiB  {q}".rstrip()


@contextmanager
def shown(total: int, begin: int, first: bool) -> Iterator[Callable[[dict], None]]:
    if not first:
        yield lambda line: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(total)
        return
    columns = (
        BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, completed=begin)

        def report(line: dict) -> None:
            if "validation" in line:
                bar.console.print(f"step {line['step']}: {summary(line)}")
            else:
                bar.update(task, completed=line["step"], description=summary(line))

        yield report


class _Lines:
    def __init__(self, total: int) -> None:
        self.total, self.last = total, -EVERY_SECONDS

    def __call__(self, line: dict) -> None:
        now = time.monotonic()
        if "validation" not in line and line["step"] != self.total and now - self.last < EVERY_SECONDS:
            return
        self.last = now
        print(f"step {line['step']}/{self.total}: {summary(line)}", file=sys.stderr, flush=True)
