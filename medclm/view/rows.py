"""Random access to the rows of a set: what they are filtered by is in memory, everything else is read when shown."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medclm import sets

FILTERS = ("split", "stage", "kind", "label", "organ", "verdict")
UNREVIEWED = "unreviewed"
_LISTS = {"label": "labels", "organ": "organs"}


class Rows:
    """The rows of a set, numbered from 0 in their order."""

    def __init__(self, folder: Path) -> None:
        self.files = [str(path) for path in sets.files(folder)]
        columns = ["id", "provenance_hash", "split", "stage", "kind", *_LISTS.values()]
        tables, starts, places = [], [0], []
        for number, path in enumerate(self.files):
            with pq.ParquetFile(path) as file:
                tables.append(file.read(columns=columns))
                for group in range(file.num_row_groups):
                    starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
                    places.append((number, group))
        table = pa.concat_tables(tables)
        self.starts = np.array(starts)  # [G + 1] first row of each row group
        self.places = places  # G times (file, row group of the file)
        self.ids = table["id"].combine_chunks()
        self.hashes = table["provenance_hash"].combine_chunks()
        self.matching = {name: _by_value(table[name]) for name in ("split", "stage", "kind")}
        self.matching |= {name: _by_element(table[column]) for name, column in _LISTS.items()}
        self.numbers = {id: number for number, id in enumerate(self.ids.to_pylist())}
        self.verdicts = {id: verdict for id, verdict in sets.verdicts(folder).items() if id in self.numbers}

    def __len__(self) -> int:
        return len(self.ids)

    def values(self) -> dict[str, dict[str, int]]:
        """Of each filter: what it can be, and of how many rows."""
        found = {name: {value: len(rows) for value, rows in sorted(by.items())} for name, by in self.matching.items()}
        return found | {"verdict": self.verdict_counts()}

    def verdict_counts(self) -> dict[str, int]:
        counts = {"accept": 0, "reject": 0}
        for verdict in self.verdicts.values():
            counts[verdict] += 1
        return counts | {UNREVIEWED: len(self) - len(self.verdicts)}

    def find(self, filters: Mapping[str, str]) -> np.ndarray:  # int64, ascending
        """The numbers of the rows that agree with every filter; an unknown value agrees with none."""
        chosen = np.ones(len(self), bool)
        for name, value in filters.items():
            agrees = np.zeros(len(self), bool)
            if name == "verdict":
                reviewed = [self.numbers[id] for id, verdict in self.verdicts.items() if value in (verdict, UNREVIEWED)]
                agrees[reviewed] = True
                agrees = ~agrees if value == UNREVIEWED else agrees
            else:
                agrees[self.matching[name].get(value, np.zeros(0, np.int64))] = True
            chosen &= agrees
        return np.flatnonzero(chosen)

    def read(self, number: int) -> dict:
        """A whole row. Raises IndexError where there is none of that number."""
        if not 0 <= number < len(self):
            raise IndexError(f"row: expected 0 to {len(self) - 1}, got {number}")
        group = int(np.searchsorted(self.starts, number, side="right")) - 1
        file, within = self.places[group]
        table = _read_group(self.files[file], within)
        return table.slice(number - int(self.starts[group]), 1).to_pylist()[0]


@lru_cache(maxsize=4)
def _read_group(path: str, group: int) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group)


def _by_value(column: pa.ChunkedArray) -> dict[str, np.ndarray]:
    """value -> numbers of the rows that have it."""
    coded = column.combine_chunks().dictionary_encode()
    codes = coded.indices.to_numpy()
    return {value: np.flatnonzero(codes == code) for code, value in enumerate(coded.dictionary.to_pylist())}


def _by_element(column: pa.ChunkedArray) -> dict[str, np.ndarray]:
    """element -> numbers of the rows whose list has it."""
    lists = column.combine_chunks()
    parents = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
    return {value: np.unique(parents[at]) for value, at in _by_value(pa.chunked_array([lists.flatten()])).items()}
