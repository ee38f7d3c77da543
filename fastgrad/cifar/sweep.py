"""Many runs from one plan: one process a free core, each ``fastgrad cifar train`` in a folder of its own.

What is there decides what is done: a finished run is left alone, a begun one is resumed, so that the same command
goes on after anything that stopped it and ends in the same bits.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import rich.progress
from rich.console import Console
from rich.markup import escape

from fastgrad.cifar import data as datasets
from fastgrad.cifar.checkpoint import RunFolder
from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError
from fastgrad.cifar.plan import Planned
from fastgrad.cifar.progress import StopRequest

LOOK_EVERY = 0.5  # seconds between two looks at the processes
# Activations of some megabytes are freed and asked for again at every step: kept by the process instead of returned
# to the system, their pages need not be zeroed each time (about 14 % of a ResNet-20 step).
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


@dataclass
class Outcome:
    """How a sweep ended."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # name -> last line of its log
    stopped: list[str] = field(default_factory=list)  # by the user: begun or not begun


def free_cores(threads: int) -> int:
    """Processes of ``threads`` threads that this process's cores hold, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def sweep(runs: Sequence[Planned], out: Path, *, processes: int | None = None, download: bool = False) -> Outcome:
    """Bring every run in ``out``/NAME to its end.

    processes  at a time; not given: one a core (each run uses ``threads`` of them, 1 if not set)

    SIGINT or SIGTERM is passed on; every run writes a checkpoint and the same call goes on later. A run that fails is
    named in the outcome and does not stop the others.
    """
    if not runs:
        raise UsageError("sweep: no runs")
    runs = [Planned(run.name, dataclasses.replace(run.config, threads=run.config.threads or 1)) for run in runs]
    for run in runs:  # before the first hour is spent
        folder = RunFolder(out / run.name)
        if folder.config.exists():
            folder.check_same_config(run.config)
    for data in dict.fromkeys((run.config.data, run.config.limit_train) for run in runs):
        # Fetched and decoded once, by this process: the others find it in the cache.
        datasets.load(data[0], download=download, limit_train=data[1])
    outcome = Outcome()
    waiting = [run for run in runs if not _is_finished(out, run)]
    outcome.finished = [run.name for run in runs if run not in waiting]
    places = processes or free_cores(max(run.config.threads or 1 for run in runs))
    if places < 1:
        raise UsageError(f"processes: expected at least 1, got {places}")
    with StopRequest() as stop, _Board(runs, out, len(outcome.finished)) as board:
        running: list[_Process] = []
        try:
            while (waiting or running) and not (stop.requested and not running):
                while waiting and len(running) < places and not stop.requested:
                    run = waiting.pop(0)
                    if reason := _is_taken(out, run):
                        outcome.failed[run.name] = reason
                        board.say_failed(run.name, reason)
                        continue
                    running.append(_Process(run, out))
                    board.begin(running[-1])
                if stop.requested:
                    for process in running:
                        process.interrupt()
                time.sleep(LOOK_EVERY)
                for process in list(running):
                    if process.child.poll() is not None:
                        running.remove(process)
                        process.settle(outcome)
                        board.end(process, outcome)
                board.look(running)
        finally:
            for process in running:  # an error of ours: leave no orphans
                process.interrupt()
                process.child.wait()
    outcome.stopped += [run.name for run in waiting]
    return outcome


def arguments(config: Config) -> list[str]:
    """The options of ``fastgrad cifar train`` that make ``config``."""
    words: list[str] = []
    for option in dataclasses.fields(Config):
        value = getattr(config, option.name)
        if value == option.default and type(value) is type(option.default):
            continue
        flag = option.name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def _is_finished(out: Path, run: Planned) -> bool:
    return len(RunFolder(out / run.name).read_metrics()) == run.config.epochs


def _is_taken(out: Path, run: Planned) -> str:
    """Why ``run`` cannot be begun: a process that an earlier sweep left behind trains it and writes its log."""
    try:
        with RunFolder(out / run.name).held():
            return ""
    except UsageError as error:
        return str(error)


class _Process:
    """A run that is being trained."""

    def __init__(self, run: Planned, out: Path) -> None:
        self.run, self.folder = run, RunFolder(out / run.name)
        self.interrupted = False
        self.folder.path.mkdir(parents=True, exist_ok=True)
        resume = ["--resume"] if self.folder.config.exists() else []
        command = [sys.executable, "-m", "fastgrad.cifar", "train", *arguments(run.config)]
        with self._log("ab") as log:
            self.child = subprocess.Popen(
                [*command, "--out", str(self.folder.path), *resume],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**ALLOCATOR, **os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(run.config.threads)},
                start_new_session=True,  # a Ctrl-C at the terminal comes once, from us
            )

    @contextlib.contextmanager
    def _log(self, mode: str) -> Iterator[IO[bytes]]:
        with (self.folder.path / "log.txt").open(mode) as file:
            yield file

    @property
    def epochs_done(self) -> int:
        return len(self.folder.read_metrics())

    def interrupt(self) -> None:
        if not self.interrupted and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        self.interrupted = True

    def settle(self, outcome: Outcome) -> None:
        if self.child.returncode == 0:
            outcome.finished.append(self.run.name)
        elif self.interrupted:
            outcome.stopped.append(self.run.name)
        else:
            with self._log("rb") as log:
                lines = log.read().decode(errors="replace").split("\n")
            said = [line for line in lines if line.strip()]
            outcome.failed[self.run.name] = said[-1] if said else f"ended with status {self.child.returncode}"


class _Board:
    """A bar for all runs and one for each that is running; a line for each that ends where there is no terminal."""

    def __init__(self, runs: Sequence[Planned], out: Path, finished: int) -> None:
        self.console = Console()
        self.total = sum(run.config.epochs for run in runs)
        self.bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.done = sum(len(RunFolder(out / run.name).read_metrics()) for run in runs if _is_finished(out, run))
        self.all = self.bars.add_task(f"{len(runs)} runs, epochs", total=self.total, completed=self.done)
        self.tasks: dict[str, rich.progress.TaskID] = {}
        self.console.print(f"{len(runs)} runs, {finished} of them finished; in {out}", highlight=False)

    def __enter__(self) -> "_Board":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def begin(self, process: _Process) -> None:
        self.tasks[process.run.name] = self.bars.add_task(f"  {process.run.name}", total=process.run.config.epochs)

    def end(self, process: _Process, outcome: Outcome) -> None:
        name = process.run.name
        self.bars.remove_task(self.tasks.pop(name))
        self.done += process.epochs_done
        if name in outcome.failed:
            self.say_failed(name, outcome.failed[name])
        else:
            word = "finished" if name in outcome.finished else "stopped"
            rows = process.folder.read_metrics()
            accuracy = f", test accuracy {rows[-1]['test_accuracy']:.2%}" if rows else ""
            self.console.print(f"{word}: {name}{accuracy}", soft_wrap=True, highlight=False)

    def say_failed(self, name: str, reason: str) -> None:
        self.console.print(f"[red]failed[/]: {escape(name)}: {escape(reason)}", soft_wrap=True, highlight=False)

    def look(self, running: Sequence[_Process]) -> None:
        for process in running:
            self.bars.update(self.tasks[process.run.name], completed=process.epochs_done)
        self.bars.update(self.all, completed=self.done + sum(process.epochs_done for process in running))
