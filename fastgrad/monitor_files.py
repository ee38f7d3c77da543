"""Long-format parquet and csv files of ``fastgrad.Monitor``: one row per step and layer."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = (".parquet", ".csv")
INTEGERS = ("step", "n", "nonfinite", "zeroed", "saturated")
TEXTS = ("layer",)

Columns = dict[str, np.ndarray]  # name -> [rows]


def write(path: str | os.PathLike, names: list[str], chunks: Iterable[Columns]) -> Path:
    """Write the chunks one after the other; the file appears under its name complete or not at all."""
    path = Path(path)
    suffix = _suffix(path, "write")
    arrow = _import_pyarrow("write") if suffix == ".parquet" else None
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, because os.replace is atomic only inside one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if arrow is None:
            _write_csv(temporary, names, chunks)
        else:
            _write_parquet(arrow, temporary, names, chunks)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    return path


def read(path: str | os.PathLike) -> Columns:
    """The columns of a written file: int64 for step and counts, str for layer, float64 for the rest."""
    path = Path(path)
    if _suffix(path, "read") == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            names = next(rows)
            columns = list(zip(*rows, strict=True)) or [()] * len(names)
        return {name: _array(name, values) for name, values in zip(names, columns, strict=True)}
    table = _import_pyarrow("read").parquet.read_table(path)
    return {name: _array(name, table.column(name).to_numpy()) for name in table.column_names}


def _write_csv(path: Path, names: list[str], chunks: Iterable[Columns]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for chunk in chunks:
            # tolist gives Python numbers, whose repr reads back to the same bits.
            writer.writerows(zip(*(chunk[name].tolist() for name in names), strict=True))


def _write_parquet(arrow: Any, path: Path, names: list[str], chunks: Iterable[Columns]) -> None:
    def kind(name: str) -> Any:
        if name in TEXTS:
            return arrow.string()
        return arrow.int64() if name in INTEGERS else arrow.float64()

    schema = arrow.schema([(name, kind(name)) for name in names])
    with arrow.parquet.ParquetWriter(path, schema) as writer:
        for chunk in chunks:
            writer.write_table(
                arrow.table([arrow.array(chunk[name], kind(name)) for name in names], schema=schema)
            )


def _array(name: str, values: Iterable) -> np.ndarray:
    if name in TEXTS:
        return np.array(list(values), dtype=str)
    return np.array(list(values), dtype=np.int64 if name in INTEGERS else np.float64)


def _suffix(path: Path, verb: str) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"Monitor.{verb}: path must end in {' or '.join(SUFFIXES)}, got {str(path)!r}")
    return suffix


def _import_pyarrow(verb: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"Monitor.{verb}: a .parquet file needs pyarrow (pip install pyarrow); a .csv file needs nothing"
        ) from error
    return pyarrow
