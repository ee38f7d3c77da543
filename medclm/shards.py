"""One shard: its work items become a Parquet file, whole or not at all.

Beside every finished file a marker is left that says so; a run that was killed goes on with the shards that have none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from medclm import row_groups
from medclm.convert import Pictures, convert
from medclm.problems import DataError, Problems
from medclm.settings import Settings
from medclm.whole_files import write_whole

ITEMS_AT_ONCE = 16
ROWS_AT_ONCE = 64  # a row group: what a random access reads and what a writer holds


@dataclass(frozen=True)
class Task:
    """One shard to make: paths only, so that nothing large goes between processes."""

    shard: str
    items: str  # file of work items
    data: str  # folder of the shards
    done: str  # folder of the markers
    settings: str  # JSON, with the salt

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Done:
    """A marker: the shard is whole."""

    shard: str
    images: int
    rows: int
    bytes: int
    problems: dict  # Problems.to_dict()

    def write(self, folder: Path) -> None:
        write_whole(folder / f"{self.shard}.json", lambda path: path.write_text(json.dumps(asdict(self))))


def read_done(folder: Path, data: Path, shard: str) -> Done | None:
    """The marker, where the file that it speaks of is there in the size that it says."""
    try:
        done = Done(**json.loads((folder / f"{shard}.json").read_text()))
        return done if (data / f"{shard}.parquet").stat().st_size == done.bytes else None
    except (OSError, ValueError, TypeError):
        return None


def make_shards(batch: dict[str, list]) -> dict[str, list]:
    """``{"task": [JSON]}`` -> ``{"done": [JSON], "error": [text]}``: what an engine maps over the tasks, in any order,
    on any process. A DataError is a value, which every engine can carry; see :func:`finished`.

    Making a shard once more gives the same bytes.
    """
    made: dict[str, list] = {"done": [], "error": []}
    for text in batch["task"]:
        done, error = "", ""
        try:
            done = json.dumps(asdict(make_shard(Task(**json.loads(text)))))
        except DataError as raised:
            error = str(raised)
        made["done"].append(done)
        made["error"].append(error)
    return made


def finished(done: str, error: str) -> Done:
    """One element of what :func:`make_shards` gives. Raises the DataError that the worker met."""
    if error:
        raise DataError(error)
    return Done(**json.loads(done))


def make_shard(task: Task) -> Done:
    """Raises DataError where the disk is full or a strict conversion meets a problem."""
    settings = Settings.from_json(task.settings)
    problems = Problems(settings.strict)
    counts = {"images": 0, "rows": 0}

    def write(path: Path) -> None:
        with row_groups.writer(path) as writer:
            rows = _converted(Path(task.items), task.settings, problems, counts)
            while group := list(islice(rows, ROWS_AT_ONCE)):
                counts["rows"] += len(group)
                writer.write_table(row_groups.table(group))

    path = Path(task.data) / f"{task.shard}.parquet"
    write_whole(path, write)
    done = Done(task.shard, counts["images"], counts["rows"], path.stat().st_size, problems.to_dict())
    done.write(Path(task.done))
    return done


def _converted(items: Path, settings: str, problems: Problems, counts: dict[str, int]) -> Iterator[dict]:
    """The rows of a file of items; problems and counts are added to."""
    pictures = Pictures()
    with open(items) as lines:
        while batch := list(islice(lines, ITEMS_AT_ONCE)):
            made = convert({"item": batch, "settings": [settings] * len(batch)}, pictures)
            for found in made["problems"]:
                problems.merge(Problems.from_dict(json.loads(found)))
            counts["images"] += sum(bool(rows) for rows in made["rows"])
            for rows in made["rows"]:
                yield from rows
