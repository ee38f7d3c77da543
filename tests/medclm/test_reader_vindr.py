"""VinDr-CXR and VinBigData: shuffled rows, several readers, images of another size than their boxes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from medclm import readers
from medclm.cases import Case
from medclm.problems import DataError, Problems, Reason

KAGGLE = """image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
a,Nodule/Mass,8,R1,100,200,300,400
b,No finding,14,R1,,,,
a,Nodule/Mass,8,R2,104,200,304,400
b,No finding,14,R2,,,,
a,ILD,5,R3,10.0,20.0,500.0,900.0
b,Other lesion,9,R3,1,1,9,9
"""
PHYSIONET = """image_id,rad_id,class_name,x_min,y_min,x_max,y_max
a,R1,Enlarged PA,1.5,2,30,40
"""
CONSENSUS = "image_id,class_name,x_min,y_min,x_max,y_max\na,Edema,1,2,30,40\n"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def read(path: Path, images: Path | None = None, problems: Problems | None = None, **options: object) -> list[Case]:
    return list(readers.read("vindr", path, images, Problems(strict=True) if problems is None else problems, **options))


def test_rows_of_an_image_are_joined_and_its_readers_merged(tmp_path: Path) -> None:
    path = written(tmp_path / "train.csv", KAGGLE)
    first, second = read(path)
    assert [(each.label, each.box, each.readers) for each in first.lesions] == [
        ("interstitial lung disease", (10, 20, 500, 900), ("R3",)),
        ("nodule or mass", (102, 200, 302, 400), ("R1", "R2")),
    ]
    assert (first.id, first.modality, first.width) == ("a", "XR", None)
    assert "Kaggle" not in first.licence and "VinBigData" in first.licence
    assert [each.label for each in second.lesions] == ["other lesion"]
    assert len(read(path, merge="none")[0].lesions) == 3
    assert [each.label for each in read(path, merge="majority")[0].lesions] == ["nodule or mass"]


def test_only_what_no_reader_marked_is_absent(tmp_path: Path) -> None:
    path = written(tmp_path / "train.csv", KAGGLE)
    for merge in ("none", "majority"):  # what majority drops was still seen by somebody
        first, second = read(path, merge=merge)
        assert first.absent == ()
        assert second.absent == ("interstitial lung disease", "nodule or mass")


def test_a_label_whose_box_is_bad_is_not_absent(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", KAGGLE + "b,ILD,5,R3,9,9,9,9\nb,,,R1,1,1,2,2\n")
    problems = Problems()
    assert read(path, problems=problems)[1].absent == ()
    assert problems.counts == {Reason.BOX_EMPTY.value: 1, Reason.ROW_MALFORMED.value: 1}


def test_both_of_physionets_tables_are_read_and_the_test_split_is_known(tmp_path: Path) -> None:
    (case,) = read(written(tmp_path / "annotations_train.csv", PHYSIONET))
    assert (case.lesions[0].label, case.lesions[0].readers, case.split) == ("enlarged pulmonary artery", ("R1",), None)
    assert case.licence.startswith("PhysioNet")
    (case,) = read(written(tmp_path / "annotations_test.csv", CONSENSUS))
    assert (case.lesions[0].box, case.lesions[0].readers, case.split) == ((1, 2, 30, 40), (), "test")


def test_a_consensus_is_not_merged_again(tmp_path: Path) -> None:
    path = written(tmp_path / "annotations_test.csv", CONSENSUS + "a,Edema,1,2,30,41\n")
    for merge in ("wbf", "majority", "union"):
        assert len(read(path, merge=merge)[0].lesions) == 2


@pytest.mark.parametrize("sizes", ["image_id,width,height\na,2000,1000\n", "image_id,dim0,dim1\na,1000,2000\n"])
def test_boxes_are_scaled_to_resized_images_by_the_originals_sizes(tmp_path: Path, sizes: str) -> None:
    Image.new("L", (500, 500)).save(tmp_path / "a.png")
    path = written(tmp_path / "t.csv", CONSENSUS.replace("1,2,30,40", "400,100,3000,900"))
    table = written(tmp_path / "sizes.csv", sizes)
    (case,) = read(path, tmp_path, original_sizes=table)
    assert case.lesions[0].box == (100, 50, 500, 450)  # clipped at 2000, then by 1/4 and 1/2
    assert (case.width, case.height) == (500, 500)
    (case,) = read(path, original_sizes=table)
    assert case.lesions[0].box == (400, 100, 2000, 900) and (case.width, case.height) == (2000, 1000)


def test_png_images_without_their_originals_sizes_are_refused(tmp_path: Path) -> None:
    Image.new("L", (500, 500)).save(tmp_path / "a.png")
    path = written(tmp_path / "t.csv", CONSENSUS)
    with pytest.raises(DataError, match="original_sizes: expected the sizes of the DICOM originals"):
        read(path, tmp_path)
    (case,) = read(path, tmp_path, original_sizes="same")
    assert case.lesions[0].box == (1, 2, 30, 40) and case.width == 500


def test_dicom_images_are_found_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.dicom").write_bytes(b"")
    (case,) = read(written(tmp_path / "t.csv", CONSENSUS), tmp_path)
    assert case.image.path == str(tmp_path / "a.dicom") and case.width is None


def test_images_without_a_size_or_unreadable_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    path, problems = written(tmp_path / "t.csv", CONSENSUS), Problems()
    table = written(tmp_path / "sizes.csv", "image_id,width,height\nb,2,2\na,0,5\n")
    assert read(path, tmp_path, problems, original_sizes="same") == []
    assert read(path, tmp_path, problems, original_sizes=table) == []
    assert problems.counts == {Reason.IMAGE_UNREADABLE.value: 1, Reason.ROW_MALFORMED.value: 2}


def test_a_wrong_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a header with image_id,class_name,x_min"):
        read(written(tmp_path / "t.csv", "id,label\n"))
