"""A converted set on disk.

    SET/set.json                        schema version, settings, counts, problems by reason
    SET/README.md                       the data card
    SET/data/<split>-<number>.parquet   rows of medclm.schema, one file a shard
    SET/review.jsonl                    verdicts of people, one a line: {"id", "verdict": "accept" | "reject", ...};
                                        the last of an id counts
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from medclm.problems import DataError
from medclm.schema import SCHEMA_VERSION

ROWS_AT_ONCE = 64  # images are embedded: a batch of them is what is in memory


def facts(folder: Path) -> dict:
    """``set.json``; raises DataError where the folder holds no set, or one of another schema version."""
    try:
        found = json.loads((folder / "set.json").read_text())
    except FileNotFoundError:
        raise DataError(f"{folder}: expected a converted set (set.json is missing)") from None
    version = found.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{folder}: a set of schema version {version}, this is version {SCHEMA_VERSION}; convert it again"
        )
    return found


def files(folder: Path, split: str | None = None) -> list[Path]:
    """The shards, in their order."""
    facts(folder)
    return sorted((folder / "data").glob(f"{split or '*'}-*.parquet"))


def verdicts(folder: Path) -> dict[str, str]:
    """id -> "accept" or "reject", as reviewed."""
    path = folder / "review.jsonl"
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
            found[entry["id"]] = entry["verdict"]
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # a line that a kill cut off
    return found


def rows(
    folder: Path, *, split: str | None = None, columns: Sequence[str] | None = None, reviewed: bool = True
) -> Iterator[dict]:
    """The rows as dicts, in order, a few in memory at a time. reviewed: without those that were rejected."""
    rejected = {id for id, verdict in verdicts(folder).items() if verdict == "reject"} if reviewed else set()
    wanted = None if columns is None else list(dict.fromkeys(["id", *columns]))
    for path in files(folder, split):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted):
                yield from (row for row in batch.to_pylist() if row["id"] not in rejected)
