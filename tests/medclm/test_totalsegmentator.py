"""TotalSegmentator's files, its own reference outputs among them."""

from __future__ import annotations

import ast
import tarfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel import orientations
from organ_cases import case, members, picture

from medclm.cases import Case, ImageRef
from medclm.images import load
from medclm.organs import OrganError, organ_source
from medclm.organs.totalsegmentator import TotalSegmentator, label_table, read
from medclm.organs.totalsegmentator_labels import LABELS
from medclm.problems import Reason
from medclm.samples import TOTALSEGMENTATOR

_SPACING = 2.0


def caret(table: dict[int, str]) -> nibabel.nifti1.Nifti1Extension:
    """The label table as TotalSegmentator writes it: CDATA, and blanks behind the end."""
    labels = "".join(f'<Label Key="{k}" Red="1" Alpha="1"><![CDATA[{name}]]></Label>\n' for k, name in table.items())
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <VolumeInformation Index="0">   <LabelTable>\n'
        f"{labels}</LabelTable></VolumeInformation></CaretExtension>\n              "
    )
    return nibabel.nifti1.Nifti1Extension(0, xml.encode())


def volume(array: np.ndarray, stored: str = "LPS") -> nibabel.Nifti1Image:
    """array [z, y, x], axes S, P, L; the file's axes in another order."""
    affine = np.diag([-_SPACING, -_SPACING, _SPACING, 1.0])
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0).astype(np.uint8), affine)
    turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt(stored))
    return image.as_reoriented(turn)


@pytest.fixture
def labels() -> np.ndarray:
    """[z, y, x] = [5, 6, 8]: 1 on the patient's right, 2 on the left, 3 above."""
    array = np.zeros((5, 6, 8), np.uint8)
    array[1:3, 1:4, 1:3] = 1
    array[1:3, 2:5, 5:8] = 2
    array[3:5, 0:2, 2:7] = 3
    return array


TABLE = {1: "kidney_right", 2: "kidney_left", 3: "liver"}


def write(path: Path, array: np.ndarray, table: dict[int, str] | None = TABLE, stored: str = "LPS") -> Path:
    image = volume(array, stored)
    if table is not None:
        image.header.extensions.append(caret(table))
    nibabel.save(image, path)
    return path


def test_names_come_from_the_file(tmp_path: Path, labels: np.ndarray) -> None:
    source = TotalSegmentator(write(tmp_path / "ct.nii.gz", labels))
    found = source.masks(case(tmp_path / "image.nii", slice=2), picture(6, 8))
    assert set(found) == {"right kidney", "left kidney"}
    assert np.array_equal(found["right kidney"], labels[2] == 1)
    assert np.array_equal(found["left kidney"], labels[2] == 2)


@pytest.mark.parametrize("stored", ["RAS", "LPS", "LAS", "RPI", "ASL"])
def test_the_order_of_stored_axes_changes_nothing(tmp_path: Path, labels: np.ndarray, stored: str) -> None:
    source = TotalSegmentator(write(tmp_path / "ct.nii.gz", labels, stored=stored))
    for z in range(5):
        found = source.masks(case(tmp_path / "image.nii", slice=z), picture(6, 8))
        expected = {n: labels[z] == k for k, n in ((1, "right kidney"), (2, "left kidney"), (3, "liver"))}
        assert set(found) == {name for name, mask in expected.items() if mask.any()}
        assert all(np.array_equal(mask, expected[name]) for name, mask in found.items())


def test_a_table_of_one_label_is_read(tmp_path: Path, labels: np.ndarray) -> None:
    path = write(tmp_path / "ct.nii.gz", labels == 3, {1: "liver"})
    assert label_table(path) == {1: "liver"}
    assert set(TotalSegmentator(path).masks(case(slice=3), picture(6, 8))) == {"liver"}


def test_a_file_without_names_is_refused(tmp_path: Path, labels: np.ndarray) -> None:
    path = write(tmp_path / "ct.nii.gz", labels, None)
    with pytest.raises(OrganError, match="expected version v1, v2, mr") as caught:
        TotalSegmentator(path).masks(case(slice=2), picture(6, 8))
    assert caught.value.reason is Reason.LABEL_UNKNOWN


@pytest.mark.parametrize(("version", "organ"), [("v1", "aorta"), ("v2", "pancreas"), ("mr", "pancreas")])
def test_one_number_is_another_organ_in_each_version(
    tmp_path: Path, labels: np.ndarray, version: str, organ: str
) -> None:
    path = write(tmp_path / "ct.nii.gz", np.where(labels == 3, 7, 0), None)
    source = organ_source(f"totalsegmentator-{version}:{path}")
    assert set(source.masks(case(slice=4), picture(6, 8))) == {organ}


def test_ids_that_the_table_lacks_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    path = write(tmp_path / "ct.nii.gz", labels, {1: "kidney_right", 2: "kidney_left"})
    with pytest.raises(OrganError, match=r"\[3\] are not in the label table"):
        TotalSegmentator(path).masks(case(slice=2), picture(6, 8))


