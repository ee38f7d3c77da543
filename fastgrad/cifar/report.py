"""Comparison of run folders: a table on the screen and in report.md, and plots."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rich.table
from rich.console import Console
from rich.markup import escape

from fastgrad.cifar.checkpoint import RunFolder, replacing
from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError


@dataclass(frozen=True)
class Run:
    """What a run folder says."""

    name: str
    config: Config
    facts: dict[str, Any]
    rows: list[dict[str, float]]  # of metrics.csv
    steps: np.ndarray  # [S]; the recorded ones
    global_std: np.ndarray  # [S]
    q: np.ndarray  # [S], mean over the layers

    @property
    def finished(self) -> bool:
        return len(self.rows) == self.config.epochs

    @property
    def label(self) -> str:
        return self.name if self.finished else f"{self.name} (unfinished)"

    def curve(self, column: str) -> tuple[list[float], list[float]]:
        """(epochs, values)."""
        return [row["epoch"] for row in self.rows], [row[column] for row in self.rows]


def read(folder: Path) -> Run:
    """The run in ``folder``, as far as it came."""
    files = RunFolder(Path(folder))
    stored, facts = files.stored()
    try:
        config = Config(**stored)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{files.config}: not the options of a run ({error})") from error
    steps = _recorded(files.monitor) if files.monitor.exists() else (np.empty(0),) * 3
    return Run(Path(folder).resolve().name, config, facts, files.read_metrics(), *steps)


def _recorded(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps, global std, mean q of the layers) from the file of ``fastgrad.Monitor.write``."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=["step", "layer", "std", "q"])
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise UsageError(f"{path}: not a file of fastgrad.Monitor ({error})") from error
    step, std, q = (table.column(name).to_numpy() for name in ("step", "std", "q"))
    whole = pyarrow.compute.equal(table.column("layer"), "(all)").to_numpy().astype(bool)
    _, of_layer = np.unique(step[~whole], return_inverse=True)
    mean_q = np.bincount(of_layer, q[~whole]) / np.maximum(np.bincount(of_layer), 1)
    return step[whole], std[whole], mean_q


COLUMNS = ("run", "data", "model", "gradients", "augment", "lr", "seed", "epochs", "test accuracy",
           "best epoch", "train loss", "global std", "mean q", "images/s")  # fmt: skip


# The table on the screen has no room for the columns that most comparisons share.
ON_SCREEN = ("run", "gradients", "epochs", "test accuracy", "train loss", "mean q", "images/s")


def cells(run: Run) -> tuple[str, ...]:
    """One row of the table; the numbers are those of the last epoch that was finished."""
    epochs = f"{len(run.rows)}" if run.finished else f"{len(run.rows)} of {run.config.epochs}, unfinished"
    config = run.config
    known = (run.name, str(run.facts.get("data_name")), config.model, config.treatment, config.augment,
             f"{config.lr:g}", str(config.seed), epochs)  # fmt: skip
    if not run.rows:
        return (*known, *("",) * (len(COLUMNS) - len(known)))
    last = run.rows[-1]
    return (
        *known,
        f"{last['test_accuracy']:.2%}",
        f"{max(row['test_accuracy'] for row in run.rows):.2%}",
        f"{last['train_loss']:.4f}",
        _number(last["global_std"], ".3e"),
        _number(last["q_mean"], ".4f"),
        f"{np.median([row['images_per_second'] for row in run.rows]):,.0f}",
    )


def _number(value: float, form: str) -> str:
    return "" if value != value else format(value, form)


def report(folders: Sequence[Path], out: Path, console: Console | None = None) -> Path:
    """Print the table, write ``out``/report.md and the plots; returns the path of report.md."""
    if not folders:
        raise UsageError("report: expected at least one run folder")
    runs = [read(folder) for folder in folders]
    table = rich.table.Table(*ON_SCREEN)
    for run in runs:
        row = dict(zip(COLUMNS, cells(run), strict=True))
        table.add_row(*(escape(row[name]) for name in ON_SCREEN), style=None if run.finished else "dim")
    (console or Console()).print(table)
    out.mkdir(parents=True, exist_ok=True)
    plots = draw(runs, out)
    lines = [
        "# CIFAR experiments",
        "",
        "Accuracy and loss are those of the last finished epoch. *best epoch* is the best test accuracy of",
        "any epoch: it was chosen on the test images and flatters a run.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in cells(run))} |" for run in runs),
        "",
        *(f"![{plot.stem.replace('_', ' ')}]({plot.name})" for plot in plots),
        "",
        "## Options that differ",
        "",
        *_differences(runs),
    ]
    path = out / "report.md"
    with replacing(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    return path


def _differences(runs: Sequence[Run]) -> list[str]:
    options = [vars(run.config) for run in runs]
    names = [name for name in options[0] if any(other[name] != options[0][name] for other in options)]
    return [f"- {run.name}: " + (", ".join(f"{name} {json.dumps(o[name])}" for name in names) or "none")
            for run, o in zip(runs, options, strict=True)]  # fmt: skip


def draw(runs: Sequence[Run], out: Path) -> list[Path]:
    """Curves of all runs in one picture per quantity; pictures without a curve are left out."""
    per_epoch = [("test_accuracy", "test accuracy", False), ("train_loss", "training loss", True)]
    pictures = [
        (name, title, "epoch", log, [(run.label, *run.curve(name)) for run in runs])
        for name, title, log in per_epoch
    ]
    pictures += [
        (name, title, "step", log, [(run.label, run.steps, values(run)) for run in runs])
        for name, title, log, values in (
            ("runs_global_std", "standard deviation of all gradients", True, lambda run: run.global_std),
            ("runs_mean_q", "mean shrinkage q of the layers", False, lambda run: run.q),
        )
    ]
    return [path for picture in pictures if (path := _picture(out, *picture))]


def _picture(out: Path, name: str, title: str, axis: str, log: bool, curves: list[tuple]) -> Path | None:
    from matplotlib.figure import Figure  # takes half a second to import, and only pictures need it
    from matplotlib.ticker import MaxNLocator

    curves = [curve for curve in curves if len(curve[1])]
    if not curves:
        return None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel=axis, ylabel=title)
    for label, x, y in curves:
        # A single point has no line.
        axes.plot(x, y, label=label, linewidth=1.2, marker="o" if len(x) == 1 else None)
    if log and all(np.nanmin(y) > 0 for _, _, y in curves if not np.isnan(y).all()):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no epoch 1.5
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=120)
    return out / f"{name}.png"
