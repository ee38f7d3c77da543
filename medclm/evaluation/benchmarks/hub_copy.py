"""Copies of VQA-RAD and PathVQA as parquet files: columns image ({bytes, path}), question, answer; files
``<split>-<n>-of-<m>.parquet``, in a folder ``data`` or not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from medclm.evaluation.benchmarks import files
from medclm.evaluation.questions import Benchmark, Question, decoded
from medclm.problems import DataError, Problems

COLUMNS = ("image", "question", "answer")


def is_copy(path: Path) -> bool:
    return path.suffix == ".parquet" or (path.is_dir() and bool(_shards(path, "*")))


def read(kind: str, path: Path, problems: Problems) -> Benchmark:
    """The test split; ids are row numbers, questions are closed where the answer is yes or no."""
    shards = [path] if path.is_file() else _shards(path, "test")
    if not shards:
        raise DataError(f"{kind}: expected test-*.parquet in {path}, got {', '.join(_names(path))}")
    questions: list[Question] = []
    places: list[tuple[str, int]] = []
    for shard in shards:
        for number, (name, entry) in enumerate(_entries(kind, shard)):
            answer = files.text_of(entry["answer"])
            questions.append(
                Question(
                    id=str(len(questions)),
                    question=files.text_of(entry["question"]),
                    answer=answer,
                    answer_type=files.yes_no_type(answer),
                    image=name,
                    facts=(name,),
                )
            )
            places.append((str(shard), number))
    others = {name for shard in _shards(path, "train") for name, _ in _entries(kind, shard)} if path.is_dir() else ()

    def load(number: int) -> Image.Image:
        shard, row = places[number]
        return decoded(_images(shard)[row].as_py()["bytes"], f"{shard}, row {row}")

    return files.finish(kind, path, f"{kind}, {path.name}", questions, load, trained_on=others)


def _entries(kind: str, shard: Path) -> Iterator[tuple[str, dict]]:
    """(name of the image: a hash of its bytes, the other columns) of every row."""
    try:
        with pq.ParquetFile(shard) as file:
            lacking = [name for name in COLUMNS if name not in file.schema_arrow.names]
            if lacking:
                raise DataError(
                    f"{kind}: expected the columns {', '.join(COLUMNS)} in {shard}, got "
                    f"{', '.join(file.schema_arrow.names)}"
                )
            for batch in file.iter_batches(64, columns=list(COLUMNS)):
                for entry in batch.to_pylist():
                    raw = (entry["image"] or {}).get("bytes")
                    if not raw:
                        raise DataError(f"{kind}: expected images inside {shard}, got a row without bytes")
                    yield hashlib.sha256(raw).hexdigest()[:24], entry
    except (OSError, pa.ArrowException, AttributeError) as error:
        raise DataError(f"{kind}: expected a parquet file with images at {shard} ({error})") from None


@lru_cache(maxsize=1)  # questions are asked in order: one shard's images are in memory
def _images(shard: str) -> pa.ChunkedArray:
    return pq.read_table(shard, columns=["image"])["image"]


def _shards(path: Path, split: str) -> list[Path]:
    return sorted(path.glob(f"{split}-*.parquet")) or sorted((path / "data").glob(f"{split}-*.parquet"))


def _names(path: Path) -> list[str]:
    return [each.name for each in _shards(path, "*")][:5] or ["none"]
