"""NIH ChestX-ray14: a header with commas in its names, one finding under two names, labels mined from reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from medclm import readers
from medclm.cases import Case
from medclm.problems import DataError, Problems, Reason

HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
BOXES = (
    HEADER + "00013118_008.png,Infiltrate,225.5,547,86.5,79\n"
    "00000001_000.png,Effusion,1000,1000,100,100,,,\n00013118_008.png,Mass,1,2,3,4\n"
)
ENTRIES = """Image Index,Finding Labels,Patient ID,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],
00013118_008.png,Infiltration|Mass|Pleural_Thickening,13118,2500,2048,0.171,0.171,
00000002_000.png,No Finding,2,2500,2048,0.171,0.171,
00000003_000.png,Hernia,3,2500,2048,0.168,0.168,
"""


def read(folder: Path, boxes: str = BOXES, problems: Problems | None = None, **options: object) -> list[Case]:
    (folder / "BBox_List_2017.csv").write_text(boxes)
    (folder / "entries.csv").write_text(ENTRIES)
    path = folder / "BBox_List_2017.csv"
    return list(readers.read("nih", path, None, Problems(strict=True) if problems is None else problems, **options))


def test_boxes_are_read_by_position_and_clipped(tmp_path: Path) -> None:
    first, second = read(tmp_path)
    assert [(each.label, each.box) for each in first.lesions] == [
        ("infiltration", (225.5, 547, 312, 626)),
        ("mass", (1, 2, 4, 6)),
    ]
    assert [(each.label, each.box) for each in second.lesions] == [("pleural effusion", (1000, 1000, 1024, 1024))]
    assert (first.patient, first.width, first.height, first.absent) == ("00013118", 1024, 1024, ())


def test_absent_is_what_neither_the_boxes_nor_the_entries_give(tmp_path: Path) -> None:
    first, second = read(tmp_path, entries=tmp_path / "entries.csv")
    assert first.absent == ("hernia",)  # pleural thickening has no box, and is not absent
    assert second.absent == ()  # the entries do not know the image


def test_normal_images_are_cases_where_asked_for(tmp_path: Path) -> None:
    cases = read(tmp_path, entries=tmp_path / "entries.csv", normals=True)
    assert [each.id for each in cases] == ["00013118_008.png", "00000001_000.png", "00000002_000.png"]
    assert cases[2].lesions == () and cases[2].absent == ("hernia", "infiltration", "mass", "pleural thickening")
    with pytest.raises(DataError, match="entries: expected"):
        read(tmp_path, normals=True)


def test_the_test_list_gives_the_split(tmp_path: Path) -> None:
    (tmp_path / "test_list.txt").write_text("00000001_000.png\n")
    assert [each.split for each in read(tmp_path, test_list=tmp_path / "test_list.txt")] == [None, "test"]


def test_malformed_rows_and_boxes_are_counted_and_another_header_refused(tmp_path: Path) -> None:
    problems = Problems()
    cases = read(tmp_path, HEADER + "a.png,Mass,1,2,3\n,Mass,1,2,3,4\nb.png,Mass,1,2,0,4\n", problems)
    assert [each.lesions for each in cases] == [()]
    assert problems.counts == {Reason.ROW_MALFORMED.value: 2, Reason.BOX_EMPTY.value: 1}
    with pytest.raises(DataError, match=r"begins with Image Index,Finding Label,Bbox \[x,y,w,h\], got a,b"):
        read(tmp_path, "a,b\n")
