"""A run folder: config.json, metrics.csv and checkpoint.pt, each replaced as a whole.

A write goes to another name in the folder, is forced to the disk and then renamed, so a crash leaves the last
complete file.
"""

import contextlib
import csv
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError
from fastgrad.replacing import replacing

FORMAT = 1
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
METRICS = (
    "epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
    "seconds", "images_per_second", "global_std", "q_mean", "alpha",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and what it is allowed to do with them."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def monitor(self) -> Path:
        return self.path / "monitor.parquet"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    def check_free(self) -> None:
        """Refuse a folder with a run in it."""
        if any(file.exists() for file in (self.config, self.checkpoint, self.metrics)):
            raise UsageError(
                f"{self.path}: holds a run already; continue it with --resume or choose another --out"
            )

    @contextlib.contextmanager
    def held(self) -> Iterator["RunFolder"]:
        """While this process holds the folder no other trains in it; a process that dies lets go of it.

        The folders made for it that are still empty in the end, because the run was refused, are removed.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be made ({error.strerror})") from error
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UsageError(f"{self.path}: another process is training in this folder") from error
            yield self
        finally:
            os.close(folder)
            with contextlib.suppress(OSError):
                for path in made:
                    path.rmdir()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A disk that takes no more (full, quota, read-only, not allowed) is for the user to mend."""
        try:
            yield
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            path = error.filename or self.path
            raise UsageError(
                f"{path}: cannot be written ({os.strerror(error.errno).lower()}); the last checkpoint stays"
            ) from error

    def begin(self, config: Config, facts: dict[str, Any]) -> None:
        """Claim the folder for a new run."""
        with self.writing(), replacing(self.config, "w") as file:
            json.dump({"config": asdict(config), "facts": facts}, file, indent=2)
            file.write("\n")

    def stored(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(config, facts) of the run in the folder."""
        try:
            stored = json.loads(self.config.read_text())
            return dict(stored["config"]), dict(stored["facts"])
        except FileNotFoundError:
            raise UsageError(f"{self.path}: no run in this folder (config.json is missing)") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self.config}: not the config.json of a run ({error})") from error

    def check_same_config(self, config: Config) -> None:
        """Refuse to go on with another experiment."""
        if differences := config.differences(self.stored()[0]):
            raise UsageError(f"{self.path}: cannot resume, the options differ: {', '.join(differences)}")

    def check_same_facts(self, facts: dict[str, Any]) -> list[str]:
        """Refuse to go on with other images; return remarks on what else is not as it was."""
        _, stored_facts = self.stored()
        if facts["fingerprint"] != stored_facts.get("fingerprint"):
            raise UsageError(
                f"{self.path}: cannot resume, the run was begun on other images "
                f"({stored_facts.get('data_name')}, {stored_facts.get('fingerprint')}), "
                f"these are {facts['data_name']}, {facts['fingerprint']}"
            )
        return [
            f"{name} was {stored_facts.get(name)} and is {value} now: the last bits may differ"
            for name, value in facts.items()
            if name in ("torch", "fastgrad_numerics", "device", "threads") and value != stored_facts.get(name)
        ]

    def write_metrics(self, rows: list[dict[str, float]]) -> None:
        with self.writing(), replacing(self.metrics, "w") as file:
            writer = csv.DictWriter(file, METRICS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def read_metrics(self) -> list[dict[str, float]]:
        """One dict an epoch; empty for a run that finished none."""
        if not self.metrics.exists():
            return []
        with self.metrics.open(newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != METRICS:
                raise UsageError(f"{self.metrics}: expected the columns {', '.join(METRICS)}")
            try:
                return [{name: float(value) for name, value in row.items()} for row in reader]
            except (TypeError, ValueError) as error:
                raise UsageError(f"{self.metrics}: damaged ({error})") from error

    def save(self, state: dict[str, Any]) -> None:
        with self.writing(), replacing(self.checkpoint, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The last checkpoint; None if the run was stopped before its first."""
        if not self.checkpoint.exists():
            return None
        try:
            state = torch.load(self.checkpoint, map_location=device, weights_only=True)
        except Exception as error:  # zip, pickle and torch errors of every kind
            raise UsageError(f"{self.checkpoint}: damaged or not a checkpoint ({error})") from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise UsageError(f"{self.checkpoint}: expected a checkpoint of format {FORMAT}")
        return state
