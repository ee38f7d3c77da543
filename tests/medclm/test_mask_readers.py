"""Label volumes: components, slices, grids, ids; BraTS's names and numbers."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from image_files import itk, nifti

from medclm.problems import DataError, Problems
from medclm.readers import brats, masks
from medclm.readers.sections import Policy

SHAPE = (12, 20, 30)  # z, y, x


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)


@pytest.fixture
def labels() -> np.ndarray:
    """1: an arch that slice 3 cuts into two feet, and a ball; 2: one voxel on slice 3, five more slices further up."""
    made = np.zeros(SHAPE, np.uint8)
    made[3:5, 4:8, 4:7] = 1
    made[3:5, 4:8, 12:15] = 1
    made[5, 4:8, 4:15] = 1
    made[3:6, 14:18, 20:24] = 1
    made[3, 1, 1] = 2
    made[8:11, 10:14, 10:14] = 2
    return made


@pytest.fixture
def folder(tmp_path, image, labels):
    """nnU-Net's layout; the label volume is stored in another order than the image."""
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    nifti(tmp_path / "imagesTr" / "case_01_0000.nii.gz", image, "LPS")
    nifti(tmp_path / "labelsTr" / "case_01.nii.gz", labels, "RAS")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "Tumour": 1, "cyst": 2}}))
    return tmp_path


def read(folder, problems=None, **options):
    problems = Problems(strict=True) if problems is None else problems
    return list(masks.read(folder / "labelsTr", folder / "imagesTr", problems, **options))


def test_components_are_found_in_the_volume_and_boxed_on_the_slice(folder, labels):
    cases = read(folder)
    assert [case.image.slice for case in cases] == [3, 4, 5, 8, 9, 10]
    first = cases[0]
    # On slice 3 the arch is two islands: one lesion, one box around both.
    assert [lesion.box for lesion in first.lesions] == [(4.0, 4.0, 15.0, 8.0), (20.0, 14.0, 24.0, 18.0)]
    assert [lesion.label for lesion in first.lesions] == ["tumour", "tumour"]
    np.testing.assert_array_equal(first.lesions[0].region.mask() | first.lesions[1].region.mask(), labels[3] == 1)
    assert (first.width, first.height) == (30, 20)
    assert first.id == "case_01:0003" and first.patient == "case_01"


def test_slice_policies(folder):
    assert [case.image.slice for case in read(folder, slices="largest")] == [3, 5, 8]
    assert [case.image.slice for case in read(folder, slices="every:2")] == [3, 5, 9]
    for bad in ("every:0", "first", "every:x"):
        with pytest.raises(ValueError, match="slices: expected"):
            Policy(bad)


def test_a_section_below_the_minimum_is_left_out_but_its_label_not_called_absent(folder):
    first = read(folder, exhaustive=True)[0]
    assert [lesion.label for lesion in first.lesions] == ["tumour", "tumour"]
    assert first.absent == ()  # the cyst's one voxel is there
    assert read(folder, exhaustive=True)[1].absent == ("cyst",)
    assert {lesion.label for lesion in read(folder, min_area=1)[0].lesions} == {"tumour", "cyst"}


def test_nothing_is_called_absent_unless_the_source_is_exhaustive(folder):
    cases = read(folder, empty_slices=2)
    assert all(case.absent == () and case.lesions for case in cases)
    empty = [case for case in read(folder, empty_slices=2, exhaustive=True) if not case.lesions]
    # Slices 2, 6, 7 and 11 touch a finding.
    assert [case.image.slice for case in empty] == [0, 1]
    assert {case.absent for case in empty} == {("tumour", "cyst")}


@pytest.mark.parametrize("wrong", ["shape", "affine", "flipped"])
def test_a_mask_on_another_grid_is_counted(folder, labels, wrong):
    path = folder / "labelsTr" / "case_01.nii.gz"
    if wrong == "shape":
        nifti(path, labels[:-1])
    elif wrong == "affine":
        nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), np.eye(4)), path)
    else:
        found = nibabel.load(path)
        mirrored = np.diag([-1, 1, 1, 1]) @ found.affine
        nibabel.save(nibabel.Nifti1Image(np.asarray(found.dataobj), mirrored), path)
    problems = Problems()
    assert read(folder, problems) == []
    assert dict(problems.counts) == {"mask on another grid than the image": 1}
    with pytest.raises(DataError, match="another grid"):
        read(folder)


def test_unknown_ids_are_counted_and_the_known_are_read(folder):
    problems = Problems()
    cases = read(folder, problems, labels="1=tumour")
    assert dict(problems.counts) == {"unknown label id": 1}
    assert {lesion.label for case in cases for lesion in case.lesions} == {"tumour"}


def test_missing_and_damaged_files_are_counted(folder, labels):
    nifti(folder / "labelsTr" / "case_02.nii.gz", labels)  # no image
    nifti(folder / "imagesTr" / "case_03_0000.nii.gz", labels)
    (folder / "labelsTr" / "case_03.nii.gz").write_bytes(b"\x1f\x8b damaged")
    itk(folder / "imagesTr" / "case_04_0000.nrrd", labels.astype(np.int16))
    itk(folder / "labelsTr" / "case_04.nrrd", labels * np.float32(0.5))
    problems = Problems()
    assert len(read(folder, problems)) == 6
    assert dict(problems.counts) == {"image missing": 1, "mask unreadable": 2}


