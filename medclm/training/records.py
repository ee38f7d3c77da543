"""A set as training reads it: records in up to three stages, and the order in which they come."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from medclm import sets
from medclm.problems import DataError
from medclm.schema import FIELDS, STAGES
from medclm.training.curriculum import Mix

_TEXT = [name for name, _ in FIELDS if name not in ("image", "organ_regions")]


@dataclass(frozen=True)
class Place:
    file: int
    group: int  # of the file's row groups
    row: int  # in the group


@dataclass(frozen=True)
class Record:
    """One question about one case in its stages: stage -> index of a row."""

    domain: str
    rows: dict[str, int]


class Rows:
    """The rows of one split. Texts are in memory; an image is read when its row is asked for.

    Errors: DataError for what is no set, a set of another schema version, or one without rows in the split.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self._files = sets.files(folder, split)
        rejected = {id for id, verdict in sets.verdicts(folder).items() if verdict == "reject"}
        self.texts: list[dict] = []
        self._places: list[Place] = []
        for number, path in enumerate(self._files):
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    for i, row in enumerate(file.read_row_group(group, columns=_TEXT).to_pylist()):
                        if row["id"] not in rejected:
                            self.texts.append(row)
                            self._places.append(Place(number, group, i))
        if not self.texts:
            raise DataError(f"{folder}: expected rows in its {split} split, found none")
        self._group: tuple[tuple[int, int], list] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict:
        place = self._places[index]
        if self._group is None or self._group[0] != (place.file, place.group):
            with pq.ParquetFile(self._files[place.file]) as file:
                images = file.read_row_group(place.group, columns=["image"]).column("image")
            self._group = (place.file, place.group), images
        return self.texts[index] | {"image": self._group[1][place.row].as_py()}

    def records(self) -> list[Record]:
        """In the order of the set. The domain is that of the first stage there is."""
        found: dict[tuple[str, str], dict[str, int]] = {}
        domains: dict[tuple[str, str], str] = {}
        for index, row in enumerate(self.texts):
            # The id says whose question it is; the case of a hard row is that of the other image.
            key = (row["id"].removesuffix(f"-{row['stage']}"), row["kind"])
            found.setdefault(key, {})[row["stage"]] = index
            domains.setdefault(key, row["domain"])
        return [Record(domains[key], rows) for key, rows in found.items()]

    def counts(self) -> Counter[str]:
        return Counter(row["stage"] for row in self.texts)


def check_stages(rows: Rows, needed: set[str], why: str) -> None:
    """Raises DataError where a stage that may be asked for has no rows."""
    counts = rows.counts()
    for stage in STAGES:
        if stage in needed and not counts[stage]:
            held = ", ".join(f"{name} {counts[name]:,}" for name in STAGES)
            raise DataError(
                f"{rows.folder}: expected rows of the {stage} stage in its {rows.split} split, which {why} asks for; "
                f"it holds {held}. Convert with all stages, or train with --scheduler mix:E,M,H and a share of 0"
            )


def fingerprint(folder: Path) -> str:
    """Of the set's content: its facts, its files' names and sizes, and what reviewers said."""
    facts = sets.facts(folder)
    files = [(path.name, path.stat().st_size) for path in sets.files(folder)]
    reviewed = sorted(sets.verdicts(folder).items())
    return hashlib.sha256(json.dumps([facts, files, reviewed], sort_keys=True).encode()).hexdigest()[:16]


def epoch_batches(records: Sequence[Record], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Every record once, in batches of one domain, in an order that the seed and the epoch decide. The last batch of a
    domain is filled up with others of the domain, so that all steps are of one size."""
    rng = np.random.default_rng([seed, epoch])
    by_domain: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        by_domain.setdefault(record.domain, []).append(index)
    batches = []
    for domain in sorted(by_domain):
        order = rng.permutation(by_domain[domain]).tolist()
        for begin in range(0, len(order), size):
            batch = order[begin : begin + size]
            batches.append(batch + [order[i % len(order)] for i in range(size - len(batch))])
    return [batches[i] for i in rng.permutation(len(batches))]


def draw_stages(records: Sequence[Record], mix: Mix, seed: int, step: int) -> Iterator[str]:
    """A stage for each record, drawn by the mix among those that the record has; where it gives those no weight, the
    hardest of the easier ones, else the easiest there is."""
    rng = np.random.default_rng([seed, step, 1])
    for record in records:
        weights = np.array([share if stage in record.rows else 0.0 for stage, share in zip(STAGES, mix, strict=True)])
        draw = rng.random()  # always one: the draws of a record do not hang on those before it
        if weights.sum() > 0:
            yield STAGES[int(np.searchsorted(np.cumsum(weights) / weights.sum(), draw, side="right").clip(max=2))]
        else:
            wanted = int(np.argmax(mix))
            easier = [stage for stage in STAGES[:wanted] if stage in record.rows]
            yield easier[-1] if easier else next(stage for stage in STAGES if stage in record.rows)
