"""What is written reads as the schema says, and equal images stand once in a row group."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_cases import small_cases, small_settings

from medclm import row_groups
from medclm.convert import convert
from medclm.schema import SCHEMA


@pytest.fixture
def rows(tmp_path) -> list[dict]:
    cases = [json.loads(case.to_json()) for case in small_cases(tmp_path / "images", 4)]
    items = [json.dumps({"split": "train", "case": case, "partner": cases[-1]}) for case in cases]
    made = convert({"item": items, "settings": [small_settings().to_json()] * len(items)})
    return [row for each in made["rows"] for row in each]


def test_readers_see_the_schema_and_the_rows(tmp_path, rows):
    path = tmp_path / "rows.parquet"
    with row_groups.writer(path) as writer:
        for group in (rows[:5], rows[5:]):
            writer.write_table(row_groups.table(group))
    found = pq.ParquetFile(path)
    assert found.schema_arrow.equals(SCHEMA) and found.schema_arrow.metadata == SCHEMA.metadata
    assert found.metadata.num_row_groups == 2
    assert found.read().equals(pa.Table.from_pylist(rows, SCHEMA))


def test_an_image_stands_once_in_a_row_group(tmp_path, rows):
    image = bytes(range(256)) * 2000
    others = {"once": [row | {"image": {"bytes": image, "path": None}} for row in rows]}
    others["each"] = [
        row | {"image": {"bytes": image + bytes([n]), "path": None}} for n, row in enumerate(others["once"])
    ]
    sizes = {}
    for name, group in others.items():
        with row_groups.writer(tmp_path / name) as writer:
            writer.write_table(row_groups.table(group))
        column = pq.ParquetFile(tmp_path / name).metadata.row_group(0).column(5)
        assert column.path_in_schema == "image.bytes" and "RLE_DICTIONARY" in column.encodings
        sizes[name] = column.total_uncompressed_size
    assert sizes["once"] < 1.01 * len(image)
    assert sizes["each"] > len(rows) * len(image)


def test_equal_images_that_are_not_one_object_are_no_error(rows):
    copies = [row | {"image": {"bytes": bytes(bytearray(row["image"]["bytes"])), "path": None}} for row in rows]
    table = row_groups.table(copies)
    assert table.column("image").to_pylist() == [row["image"] for row in rows]