def test_a_folder_of_classes_may_overlap(tmp_path: Path, labels: np.ndarray) -> None:
    folder = tmp_path / "volume"
    folder.mkdir()
    write(folder / "liver.nii.gz", labels > 0, None)
    write(folder / "kidney_left.nii.gz", labels == 2, None, stored="RAS")
    write(folder / "kidney_cyst_left.nii.gz", labels == 9, None)
    write(folder / "ct.nii.gz", labels, None)  # the image beside them is no class
    for root in (tmp_path, folder):  # many volumes, or this one
        found = TotalSegmentator(root).masks(case("somewhere/volume.nii.gz", slice=2), picture(6, 8))
        assert set(found) == {"liver", "left kidney"}
        assert np.array_equal(found["liver"], labels[2] > 0)
        assert np.array_equal(found["left kidney"], labels[2] == 2)


def test_masks_that_lie_elsewhere_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    path = write(tmp_path / "masks.nii.gz", labels)
    moved = volume(labels)
    moved.affine[2, 3] += 3 * _SPACING
    nibabel.save(nibabel.Nifti1Image(np.asarray(moved.dataobj), moved.affine), tmp_path / "image.nii")
    with pytest.raises(OrganError, match=r"3\.00 voxels apart") as caught:
        TotalSegmentator(path).masks(case(tmp_path / "image.nii", slice=2), picture(6, 8))
    assert caught.value.reason is Reason.MASK_GRID


@pytest.mark.parametrize("z", [None, -1, 5])
def test_a_slice_that_the_masks_lack_is_refused(tmp_path: Path, labels: np.ndarray, z: int | None) -> None:
    path = write(tmp_path / "masks.nii.gz", labels)
    with pytest.raises(OrganError, match="no slice"):
        TotalSegmentator(path).masks(case(slice=z), picture(6, 8))


def test_a_damaged_file_is_counted_not_fatal(tmp_path: Path, labels: np.ndarray) -> None:
    path = write(tmp_path / "masks.nii.gz", labels)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OrganError) as caught:
        TotalSegmentator(path).masks(case(slice=2), picture(6, 8))
    assert caught.value.reason is Reason.MASK_UNREADABLE


def test_a_volume_without_masks_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OrganError) as caught:
        TotalSegmentator(tmp_path).masks(case("ct7.nii.gz", slice=0), picture(6, 8))
    assert caught.value.reason is Reason.MASK_MISSING


def test_the_tables_are_those_of_the_tool() -> None:
    (source,) = members(TOTALSEGMENTATOR, "totalsegmentator/map_to_binary.py")
    tables = ast.literal_eval(
        next(
            node.value
            for node in ast.parse(source).body
            if isinstance(node, ast.Assign) and node.targets[0].id == "class_map"
        )
    )
    assert {"v1": tables["total_v1"], "v2": tables["total"], "mr": tables["total_mr"]} == LABELS


@pytest.mark.parametrize(
    ("file", "shape", "right", "left"),
    [("example_seg.nii.gz", (30, 101, 122), "right kidney", "left kidney"),
     ("example_seg_mr.nii.gz", (20, 91, 117), "right kidney", "left kidney")],
)  # fmt: skip
def test_the_tool_s_own_output_has_left_on_the_right(
    tmp_path: Path, file: str, shape: tuple[int, int, int], right: str, left: str
) -> None:
    """The CT is stored as RAS, the MR as LPS: taking array[:, :, k] of both would mirror one of them."""
    path = tmp_path / file
    path.write_bytes(members(TOTALSEGMENTATOR, f"tests/reference_files/{file}")[0])
    assert read(path).grid.size == shape[::-1]
    columns: dict[str, list[float]] = {right: [], left: []}
    for z in range(shape[0]):
        found = TotalSegmentator(path).masks(case(slice=z), picture(*shape[1:]))
        for name in columns.keys() & found.keys():
            columns[name].append(float(np.nonzero(found[name])[1].mean()))
    assert columns[right], "no right kidney in the file"
    assert columns[left], "no left kidney in the file"
    assert max(columns[right]) < shape[2] / 2 < min(columns[left])


def test_masks_of_a_dicom_series_lie_on_its_slices(tmp_path: Path) -> None:
    """Image: a folder of DICOM files; masks: NIfTI, stored in the order LAS. The liver is not air."""
    members(TOTALSEGMENTATOR)
    with tarfile.open(TOTALSEGMENTATOR.path()) as archive:
        for member in archive.getmembers():
            if "/reference_files/example_ct_dicom/" in member.name or member.name.endswith("/example_seg_dicom.nii.gz"):
                name = Path(member.name).name if member.name.endswith(".gz") else member.name.split("/", 3)[3]
                if (content := archive.extractfile(member)) is not None:  # a folder has none
                    (tmp_path / name).parent.mkdir(exist_ok=True)
                    (tmp_path / name).write_bytes(content.read())
    source = organ_source(f"totalsegmentator:{tmp_path / 'example_seg_dicom.nii.gz'}")
    values = []
    for z in range(20):
        ref = ImageRef(str(tmp_path / "example_ct_dicom"), slice=z)
        shown = load(ref)
        found = source.masks(Case("c", "s", "p", "CT", ref), shown)
        values += [float(np.median(shown.raw[mask])) for name, mask in found.items() if name == "liver"]
    assert len(values) > 5
    assert 0 < min(values) <= max(values) < 200
