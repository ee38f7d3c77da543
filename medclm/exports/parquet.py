"""TRL's columns in parquet: ``images`` with ``messages``, or with ``prompt`` and ``completion``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medclm.codecs import Codec
from medclm.exports.images import image_bytes
from medclm.exports.text import Turns, turns

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS_A_GROUP = 64  # images are embedded: a reader holds a group
BYTES_A_FILE = 512 << 20


def _message(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def messages(text: Turns) -> dict:
    return {"messages": [_message("user", text.question), _message("assistant", text.reply)]}


def prompt_completion(text: Turns) -> dict:
    return {"prompt": [_message("user", text.question)], "completion": [_message("assistant", text.reply)]}


class ParquetWriter:
    """``data/<part>-00000.parquet``, .. of BYTES_A_FILE. ``datasets.load_dataset(folder)`` finds splits and images."""

    def __init__(self, folder: Path, codec: Codec, *, completion: bool) -> None:
        self._folder, self._codec = folder / "data", codec
        self._columns = prompt_completion if completion else messages
        self._schema = _schema(("prompt", "completion") if completion else ("messages",))
        self._parts: dict[str, _Part] = {}

    def add(self, part: str, row: Mapping) -> None:
        self._folder.mkdir(exist_ok=True)
        data = image_bytes(row)
        entry = {
            "id": row["id"],
            "images": [{"bytes": data, "path": None}],
            **self._columns(turns(row, self._codec)),
            "stage": row["stage"],
            "answer_type": row["answer_type"],
            "domain": row["domain"],
        }
        if part not in self._parts:
            self._parts[part] = _Part(self._folder, part, self._schema)
        self._parts[part].add(entry, len(data))

    def close(self) -> None:
        for part in self._parts.values():
            part.close()

    def abandon(self) -> None:
        for part in self._parts.values():
            part.abandon()


class _Part:
    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self._folder, self._name, self._schema = folder, name, schema
        self._file: pq.ParquetWriter | None = None
        self._files, self._bytes = 0, 0
        self._rows: list[dict] = []

    def add(self, entry: dict, size: int) -> None:
        self._rows.append(entry)
        self._bytes += size
        if len(self._rows) == ROWS_A_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._rows:
            if self._file is None:
                path = self._folder / f"{self._name}-{self._files:05d}.parquet"
                self._file, self._files = pq.ParquetWriter(path, self._schema), self._files + 1
            self._file.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []
        if self._file is not None and self._bytes >= BYTES_A_FILE:
            self.abandon()
            self._bytes = 0

    def close(self) -> None:
        self._flush()
        self.abandon()

    def abandon(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _schema(conversations: tuple[str, ...]) -> pa.Schema:
    """With the features of ``datasets`` in its metadata: what makes a column of structs one of images."""
    from datasets import Features, Image, List, Value

    turn = List({"role": Value("string"), "content": Value("string")})
    features = Features(
        {
            "id": Value("string"),
            "images": List(Image()),
            **{name: turn for name in conversations},
            "stage": Value("string"),
            "answer_type": Value("string"),
            "domain": Value("string"),
        }
    )
    return features.arrow_schema
