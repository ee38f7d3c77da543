"""Tables of comma-separated values, row by row; plain, gzipped or zipped, whatever their name says."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from medclm.problems import DataError, Problems, Reason

Row = tuple[int, list[str]]  # the line in its file, the values that were asked for


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Text of a table. By its first bytes: Kaggle's client saves zip archives as ``train.csv``."""
    with open(path, "rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        binary: Any
        if start.startswith(b"\x1f\x8b"):
            binary = gzip.open(raw)
        elif start == b"PK\x03\x04":
            archive = zipfile.ZipFile(raw)
            tables = [n for n in archive.namelist() if n.endswith(".csv") and not n.startswith("__MACOSX/")]
            if len(tables) != 1:
                raise DataError(f"{path}: expected an archive of one csv file, got {len(tables)} of them")
            binary = archive.open(tables[0])
        else:
            binary = raw
        with binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as text:
            yield text


def _lines(path: Path) -> Iterator[Row]:
    """Every line that is not empty; raises DataError where the file is no text table, or ends too early."""
    try:
        with opened(path) as text:
            reader = csv.reader(text, strict=True)
            for row in reader:
                if any(row):
                    yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError, EOFError, OSError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: expected comma-separated text, got {type(error).__name__}: {error}") from error


def header_of(path: Path) -> list[str]:
    """The names in the first line; empty for an empty file."""
    return [name.strip() for name in next(_lines(path), (0, []))[1]]


def rows(path: Path, columns: Sequence[str], problems: Problems, optional: Sequence[str] = ()) -> Iterator[Row]:
    """The values of ``columns``, then of ``optional`` ("" where the table has no such column), stripped.

    Raises DataError where the header lacks a column. A row that is too short, or has values behind the header's last
    column, is counted as malformed and left out.
    """
    lines = _lines(path)
    header = [name.strip() for name in next(lines, (0, []))[1]]
    if lacking := [name for name in columns if name not in header]:
        raise DataError(
            f"{path}: expected a header with {','.join(columns)}, got {','.join(header)} (without {','.join(lacking)})"
        )
    places = [header.index(name) if name in header else None for name in (*columns, *optional)]
    last = max(place for place in places if place is not None)
    for line, row in lines:
        if len(row) <= last or any(row[len(header) :]):
            what = f"{path.name}:{line}: expected {len(header)} fields, got {len(row)}"
            problems.add(Reason.ROW_MALFORMED, what)
            continue
        yield line, ["" if place is None else row[place].strip() for place in places]


def rows_by_position(path: Path, header: Sequence[str], count: int, problems: Problems) -> Iterator[Row]:
    """The first ``count`` values of each row, for tables whose header has more fields than their rows.

    Raises DataError where the header does not begin with ``header``.
    """
    lines = _lines(path)
    found = [name.strip() for name in next(lines, (0, []))[1]]
    if found[: len(header)] != list(header):
        raise DataError(f"{path}: expected a header that begins with {','.join(header)}, got {','.join(found)}")
    for line, row in lines:
        if len(row) < count:
            problems.add(Reason.ROW_MALFORMED, f"{path.name}:{line}: expected {count} fields, got {len(row)}")
            continue
        yield line, [value.strip() for value in row[:count]]
