"""A plan: the runs of a sweep, read from a TOML file.

    [options]                       # of ``fastgrad cifar train``, for all runs
    epochs = 200
    [axes]                          # an option, and the values it takes in turn
    seed = [0, 1, 2]
    model = ["resnet20", "vgg16_bn"]
    [methods]                       # a name, and the options it stands for
    plain = {}
    clip = { normalize = "clip", max_norm = 0.5 }

The runs are all combinations. The first axis varies slowest, so a sweep that is stopped early has whole seeds. The
files of ``fastgrad/cifar/plans`` go by their names.
"""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLANS = Path(__file__).parent / "plans"
_TABLES = ("options", "axes", "methods")


@dataclass(frozen=True)
class Planned:
    """One run of a sweep."""

    name: str  # of its folder: method, then the values of the axes that vary
    config: Config


def built_in() -> list[str]:
    return sorted(file.stem for file in PLANS.glob("*.toml"))


def read(plan: str, changes: Sequence[str] = (), methods: Sequence[str] = ()) -> list[Planned]:
    """The runs of a plan.

    plan     a name of ``built_in()`` or the path of a TOML file
    changes  "option=value" or "option=value,value": replaces the option, or what its axis runs over
    methods  which of the plan's methods to run; all if empty
    """
    tables = _tables(plan)
    options, axes = tables["options"], dict(tables["axes"])
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise UsageError(f"--set: expected option=value, got {change!r}")
        values = [_value(word) for word in text.split(",")]
        if len(values) == 1 and name not in axes:
            options[name] = values[0]
        else:
            axes[name] = values
    if unknown := [name for name in methods if name not in tables["methods"]]:
        raise UsageError(
            f"--methods: the plan has no {', '.join(unknown)}; it has {', '.join(tables['methods'])}"
        )
    chosen = {name: tables["methods"][name] for name in methods or tables["methods"]}
    runs = _combinations(options, axes, chosen)
    if not runs:
        raise UsageError(f"{plan}: an empty sweep; every axis needs a value, and [methods] a method")
    if twins := {run.name for run in runs if sum(other.name == run.name for other in runs) > 1}:
        raise UsageError(f"{plan}: two runs are called {sorted(twins)[0]}; does an axis hold a value twice?")
    return runs


def _tables(plan: str) -> dict[str, dict[str, Any]]:
    path = PLANS / f"{plan}.toml" if plan in built_in() else Path(plan)
    try:
        stored = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"{plan}: no such plan; expected a TOML file or one of {', '.join(built_in())}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as a plan ({error})") from error
    if unknown := set(stored) - set(_TABLES):
        raise UsageError(f"{path}: unknown [{', '.join(sorted(unknown))}]; a plan has [{'], ['.join(_TABLES)}]")
    tables = {name: stored.get(name, {}) for name in _TABLES}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: [{name}] must be a table")
    for name, values in tables["axes"].items():
        if not isinstance(values, list):
            raise UsageError(f"{path}: axis {name} must be a list of values")
    for name, method in tables["methods"].items():
        if not isinstance(method, dict):
            raise UsageError(f"{path}: method {name} must be a table of options")
    tables["methods"] = tables["methods"] or {"run": {}}
    return tables


def _combinations(options: dict, axes: dict[str, list], methods: dict[str, dict]) -> list[Planned]:
    runs = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        for method, own in methods.items():
            chosen = {**options, **point, **own}
            if unknown := set(chosen) - {field.name for field in dataclasses.fields(Config)}:
                raise UsageError(f"{sorted(unknown)[0]}: not an option of fastgrad cifar train")
            words = [method, *(_word(name, point[name]) for name in axes if len(axes[name]) > 1 or name == "seed")]
            name = "-".join(words)
            runs.append(Planned("".join(c if c.isalnum() or c in "-_." else "_" for c in name), Config(**chosen)))
    return runs


def _word(name: str, value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{name}{value}"


def _value(word: str) -> Any:
    """A value as TOML has it; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {word}")["value"]
    except ValueError:
        return word
