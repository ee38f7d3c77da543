"""DeepLesion: lists in quoted cells, several lesions a slice, Hounsfield units behind an offset."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from medclm import readers
from medclm.cases import Case
from medclm.problems import DataError, Problems, Reason

ROW = {
    "File_name": "000001_01_02_109.png",
    "Patient_index": "1",
    "Study_index": "1",
    "Series_ID": "2",
    "Key_slice_index": "109",
    "Measurement_coordinates": "233.5, 95.0, 234.9, 106.8, 226.4, 100.3, 241.1, 99.5",
    "Bounding_boxes": "226.2, 90.2, 241.4, 111.9",
    "Lesion_diameters_Pixel_": "11.9, 14.7",
    "Normalized_lesion_location": "0.44, 0.29, 0.43",
    "Coarse_lesion_type": "5",
    "Possibly_noisy": "0",
    "Slice_range": "103, 115",
    "Spacing_mm_px_": "0.488281, 0.488281, 5",
    "Image_size": "512, 512",
    "DICOM_windows": "-1500, 500",
    "Patient_gender": "F",
    "Patient_age": "62",
    "Train_Val_Test": "3",
}


def written(path: Path, *changes: dict[str, str]) -> Path:
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, ROW)
        table.writeheader()
        table.writerows(ROW | change for change in changes)
    return path


def read(path: Path, images: Path | None = None, problems: Problems | None = None, **options: object) -> list[Case]:
    return list(
        readers.read("deeplesion", path, images, Problems(strict=True) if problems is None else problems, **options)
    )


def test_a_slice_has_its_box_window_offset_and_split(tmp_path: Path) -> None:
    path = written(tmp_path / "DL_info.csv", {})
    assert '"226.2, 90.2, 241.4, 111.9"' in path.read_text()  # the cell is quoted, as in the source
    (case,) = read(path)
    (lesion,) = case.lesions
    assert (lesion.label, lesion.box) == ("lung lesion", (226.2, 90.2, 241.4, 111.9))
    assert lesion.attributes["Lesion_diameters_Pixel_"] == "11.9, 14.7"
    assert (case.image.path, case.image.window, case.image.offset) == ("000001_01_02/109.png", (-1500, 500), -32768)
    assert (case.width, case.height, case.patient, case.split, case.modality) == (512, 512, "1", "test", "CT")
    assert case.absent == ()


def test_the_offset_gives_hounsfield_units_of_the_stored_file(tmp_path: Path) -> None:
    import numpy as np

    folder = tmp_path / "Images_png" / "000001_01_02"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((4, 4), 32768 - 1000, np.uint16)).save(folder / "109.png")
    for images in (tmp_path, tmp_path / "Images_png"):
        (case,) = read(written(tmp_path / "DL_info.csv", {}), images)
        stored = np.asarray(Image.open(case.image.path)).astype(np.float32)
        assert (stored + case.image.offset == -1000).all()


def test_several_boxes_in_one_cell_and_several_rows_of_one_slice_are_one_case(tmp_path: Path) -> None:
    two = {"Bounding_boxes": "1, 2, 30, 40, 50, 60, 70, 80", "Lesion_diameters_Pixel_": "1, 2, 3, 4"}
    path = written(tmp_path / "DL_info.csv", two, {"File_name": "000002_01_01_001.png", "Patient_index": "2"}, {})
    first, second = read(path)
    assert [each.box for each in first.lesions] == [(1, 2, 30, 40), (50, 60, 70, 80), (226.2, 90.2, 241.4, 111.9)]
    assert [each.attributes["Lesion_diameters_Pixel_"] for each in first.lesions] == ["1, 2", "3, 4", "11.9, 14.7"]
    # One location for two lesions says nothing about either.
    assert ["Normalized_lesion_location" in each.attributes for each in first.lesions] == [False, False, True]
    assert len(second.lesions) == 1


def test_noisy_lesions_are_counted_and_dropped_or_kept(tmp_path: Path) -> None:
    path, problems = written(tmp_path / "DL_info.csv", {"Possibly_noisy": "1"}, {}), Problems()
    assert [len(case.lesions) for case in read(path, problems=problems)] == [1]
    assert problems.counts == {Reason.NOISY.value: 1}
    assert [len(case.lesions) for case in read(path, noisy="keep")] == [2]
    with pytest.raises(DataError, match="noisy: expected one of drop, keep, got 'no'"):
        read(path, noisy="no")


@pytest.mark.parametrize(("kind", "label"), [("-1", "lesion"), ("1", "bone lesion"), ("8", "pelvic lesion")])
def test_types_are_words_and_may_be_left_out(tmp_path: Path, kind: str, label: str) -> None:
    path = written(tmp_path / "DL_info.csv", {"Coarse_lesion_type": kind})
    assert read(path)[0].lesions[0].label == label
    assert read(path, typed=False)[0].lesions[0].label == "lesion"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Coarse_lesion_type": "9"}, Reason.LABEL_UNKNOWN),
        ({"Bounding_boxes": ""}, Reason.BOX_MALFORMED),
        ({"Bounding_boxes": "1, 2, 3"}, Reason.BOX_MALFORMED),
        ({"Bounding_boxes": "1, 2, x, 4"}, Reason.BOX_MALFORMED),
        ({"Bounding_boxes": "600, 2, 700, 4"}, Reason.BOX_OUTSIDE),
        ({"DICOM_windows": "500, -1500"}, Reason.ROW_MALFORMED),
        ({"DICOM_windows": ""}, Reason.ROW_MALFORMED),
        ({"Image_size": "512"}, Reason.ROW_MALFORMED),
        ({"Train_Val_Test": "0"}, Reason.ROW_MALFORMED),
        ({"File_name": "109.png"}, Reason.ROW_MALFORMED),
        ({"Patient_index": ""}, Reason.ROW_MALFORMED),
    ],
)
def test_what_cannot_be_used_is_counted_by_reason(tmp_path: Path, change: dict, reason: Reason) -> None:
    problems = Problems()
    cases = read(written(tmp_path / "DL_info.csv", change), problems=problems)
    assert problems.counts == {reason.value: 1} and not any(case.lesions for case in cases)
    assert problems.examples[reason.value][0].startswith("DL_info.csv:2: ")
