"""SLAKE: diseases and organs in one list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from medclm import readers
from medclm.cases import Case
from medclm.problems import DataError, Problems, Reason
from medclm.readers.slake import kind_of, organ_boxes

DETECTION = [{"Atelectasis": [212.0, 100.0, 40.0, 50.0]}, {"Left Lung": [200, 50, 100, 200]}, {"Lung": [0, 50, 90, 9]}]


def folder(root: Path, number: int, detection: object, modality: str = "X-Ray") -> Path:
    made = root / "imgs" / f"xmlab{number}"
    made.mkdir(parents=True)
    Image.new("L", (300, 260)).save(made / "source.jpg")
    Image.new("RGB", (300, 260)).save(made / "mask.png")
    (made / "detection.json").write_text(detection if isinstance(detection, str) else json.dumps(detection))
    (made / "question.json").write_text(json.dumps([{"qid": 1, "modality": modality}]))
    return made


def read(root: Path, problems: Problems | None = None, **options: object) -> list[Case]:
    return list(readers.read("slake", root, None, Problems(strict=True) if problems is None else problems, **options))


def test_diseases_are_lesions_and_organs_are_not(tmp_path: Path) -> None:
    made = folder(tmp_path, 10, DETECTION)
    folder(tmp_path, 9, [{"Liver Cancer": [1, 2, 3, 4]}], "MRI")
    (tmp_path / "test.json").write_text(json.dumps([{"img_name": "xmlab10/source.jpg"}]))
    ninth, tenth = read(tmp_path)
    assert (ninth.id, tenth.id) == ("xmlab9", "xmlab10")
    assert [(each.label, each.box) for each in tenth.lesions] == [("atelectasis", (212, 100, 252, 150))]
    assert (tenth.modality, ninth.modality, tenth.split, ninth.split) == ("XR", "MR", "test", None)
    assert (tenth.width, tenth.height, tenth.image.path) == (300, 260, str(made / "source.jpg"))
    assert tenth.organs == str(made / "mask.png")
    assert [each.label for each in ninth.lesions] == ["liver cancer"]
    assert [each.id for each in read(tmp_path / "imgs")] == ["xmlab9", "xmlab10"]
    assert organ_boxes(made, Problems(strict=True)) == {"left lung": ((200, 50, 300, 250),), "lung": ((0, 50, 90, 59),)}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Brain Edema", "disease"),
        ("Brain Non-enhancing Tumor", "disease"),
        ("Effusion", "disease"),
        ("Cardiomegaly", "disease"),
        ("Heart", "organ"),
        ("Right Kidney", "organ"),
        ("Spinal Cord", "organ"),
        ("Small Bowel", "organ"),
        ("Thing", None),
    ],
)
def test_names_are_told_apart_by_their_words(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


def test_unknown_names_bad_boxes_and_broken_files_are_counted(tmp_path: Path) -> None:
    folder(tmp_path, 1, [{"Thing": [1, 2, 3, 4]}, {"Mass": [1, 2, 3]}, {"Mass": [1, 2, 3, 0]}])
    folder(tmp_path, 2, '[{"Mass": [1, 2')
    folder(tmp_path, 3, {"Mass": [1, 2, 3, 4]}, "Echo")
    (folder(tmp_path, 4, []) / "source.jpg").unlink()
    (folder(tmp_path, 5, []) / "source.jpg").write_bytes(b"no picture")
    problems = Problems()
    cases = read(tmp_path, problems)
    assert [(each.id, each.lesions) for each in cases] == [("xmlab1", ()), ("xmlab2", ()), ("xmlab3", ())]
    assert cases[2].modality == "other"
    assert problems.counts == {
        Reason.LABEL_UNKNOWN.value: 1,
        Reason.BOX_MALFORMED.value: 1,
        Reason.BOX_EMPTY.value: 1,
        Reason.ROW_MALFORMED.value: 2,
        Reason.IMAGE_MISSING.value: 1,
        Reason.IMAGE_UNREADABLE.value: 1,
    }


def test_what_is_not_slake_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected folders xmlab0, xmlab1, \.\., got none"):
        read(tmp_path)
    folder(tmp_path, 1, [])
    (tmp_path / "train.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"train\.json: expected a list of questions"):
        read(tmp_path)
