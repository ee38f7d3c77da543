"""RSNA: one row a box, negatives, and classes that are neither normal nor positive."""

from __future__ import annotations

from pathlib import Path

import pytest

from medclm import readers
from medclm.cases import Case
from medclm.problems import DataError, Problems, Reason

HEADER = "patientId,x,y,width,height,Target\n"
LABELS = HEADER + "p1,264.0,152.0,213.0,379.0,1\nn1,,,,,0\np1,562,152,256,453,1\nn2,,,,,0\n"
CLASSES = """patientId,class
p1,Lung Opacity
p1,Lung Opacity
n1,Normal
n2,No Lung Opacity / Not Normal
"""


def read(folder: Path, labels: str = LABELS, problems: Problems | None = None, **options: object) -> list[Case]:
    (folder / "labels.csv").write_text(labels)
    return list(
        readers.read(
            "rsna", folder / "labels.csv", None, Problems(strict=True) if problems is None else problems, **options
        )
    )


def test_rows_of_a_patient_are_one_case_and_negatives_say_what_is_absent(tmp_path: Path) -> None:
    positive, normal, other = read(tmp_path)
    assert [each.box for each in positive.lesions] == [(264, 152, 477, 531), (562, 152, 818, 605)]
    assert {each.label for each in positive.lesions} == {"lung opacity"} and positive.absent == ()
    assert (positive.width, positive.height, positive.patient) == (1024, 1024, "p1")
    assert [(each.lesions, each.absent) for each in (normal, other)] == [((), ("lung opacity",))] * 2
    assert read(tmp_path, label="pneumonia")[1].absent == ("pneumonia",)


def test_negatives_may_be_left_to_the_normal_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text(CLASSES)
    info = tmp_path / "classes.csv"
    assert [each.id for each in read(tmp_path, class_info=info)] == ["p1", "n1", "n2"]
    assert [each.id for each in read(tmp_path, class_info=info, negatives="normal")] == ["p1", "n1"]
    assert [each.id for each in read(tmp_path, negatives="none")] == ["p1"]
    with pytest.raises(DataError, match="class_info: expected"):
        read(tmp_path, negatives="normal")


def test_contradictions_and_malformed_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text(CLASSES.replace("n1,Normal", "n1,Lung Opacity") + "n2,Unsure\n")
    problems = Problems()
    labels = LABELS + "p1,,,,,0\nn3,1,2,3,4,0\nn4,,,,,2\n,,,,,0\n"
    assert [each.id for each in read(tmp_path, labels, problems, class_info=tmp_path / "classes.csv")] == ["n2"]
    assert problems.counts == {Reason.ROW_MALFORMED.value: 5, Reason.LABEL_UNKNOWN.value: 1}


def test_a_positive_whose_box_is_bad_is_no_negative(tmp_path: Path) -> None:
    problems = Problems()
    (case,) = read(tmp_path, HEADER + "p1,,,,,1\n", problems)
    assert (case.lesions, case.absent) == ((), ()) and problems.counts == {Reason.BOX_MALFORMED.value: 1}


def test_images_are_dicom_files_by_patient(tmp_path: Path) -> None:
    (tmp_path / "p1.dcm").write_bytes(b"")
    (tmp_path / "labels.csv").write_text(LABELS)
    cases = list(readers.read("rsna", tmp_path / "labels.csv", tmp_path, Problems(), missing="skip"))
    assert [each.image.path for each in cases] == [str(tmp_path / "p1.dcm")]
