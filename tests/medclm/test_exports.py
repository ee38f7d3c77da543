"""A set in the formats of trainers, read back by the libraries that read them."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medclm.codecs import CODECS
from medclm.exports import FORMATS, export
from medclm.problems import DataError
from medclm.schema import SCHEMA, SCHEMA_VERSION

BOX = [10.0, 5.0, 30.0, 25.0]
WIDTH, HEIGHT = 60, 50


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH), np.uint8)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, "PNG")
    return buffer.getvalue()


def row(number: int, split: str, stage: str, **other) -> dict:
    """Rows of one image come by three: a stage each."""
    return {
        "id": f"row.{number}",
        "case": f"case{number // 3}",
        "source": "clinic",
        "split": split,
        "patient": "p",
        "image": {"bytes": png(number // 3), "path": None},
        "width": WIDTH,
        "height": HEIGHT,
        "orig_width": WIDTH,
        "orig_height": HEIGHT,
        "modality": "XR",
        "laterality_verified": False,
        "domain": "nodule_XR",
        "boxes": [BOX],
        "labels": ["nodule"],
        "organs": ["left lung"],
        "organ_score": [1.0],
        "organ_iou": [0.1],
        "organ_coverage": [1.0],
        "organ_regions": [""],
        "host_rule": "coverage",
        "kind": "what",
        "stage": stage,
        "box_drawn": stage == "easy",
        "seed_text": "There is a nodule in the left lung.",
        "question": f"What is abnormal, {number}?",
        "cot": "" if stage == "hard" else "It is at <box:0>.",
        "answer": "nodule",
        "answer_type": "OPEN",
        "cot_source": "" if stage == "hard" else "template",
        "licence": "CC0-1.0" if number % 2 else "CC-BY-4.0",
        "provenance_hash": "h",
    } | other


def write_set(folder: Path, rows: list[dict]) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "set.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION}))
    for split in ("train", "val", "test"):
        if own := [each for each in rows if each["split"] == split]:
            pq.write_table(pa.Table.from_pylist(own, SCHEMA), folder / "data" / f"{split}-00000.parquet")
    return folder


ROWS = [row(number, "train" if number < 9 else "val", ("easy", "medium", "hard")[number % 3]) for number in range(12)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", ROWS)


def plain_reply(each: dict) -> str:
    reasoning = "Reasoning: It is at [0.167, 0.100, 0.500, 0.500].\n\n" if each["cot"] else ""
    return f"{reasoning}Answer: nodule"


def test_llava_is_its_list_of_conversations(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "out", "llava")
    found = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [each["id"] for each in found] == [each["id"] for each in ROWS[:9]]
    for each, source in zip(found, ROWS, strict=False):
        assert each["conversations"] == [
            {"from": "human", "value": f"<image>\n{source['question']}"},
            {"from": "gpt", "value": plain_reply(source)},
        ]
        path = tmp_path / "out" / each["image"]
        assert path.read_bytes() == source["image"]["bytes"]
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 4  # one an image, not one a row
    assert len(json.loads((tmp_path / "out" / "val.json").read_text())) == 3


def test_llava_med_has_domains_and_images_on_both_sides(tmp_path: Path) -> None:
    write_set(tmp_path / "set", [row(number, "train", "hard") for number in range(30)])
    export(tmp_path / "set", tmp_path / "out", "llava_med")
    found = json.loads((tmp_path / "out" / "train.json").read_text())
    first = [each["conversations"][0]["value"].startswith("<image>\n") for each in found]
    assert 5 < sum(first) < 25
    for each in found:
        assert each["conversations"][0]["value"].count("<image>") == 1
        assert [name for name, on in each["domain"].items() if on] == ["chest_xray"]


@pytest.mark.parametrize(
    ("format", "pattern"),
    [
        ("qwen", r'\{"bbox_2d": \[\d+, \d+, \d+, \d+\], "label": "nodule"\}'),
        ("internvl", r"<ref>nodule</ref><box>\[\[167, 100, 500, 500\]\]</box>"),
        ("paligemma", r"<loc0102><loc0171><loc0512><loc0512> nodule"),
    ],
)
def test_families_write_boxes_their_way(folder: Path, tmp_path: Path, format: str, pattern: str) -> None:
    assert export(folder, tmp_path / "out", format, stages=("easy",), split="train")["codec"] == FORMATS[format].codec
    [path] = [each for each in (tmp_path / "out").glob("train.*")]
    assert len(re.findall(pattern.replace('"', r"\\?\""), path.read_text())) == 3


def test_internvl_comes_with_sizes_and_its_meta_file(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "out", "internvl")
    lines = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert {(each["width"], each["height"]) for each in lines} == {(WIDTH, HEIGHT)}
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["medclm_train"]["length"] == len(lines) == 9
    assert (tmp_path / "out" / meta["medclm_train"]["annotation"]).exists()


def test_paligemma_has_prefix_and_suffix(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "out", "paligemma", stages=("hard",))
    [first, *_] = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert (first["prefix"], first["suffix"]) == ("answer en What is abnormal, 2?", "Answer: nodule")


@pytest.mark.parametrize("format", ["trl", "trl_prompt"])
def test_trl_loads_in_datasets_with_its_images(folder: Path, tmp_path: Path, format: str) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: parquet is not written")
    export(folder, tmp_path / "out", format)
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 9, "validation": 3}
    assert isinstance(loaded["train"].features["images"].feature, datasets.Image)
    for each, source in zip(loaded["train"], ROWS, strict=False):
        [image] = each["images"]
        np.testing.assert_array_equal(np.array(image), pixels(int(source["id"][4:]) // 3))
        turns = each["messages"] if format == "trl" else each["prompt"] + each["completion"]
        assert turns == [
            {"role": "user", "content": source["question"]},
            {"role": "assistant", "content": plain_reply(source)},
        ]


def test_parquet_files_and_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed: parquet is not written")
    monkeypatch.setattr("medclm.exports.parquet.BYTES_A_FILE", 4 * len(png(0)))
    monkeypatch.setattr("medclm.exports.parquet.ROWS_A_GROUP", 2)
    write_set(tmp_path / "set", [row(number, "train", "hard") for number in range(11)])
    export(tmp_path / "set", tmp_path / "out", "trl")
    files = sorted((tmp_path / "out" / "data").glob("*.parquet"))
    assert [path.name for path in files] == [f"train-{number:05d}.parquet" for number in range(3)]
    assert [pq.ParquetFile(path).num_row_groups for path in files] == [2, 2, 2]
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in files) == 11


def test_webdataset_loads_and_has_the_same_bytes_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed: nothing to load with")
    monkeypatch.setattr("medclm.exports.tars.ROWS_A_SHARD", 4)
    for name in ("one", "two"):
        export(folder, tmp_path / name, "webdataset")
    shards = sorted((tmp_path / "one").glob("train-*.tar"))
    assert [path.name for path in shards] == [f"train-{number:06d}.tar" for number in range(3)]
    for path in shards:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    loaded = list(webdataset.WebDataset([str(path) for path in shards], shardshuffle=False, empty_check=False))
    assert len(loaded) == 9
    for each, source in zip(loaded, ROWS, strict=False):
        assert each["png"] == source["image"]["bytes"]
        found = json.loads(each["json"])
        assert (found["id"], found["completion"]) == (source["id"], plain_reply(source))
        assert found["boxes"] == [BOX]
    with tarfile.open(shards[0]) as archive:
        assert {(member.mtime, member.uid, member.uname) for member in archive} == {(0, 0, "")}


def test_annotations_hold_no_pixels(tmp_path: Path) -> None:
    without = [each | {"image": {"bytes": None, "path": None}} for each in ROWS]
    write_set(tmp_path / "bare", without)
    write_set(tmp_path / "set", ROWS)
    for name in ("bare", "set"):
        export(tmp_path / name, tmp_path / f"{name}-out", "annotations")
        lines = (tmp_path / f"{name}-out" / "train.jsonl").read_text().splitlines()
        assert len(lines) == 9 and "image" not in json.loads(lines[0])
        assert {path.name for path in (tmp_path / f"{name}-out").iterdir()} == {
            "train.jsonl",
            "val.jsonl",
            "export.json",
        }
    with pytest.raises(DataError, match="expected an image"):
        export(tmp_path / "bare", tmp_path / "other", "jsonl")
    assert not (tmp_path / "other").exists()


def test_rejected_rows_are_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "review.jsonl").write_text(json.dumps({"id": "row.0", "verdict": "reject"}) + "\n")
    assert export(folder, tmp_path / "out", "jsonl")["rows"] == {"train": 8, "val": 3}


def test_split_stages_licences_and_parts(folder: Path, tmp_path: Path) -> None:
    found = export(
        folder,
        tmp_path / "out",
        "jsonl",
        split="train",
        stages=("easy", "hard"),
        licences=("CC0-1.0",),
        by_stage=True,
    )
    kept = [each for each in ROWS[:9] if each["stage"] != "medium" and each["licence"] == "CC0-1.0"]
    assert found["rows"] == {
        f"train-{stage}": sum(each["stage"] == stage for each in kept) for stage in ("easy", "hard")
    }
    assert found["licences"] == {"CC0-1.0": len(kept)}
    assert found["left_out_by_licence"] == {"CC-BY-4.0": 6 - len(kept)}
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == found
    assert {path.name for path in (tmp_path / "out").glob("*.jsonl")} == {"train-easy.jsonl", "train-hard.jsonl"}


def test_report_says_what_rounding_leaves(folder: Path, tmp_path: Path) -> None:
    coarse = export(folder, tmp_path / "one", "jsonl", codec="kosmos2")["round_trip_iou"]
    fine = export(folder, tmp_path / "two", "jsonl", codec="plain")["round_trip_iou"]
    assert coarse["mean"] < fine["mean"] <= 1.0
    assert fine["lowest"] > 0.98


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, format: str) -> None:
    """The eighth row names a box that it does not have."""
    bad = [each | ({"cot": "At <box:3>."} if each["id"] == "row.7" else {}) for each in ROWS]
    write_set(tmp_path / "set", bad)
    with pytest.raises(DataError, match=r"row row\.7: .*<box:3>"):
        export(tmp_path / "set", tmp_path / "out", format)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_image_token_in_a_text_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "set", [ROWS[0] | {"question": "What is <image>?"}])
    with pytest.raises(DataError, match="expected text without <image>"):
        export(tmp_path / "set", tmp_path / "out", "llava")


def test_what_is_there_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(DataError, match="new or empty"):
        export(folder, tmp_path / "out", "jsonl")
    assert (tmp_path / "out" / "mine").read_text() == "kept"


def test_arguments_are_named_in_errors(folder: Path, tmp_path: Path) -> None:
    for arguments, name in (
        ({"format": "xml"}, "format"),
        ({"format": "jsonl", "codec": "base64"}, "codec"),
        ({"format": "jsonl", "split": "dev"}, "split"),
        ({"format": "jsonl", "stages": ("harder",)}, "stages"),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            export(folder, tmp_path / "out", **arguments)
    with pytest.raises(DataError, match="no rows"):
        export(folder, tmp_path / "out", "jsonl", split="test")
    with pytest.raises(DataError, match=r"set\.json is missing"):
        export(tmp_path, tmp_path / "out", "jsonl")


@pytest.mark.parametrize("codec", CODECS)
def test_boxes_of_an_export_are_read_back(folder: Path, tmp_path: Path, codec: str) -> None:
    export(folder, tmp_path / "out", "jsonl", codec=codec, stages=("medium",))
    for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines():
        [(_, back)] = CODECS[codec].decode(json.loads(line)["completion"], (WIDTH, HEIGHT))
        cell = CODECS[codec].bin((WIDTH, HEIGHT))
        np.testing.assert_allclose(back, BOX, atol=max(cell) * 1.001)
