"""Verdicts of people about rows of a set: ``review.jsonl``, one a line, never rewritten."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from datetime import datetime, timezone
from pathlib import Path

import pyarrow.parquet as pq

from medclm.whole_files import writing

VERDICTS = ("accept", "reject")
FILE = "review.jsonl"


def append(folder: Path, id: str, verdict: str, provenance_hash: str) -> None:
    """On the disk when this returns. One at a time: two reviewers do not mix their lines.

    Raises ValueError for another verdict than accept and reject, DataError where it cannot be written.
    """
    if verdict not in VERDICTS:
        raise ValueError(f"verdict: expected one of {', '.join(VERDICTS)}, got {verdict!r}")
    entry = {
        "id": id,
        "verdict": verdict,
        "provenance_hash": provenance_hash,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    path = folder / FILE
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A reader may see the new size of a file before its bytes: another's line would look cut off.
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            # What a kill cut off must not swallow this line.
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            line = (b"\n" if torn else b"") + json.dumps(entry).encode() + b"\n"
            if os.write(handle, line) != len(line):  # the disk filled up within it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(handle)
        finally:
            os.close(handle)


def carry_over(old: Path, new: Path) -> tuple[int, int]:
    """Verdicts of ``old`` about rows that ``new`` has unchanged go into its review; the others into
    ``review.outdated.jsonl``. Returns how many of each."""
    if not (old / FILE).exists():
        return 0, 0
    lines = [line for line in (old / FILE).read_text().splitlines() if line.strip()]
    about = {entry["id"] for entry in map(_entry, lines) if entry}
    now = _provenance(new, about)
    kept = [line for line in lines if (entry := _entry(line)) and now.get(entry["id"]) == entry.get("provenance_hash")]
    lost = [line for line in lines if line not in set(kept)]
    outdated = "review.outdated.jsonl"
    if (old / outdated).exists():
        lost = (old / outdated).read_text().splitlines() + lost
    for name, chosen in ((FILE, kept), (outdated, lost)):
        if chosen:
            (new / name).write_text("\n".join(chosen) + "\n")
    return len(kept), len(lost)


def _entry(line: str) -> dict | None:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) and "id" in entry else None


def _provenance(folder: Path, ids: set[str]) -> dict[str, str]:
    found = {}
    for path in sorted((folder / "data").glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(4096, columns=["id", "provenance_hash"]):
                for row in batch.to_pylist():
                    if row["id"] in ids:
                        found[row["id"]] = row["provenance_hash"]
    return found
