"""What run folders say, and runs that differ in nothing but their seed taken together."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fastgrad.cifar.checkpoint import RunFolder
from fastgrad.cifar.config import NOT_COMPARED, Config
from fastgrad.cifar.errors import UsageError

NOT_GROUPED = (*NOT_COMPARED, "seed", "threads")


@dataclass(frozen=True)
class Run:
    """What a run folder says."""

    name: str
    path: Path
    config: Config
    facts: dict[str, Any]
    rows: list[dict[str, float]]  # of metrics.csv

    @property
    def finished(self) -> bool:
        return len(self.rows) == self.config.epochs

    @property
    def steps_per_epoch(self) -> float:
        steps = self.recorded["step"]
        return self.facts.get("steps_per_epoch") or (steps[-1] + 1) / max(1, len(self.rows))

    def curve(self, column: str) -> tuple[list[float], list[float]]:
        """(epochs, values) of a column of metrics.csv."""
        return [row["epoch"] for row in self.rows], [row[column] for row in self.rows]

    @cached_property
    def recorded(self) -> dict[str, np.ndarray]:
        """What the monitor recorded: layers [L]; step [S]; std, a, q of all layers as one vector [S]; mean_q, the mean
        over the layers [S]; layer_std and layer_q [S, L]. Empty arrays for a run that recorded nothing yet."""
        file = RunFolder(self.path).monitor
        if not file.exists():
            empty = {name: np.empty(0) for name in ("layers", "step", "std", "a", "q", "mean_q")}
            return {**empty, "layer_std": np.empty((0, 0)), "layer_q": np.empty((0, 0))}
        return _recorded(file)


def read(folder: Path) -> Run:
    """The run in ``folder``, as far as it came."""
    files = RunFolder(Path(folder))
    stored, facts = files.stored()
    try:
        config = Config(**stored)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{files.config}: not the options of a run ({error})") from error
    path = Path(folder).resolve()
    return Run(path.name, path, config, facts, files.read_metrics())


def find(folders: Sequence[Path]) -> list[Run]:
    """The runs in the folders; a folder of run folders (a sweep) stands for all that is in it, in order of name."""
    if not folders:
        raise UsageError("report: expected at least one run folder")
    runs = []
    for folder in map(Path, folders):
        inside = sorted(file.parent for file in folder.glob("*/config.json"))
        runs += [read(one) for one in ([folder] if (folder / "config.json").exists() or not inside else inside)]
    return runs


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed."""

    label: str
    runs: list[Run]

    @property
    def config(self) -> Config:
        return self.runs[0].config

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.finished]

    def last(self, column: str) -> tuple[float, float, int]:
        """(mean, standard deviation (n - 1), n) of the last epoch's value over the finished runs."""
        values = np.array([run.rows[-1][column] for run in self.finished], np.float64)
        if not len(values):
            return float("nan"), float("nan"), 0
        return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan"), len(values)

    def curve(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """(epochs [E], values [R, E]) of the finished runs; of a single run also if it is unfinished."""
        runs = self.finished or (self.runs if len(self.runs) == 1 else [])
        curves = [run.curve(column) for run in runs if run.rows]
        return (np.array(curves[0][0]), np.array([values for _, values in curves])) if curves else _NOTHING


_NOTHING = (np.empty(0), np.empty((0, 0)))


def group(runs: Sequence[Run]) -> list[Group]:
    """Groups in order of their first run. A seed that comes again begins a group of its own."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        options = {name: value for name, value in dataclasses.asdict(run.config).items() if name not in NOT_GROUPED}
        same = repr((options, run.facts.get("fingerprint")))
        again = sum(run.config.seed == other.config.seed for key in groups if key[0] == same for other in groups[key])
        groups.setdefault((same, again), []).append(run)
    return [Group(_label(own), own) for own in groups.values()]


def _label(own: list[Run]) -> str:
    """The name of a single run; of several the words they share: plain-seed0 and plain-seed1 give plain."""
    if len(own) == 1:
        return own[0].name
    words = [run.name.split("-") for run in own]
    if len({len(one) for one in words}) == 1:
        shared = [column[0] for column in zip(*words, strict=True) if len(set(column)) == 1]
        if shared:
            return "-".join(shared)
    return f"{own[0].name} and {len(own) - 1} more"


def differing_options(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Option -> its value in every run, of the options that are not the same in all."""
    options = [vars(run.config) for run in runs]
    names = [name for name in options[0] if any(other[name] != options[0][name] for other in options)]
    return {name: [one[name] for one in options] for name in names}


def _recorded(path: Path) -> dict[str, np.ndarray]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=["step", "layer", "std", "a", "q"])
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise UsageError(f"{path}: not a file of fastgrad.Monitor ({error})") from error
    column = {name: table.column(name).to_numpy() for name in ("step", "layer", "std", "a", "q")}
    whole = column["layer"] == "(all)"
    steps = column["step"][whole]
    layers = list(dict.fromkeys(column["layer"][~whole]))
    where = np.searchsorted(steps, column["step"][~whole])
    number = {name: i for i, name in enumerate(layers)}
    which = np.array([number[name] for name in column["layer"][~whole]], np.int64)
    grids = {}
    for name in ("std", "q"):
        grid = np.full((len(steps), len(layers)), np.nan)
        grid[where, which] = column[name][~whole]
        grids[f"layer_{name}"] = grid
    with np.errstate(invalid="ignore"):
        mean_q = np.nansum(grids["layer_q"], 1) / np.maximum(1, np.isfinite(grids["layer_q"]).sum(1))
    return {"layers": np.array(layers, object), "step": steps, "mean_q": mean_q, **grids,
            **{name: column[name][whole] for name in ("std", "a", "q")}}  # fmt: skip
