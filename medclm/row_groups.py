"""Rows -> row groups of a Parquet file, in which an image that several questions are about stands once.

Arrow would find equal images by copying and hashing each. Here they are one Python object, so Parquet is given the
dictionary that it would have made. Readers see medclm.schema.SCHEMA.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from medclm.schema import FIELDS, SCHEMA

_DICTIONARY_BYTES = 256 * 2**20  # of a row group's images; Parquet's own limit holds no more than five of them
_IMAGE = pa.struct([("bytes", pa.dictionary(pa.int32(), pa.binary())), ("path", pa.string())])
_WRITTEN = SCHEMA.set(SCHEMA.get_field_index("image"), pa.field("image", _IMAGE)).remove_metadata()
# Where Arrow's readers find the types to restore: those of SCHEMA, in which nothing is a dictionary.
_METADATA = SCHEMA.metadata | {b"ARROW:schema": base64.b64encode(SCHEMA.serialize())}


@cache
def _compression() -> dict[str, str]:
    """Codec of each column, by its path: pictures are compressed already."""
    with pq.ParquetWriter(sink := pa.BufferOutputStream(), SCHEMA) as empty:
        empty.write_table(SCHEMA.empty_table())
    schema = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    paths = [schema.column(number).path for number in range(len(schema))]
    return {path: "none" if path == "image.bytes" else "zstd" for path in paths}


@contextmanager
def writer(path: Path) -> Iterator[pq.ParquetWriter]:
    with pq.ParquetWriter(
        path,
        _WRITTEN,
        store_schema=False,
        compression=_compression(),
        compression_level={path: 1 for path, codec in _compression().items() if codec == "zstd"},
        dictionary_pagesize_limit=_DICTIONARY_BYTES,
    ) as opened:
        opened.add_key_value_metadata(_METADATA)
        yield opened


def table(rows: list[dict]) -> pa.Table:
    """Rows by medclm.schema, for :func:`writer`. Equal images should be the same ``bytes`` object."""
    columns = [
        _images([row["image"] for row in rows]) if name == "image" else pa.array([row[name] for row in rows], kind)
        for name, kind in FIELDS
    ]
    return pa.Table.from_arrays(columns, schema=_WRITTEN)


def _images(images: list[dict]) -> pa.StructArray:
    once = {id(image["bytes"]): image["bytes"] for image in images}
    place = {each: number for number, each in enumerate(once)}
    indices = pa.array([place[id(image["bytes"])] for image in images], pa.int32())
    data = pa.DictionaryArray.from_arrays(indices, pa.array(once.values(), pa.binary()))
    paths = pa.array([image["path"] for image in images], pa.string())
    return pa.StructArray.from_arrays([data, paths], fields=list(_IMAGE))