@pytest.mark.parametrize(
    "labels",
    [
        {1: "Tumour", 2: "cyst"},
        "1=tumour,2=cyst",
        {"0": "background", "1": "tumour", "2": "cyst"},
        {"tumour": 1, "cyst": 2},
    ],
)
def test_label_names_in_every_spelling(tmp_path, labels):
    assert masks.label_names(labels, tmp_path) == {1: "tumour", 2: "cyst"}


def test_labels_that_are_none_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.json"):
        masks.label_names(None, tmp_path)
    with pytest.raises(DataError, match="labels: expected"):
        masks.label_names({"background": 0}, tmp_path)
    with pytest.raises(DataError, match="labels: expected"):
        masks.label_names({"tumour": "cyst"}, tmp_path)


def test_csv_of_pairs_and_its_header(folder):
    table = folder / "pairs.csv"
    table.write_text("image,label,patient,split\ncase_01_0000.nii.gz,labelsTr/case_01.nii.gz,p7,val\n")
    cases = list(masks.read(table, folder / "imagesTr", Problems(strict=True), modality="MR"))
    assert {(case.patient, case.split, case.modality) for case in cases} == {("p7", "val", "MR")}
    table.write_text("image,label,modality\na.nii,,CT\na.nii,b.nii,X-ray\na.nii\n")
    problems = Problems()
    assert list(masks.read(table, None, problems)) == []
    assert dict(problems.counts) == {"malformed row": 3}
    table.write_text("img,label\n")
    with pytest.raises(DataError, match="expected the columns image,label, got img,label"):
        list(masks.read(table, None, Problems()))


def write_brats(folder, stem, mark, names, labels, image):
    place = folder / stem
    place.mkdir(parents=True)
    for name in names:
        nifti(place / f"{stem}{mark}{name}.nii.gz", image, "RAS")
    nifti(place / f"{stem}{mark}seg.nii.gz", labels, "RAS")


@pytest.fixture
def brain() -> np.ndarray:
    """Oedema around a core, the enhancing part as 3."""
    made = np.zeros(SHAPE, np.uint8)
    made[2:9, 2:16, 4:22] = 2
    made[3:8, 5:12, 8:16] = 3
    made[4:7, 7:10, 10:14] = 1
    return made


def test_brats_whole_tumour_and_parts(tmp_path, brain, image):
    write_brats(tmp_path, "BraTS-GLI-00005-100", "-", ("t1n", "t1c", "t2w", "t2f"), brain, image)
    whole = list(brats.read(tmp_path, None, Problems(strict=True), slices="all", empty_slices=1))
    assert [case.image.slice for case in whole] == [2, 3, 4, 5, 6, 7, 8, 0]
    assert whole[0].image.path.endswith("BraTS-GLI-00005-100-t2f.nii.gz")
    assert whole[0].lesions[0].label == "brain tumour" and whole[0].lesions[0].box == (4.0, 2.0, 22.0, 16.0)
    assert whole[0].patient == "BraTS-GLI-00005"  # another visit of the patient is the same patient
    assert whole[-1].absent == ("brain tumour",) and whole[-1].lesions == ()
    parts = list(
        brats.read(tmp_path, None, Problems(strict=True), slices="all", parts=True, sequence="t1c", min_area=1)
    )
    assert {lesion.label for case in parts for lesion in case.lesions} == set(brats.PARTS["2023"].values())


def test_brats_legacy_names_and_its_enhancing_four(tmp_path, brain, image):
    brain[brain == 3] = 4
    write_brats(tmp_path, "BraTS20_Training_001", "_", ("t1", "t1ce", "t2", "flair"), brain, image)
    cases = list(brats.read(tmp_path, None, Problems(strict=True), parts=True, sequence="t1c", slices="all"))
    assert cases[0].image.path.endswith("BraTS20_Training_001_t1ce.nii.gz")
    assert "enhancing tumour" in {lesion.label for case in cases for lesion in case.lesions}


def test_brats_four_after_2023_is_unknown_or_the_cavity_and_never_tumour(tmp_path, brain, image):
    brain[10, 2:10, 2:10] = 4
    write_brats(tmp_path, "BraTS-GLI-02062-100", "-", ("t2f",), brain, image)
    problems = Problems()
    slices = {case.image.slice for case in brats.read(tmp_path, None, problems, slices="all")}
    assert 10 not in slices and dict(problems.counts) == {"unknown label id": 1}
    later = list(brats.read(tmp_path, None, Problems(strict=True), slices="all", edition="2024"))
    assert 10 not in {case.image.slice for case in later}
    parts = brats.read(tmp_path, None, Problems(strict=True), slices="all", edition="2024", parts=True)
    assert [c.lesions[0].label for c in parts if c.image.slice == 10] == ["resection cavity"]


def test_brats_folder_without_segmentations_is_not_brats(tmp_path):
    with pytest.raises(DataError, match=r"seg\.nii\.gz"):
        list(brats.read(tmp_path, None, Problems()))
