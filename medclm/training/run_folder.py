"""The folder of a run.

    RUN/train.json          settings, the set, the model, versions
    RUN/log.jsonl           a line a step, and one an evaluation
    RUN/checkpoint/         the newest: model and processor as ``from_pretrained`` loads them, and training.pt, with
                            which the run goes on bit for bit
    RUN/best/               with early stopping: the best so far; takes the place of checkpoint/ at the end

A checkpoint takes its place whole or not at all; whatever stops a run, the last one stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from medclm import swapping
from medclm.problems import DataError
from medclm.whole_files import make_folder, write_whole, writing

FORMAT = 1
STATE = "training.pt"
# How torch and safetensors say what the operating system told them.
_FULL = re.compile(r"os error (28|122|27|30)\b|No space left|File too large|PytorchStreamWriter failed|Disk quota")


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "train.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def best(self) -> Path:
        return self.path / "best"

    def begin(self, config: dict) -> None:
        """Claims the folder. Raises DataError where something else is in it."""
        if self.path.exists() and (self.path.is_file() or any(self.path.iterdir())):
            raise DataError(f"out: expected a new folder or that of a run, got {self.path}, which is something else")
        make_folder(self.path)
        self._write_config(config)

    def stored(self) -> dict | None:
        """``train.json``; None where no run was begun here."""
        if not self.config.exists():
            return None
        try:
            found = json.loads(self.config.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"{self.config}: not the train.json of a run ({error})") from None
        if not isinstance(found, dict) or not {"settings", "set", "model"} <= found.keys():
            raise DataError(f"{self.config}: expected settings, set and model")
        return found

    def update_config(self, **more: object) -> None:
        self._write_config((self.stored() or {}) | more)

    def _write_config(self, config: dict) -> None:
        write_whole(self.config, lambda path: path.write_text(json.dumps(config, indent=2) + "\n"))

    def lines(self) -> list[dict]:
        """Of the log, without a last one that a kill cut off."""
        found = []
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def keep_lines(self, step: int) -> None:
        """Of the log those up to a step: what a resumed run will write again is taken out."""
        kept = "".join(json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step)
        write_whole(self.log, lambda path: path.write_text(kept))

    def add_line(self, line: dict) -> None:
        with writing(self.log), self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self, target: Path, write: Callable[[Path], object], state: dict | None) -> None:
        """``write`` fills a new folder with model and processor; with the state it becomes ``target``."""
        made = self.path / f".{target.name}.making"
        shutil.rmtree(made, ignore_errors=True)
        try:
            with disk_errors(target):
                made.mkdir()
                write(made)
                if state is not None:
                    torch.save({"format": FORMAT, **state}, made / STATE)
                for file in made.iterdir():
                    with file.open("rb+") as handle:
                        os.fsync(handle.fileno())
                swapping.take_place(made, target, self._aside(target))
        finally:
            shutil.rmtree(made, ignore_errors=True)  # what failed, or what was there before
            shutil.rmtree(self._aside(target), ignore_errors=True)

    def heal(self) -> None:
        for target in (self.checkpoint, self.best):
            swapping.put_back(target, self._aside(target))

    def state(self) -> dict | None:
        """training.pt of the checkpoint; None where there is none yet."""
        file = self.checkpoint / STATE
        if not file.exists():
            return None
        try:
            # Written by this program: states of optimizers hold tensors of our own kinds.
            state = torch.load(file, map_location="cpu", weights_only=False)
        except Exception as error:  # zip, pickle and torch errors of every kind
            raise DataError(f"{file}: damaged or not a training state ({error})") from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise DataError(f"{file}: expected a training state of format {FORMAT}")
        return state

    def take_best(self) -> None:
        """best/ becomes checkpoint/, with the training state of the latter; nothing where there is none."""
        if not self.best.exists():
            return
        with disk_errors(self.checkpoint):
            if (self.checkpoint / STATE).exists():
                shutil.copyfile(self.checkpoint / STATE, self.best / STATE)
            swapping.take_place(self.best, self.checkpoint, self._aside(self.checkpoint))
        shutil.rmtree(self.best, ignore_errors=True)
        shutil.rmtree(self._aside(self.checkpoint), ignore_errors=True)

    def _aside(self, target: Path) -> Path:
        return self.path / f".{target.name}.aside"


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """A full disk is a DataError, by whichever library it is met."""
    try:
        with writing(path):
            yield
    except DataError:
        raise
    except Exception as error:
        if _FULL.search(str(error)) is None:
            raise
        raise DataError(
            f"cannot write {path}: no space left on the disk, or not allowed; the last checkpoint stays"
        ) from error
