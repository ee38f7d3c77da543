"""ISIC: masks become boxes, on the grid of an image that may be larger than its mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medclm import readers
from medclm.cases import Case
from medclm.problems import DataError, Problems, Reason

CLASSES = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_1,0.0,1.0,0.0,0.0,0.0,0.0,0.0\n"


def mask(folder: Path, name: str = "ISIC_1", size: tuple[int, int] = (40, 30)) -> Path:
    values = np.zeros((size[1], size[0]), np.uint8)
    values[10:20, 5:25] = 255
    path = folder / f"{name}_segmentation.png"
    Image.fromarray(values).save(path)
    return path


def jpeg(folder: Path, size: tuple[int, int]) -> Path:
    Image.new("RGB", size).save(folder / "ISIC_1.jpg")
    return folder / "ISIC_1.jpg"


def read(folder: Path, images: Path | None = None, problems: Problems | None = None, **options: object) -> list[Case]:
    return list(
        readers.read("isic", folder, images, Problems(strict=True) if problems is None else problems, **options)
    )


def test_a_mask_becomes_a_half_open_box_and_a_region(tmp_path: Path) -> None:
    mask(tmp_path), jpeg(tmp_path, (40, 30))
    (case,) = read(tmp_path, tmp_path)
    (lesion,) = case.lesions
    assert (lesion.label, lesion.box, case.absent) == ("skin lesion", (5, 10, 25, 20), ())
    assert lesion.region.mask().sum() == 200 and (case.width, case.height) == (40, 30)
    assert (case.image.path, case.modality) == (str(tmp_path / "ISIC_1.jpg"), "dermoscopy")


def test_a_mask_of_another_size_is_brought_to_the_images_grid(tmp_path: Path) -> None:
    mask(tmp_path), jpeg(tmp_path, (120, 90))
    (case,) = read(tmp_path, tmp_path)
    assert case.lesions[0].box == (15, 30, 75, 60) and (case.width, case.height) == (120, 90)
    assert case.lesions[0].region.mask().shape == (90, 120)


def test_a_mask_of_another_shape_is_counted(tmp_path: Path) -> None:
    mask(tmp_path), jpeg(tmp_path, (30, 40))
    problems = Problems()
    assert read(tmp_path, tmp_path, problems) == [] and problems.counts == {Reason.MASK_GRID.value: 1}


def test_diagnoses_are_one_hot_and_exclude_each_other(tmp_path: Path) -> None:
    mask(tmp_path), (tmp_path / "classes.csv").write_text(CLASSES)
    (case,) = read(tmp_path, classes=tmp_path / "classes.csv")
    assert case.lesions[0].label == "melanocytic nevus"
    assert "melanoma" in case.absent and len(case.absent) == 6 and "melanocytic nevus" not in case.absent


def test_diagnoses_that_are_not_one_hot_missing_or_double_are_counted(tmp_path: Path) -> None:
    for name in ("ISIC_1", "ISIC_2", "ISIC_3"):
        mask(tmp_path, name)
    text = CLASSES + "ISIC_1,1,0,0,0,0,0,0\nISIC_2,1,1,0,0,0,0,0\nISIC_3,0,0,0,0,0,0,\n"
    (tmp_path / "classes.csv").write_text(text)
    problems = Problems()
    assert [each.id for each in read(tmp_path, None, problems, classes=tmp_path / "classes.csv")] == ["ISIC_1"]
    assert problems.counts == {
        Reason.ROW_MALFORMED.value: 2,
        Reason.DUPLICATE_ID.value: 1,
        Reason.LABEL_UNKNOWN.value: 2,
    }


def test_images_of_one_lesion_are_one_patient(tmp_path: Path) -> None:
    mask(tmp_path, "ISIC_1"), mask(tmp_path, "ISIC_2")
    (tmp_path / "groups.csv").write_text("image_id,lesion_id\nISIC_1,HAM_7\nISIC_2,HAM_7\n")
    assert {each.patient for each in read(tmp_path, groups=tmp_path / "groups.csv")} == {"HAM_7"}
    assert len({each.patient for each in read(tmp_path)}) == 2


def test_empty_and_unreadable_masks_and_images_are_counted(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "ISIC_2_segmentation.png")
    (tmp_path / "ISIC_3_segmentation.png").write_bytes(b"no picture")
    problems = Problems()
    assert read(tmp_path, None, problems) == []
    mask(tmp_path), (tmp_path / "ISIC_1.jpg").write_bytes(b"no picture")
    assert read(tmp_path, tmp_path, problems, missing="skip") == []
    assert problems.counts == {
        Reason.BOX_EMPTY.value: 1,
        Reason.MASK_UNREADABLE.value: 1,
        Reason.IMAGE_UNREADABLE.value: 1,
    }


def test_what_is_no_folder_of_masks_or_no_table_of_diagnoses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected files <image>_segmentation\.png, got none"):
        read(tmp_path)
    path = mask(tmp_path)
    with pytest.raises(DataError, match="annotations: expected a folder"):
        read(path)
    (tmp_path / "classes.csv").write_text("image,dx\nISIC_1,nv\n")
    with pytest.raises(DataError, match="expected a header with image,MEL,NV"):
        read(tmp_path, classes=tmp_path / "classes.csv")
