"""One volume in every storage order and format is one stack of slices."""

from __future__ import annotations

from itertools import permutations, product

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from image_files import ORIGIN, SPACING, dicom, dicom_series, itk, nifti

from medclm import boxes
from medclm.cases import ImageRef
from medclm.images import ImageError, load, volumes
from medclm.images.geometry import Grid, reoriented, turned
from medclm.problems import Reason

ORDERS = ("RAS", "LPS", "LAS", "RPI", "ASL")
LESION = (slice(2, 4), slice(5, 8), slice(1, 3))  # z, y, x: nowhere near a symmetry


@pytest.fixture
def volume() -> np.ndarray:  # int16 [6, 11, 9]
    values = np.random.default_rng(0).integers(-1000, 900, (6, 11, 9)).astype(np.int16)
    values[LESION] = 2000
    return values


@pytest.mark.parametrize("order", ORDERS)
def test_storage_orders_give_bit_identical_slices_and_boxes(tmp_path, volume, order):
    path = nifti(tmp_path / "v.nii.gz", volume, order)
    assert "".join(nibabel.aff2axcodes(nibabel.load(path).affine)) == order
    for z in range(len(volume)):
        picture = load(ImageRef(str(path), slice=z))
        np.testing.assert_array_equal(picture.raw, volume[z])
        assert picture.laterality_verified
        assert picture.spacing == pytest.approx(SPACING[:2])
    found = volumes.read(path).array[2] == 2000
    assert boxes.from_mask(found) == (1.0, 5.0, 3.0, 8.0)


def test_the_naive_slice_gives_another_box_for_each_order(tmp_path, volume):
    naive = set()
    for order in ORDERS:
        stored = np.asarray(nibabel.load(nifti(tmp_path / f"{order}.nii", volume, order)).dataobj)
        slices = [stored[:, :, k] == 2000 for k in range(stored.shape[2])]
        naive.add(boxes.from_mask(next(mask for mask in slices if mask.any())))
    assert len(naive) >= 4


@pytest.mark.parametrize("order", ORDERS)
def test_orientation_equals_simpleitks(tmp_path, volume, order):
    path = nifti(tmp_path / "v.nii", volume, order)
    theirs = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    ours = volumes.read(path)
    np.testing.assert_array_equal(ours.array, sitk.GetArrayFromImage(theirs))
    for index in ((0, 0, 0), (8, 10, 5), (3, 7, 2)):
        np.testing.assert_allclose(
            ours.grid.world(np.array(index)), theirs.TransformIndexToPhysicalPoint(index), atol=1e-4
        )


@pytest.mark.parametrize("name", ["v.nrrd", "v.mha", "v.mhd", "v.nii", "series"])
def test_formats_are_one_grid(tmp_path, volume, name):
    path = tmp_path / name
    if name == "series":
        dicom_series(path, volume)
    elif name == "v.nii":
        nifti(path, volume)
    else:
        itk(path, volume)
    found = volumes.read(path)
    np.testing.assert_array_equal(found.array, volume)
    assert found.grid.world_known
    assert found.grid.difference(volumes.read_grid(nifti(tmp_path / "same.nii.gz", volume, "RPI"))) is None
    np.testing.assert_allclose(found.grid.world(np.zeros(3)), ORIGIN, atol=1e-4)


def test_nifti_without_orientation_codes_has_no_known_laterality(tmp_path, volume):
    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), None)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (0, 0)
    nibabel.save(image, tmp_path / "v.nii")
    assert not load(ImageRef(str(tmp_path / "v.nii"), slice=0)).laterality_verified


def test_nrrd_without_space_and_metaimage_without_directions_have_no_known_laterality(tmp_path, volume):
    raw = volume.tobytes()
    sizes = " ".join(map(str, volume.shape[::-1]))
    header = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: raw\n\n"
    (tmp_path / "v.nrrd").write_bytes(header.encode() + raw)
    header = f"ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "v.mha").write_bytes(header.encode() + raw)
    for name in ("v.nrrd", "v.mha"):
        found = volumes.read(tmp_path / name)
        np.testing.assert_array_equal(found.array.ravel(), volume.ravel())
        assert not found.grid.world_known


def test_nifti_scaling_is_applied(tmp_path):
    image = nibabel.Nifti1Image(np.full((3, 3, 3), 10, np.int16), np.diag([-1, -1, 1, 1]))
    image.header.set_slope_inter(2.0, -1000.0)
    nibabel.save(image, tmp_path / "v.nii")
    data = bytearray((tmp_path / "v.nii").read_bytes())
    assert volumes.read(tmp_path / "v.nii").array.max() == np.asanyarray(nibabel.load(tmp_path / "v.nii").dataobj).max()
    data[112:120] = np.array([2.0, -1000.0], "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "w.nii").write_bytes(data)
    raw = np.frombuffer(bytes(data[352:354]), "<i2")[0]
    assert (volumes.read(tmp_path / "w.nii").array == 2.0 * raw - 1000.0).all()


def test_dicom_slices_are_ordered_by_position_not_by_name(tmp_path, volume):
    names_shuffled = dicom_series(tmp_path / "s", volume, order=[3, 0, 5, 1, 4, 2])
    np.testing.assert_array_equal(volumes.read(names_shuffled).array, volume)


def test_dicom_series_with_flipped_rows_is_turned(tmp_path, volume):
    position = {"ImageOrientationPatient": [-1, 0, 0, 0, 1, 0]}
    found = volumes.read(dicom_series(tmp_path / "s", volume, **position))
    # Rows run to the right; the normal then points to the feet, and the slices are sorted along it.
    np.testing.assert_array_equal(found.array, volume[:, :, ::-1])


def test_a_file_of_several_frames_is_no_slice(tmp_path, volume):
    folder = dicom_series(tmp_path / "s", volume)
    frames = {"NumberOfFrames": 2, "PixelData": volume[:2].tobytes(), "ImagePositionPatient": list(ORIGIN)}
    dicom(folder / "many.dcm", volume[0], **frames)
    with pytest.raises(ImageError, match=r"many\.dcm: expected a slice a file, got 2 frames in one") as caught:
        volumes.read(folder)
    assert caught.value.reason is Reason.IMAGE_UNREADABLE


def test_missing_slice_and_two_series_are_refused(tmp_path, volume):
    folder = dicom_series(tmp_path / "gap", volume)
    (folder / "002.dcm").unlink()
    with pytest.raises(ImageError, match="evenly spaced"):
        volumes.read(folder)
    dicom_series(tmp_path / "two", volume)
    other = dicom_series(tmp_path / "other", volume, SeriesInstanceUID="1.2.99")
    (other / "000.dcm").rename(tmp_path / "two" / "x.dcm")
    with pytest.raises(ImageError, match="2 series"):
        volumes.read(tmp_path / "two")


@pytest.mark.parametrize("keep", [200, 700, -40])
def test_a_slice_that_is_cut_off_is_refused_not_left_out(tmp_path, volume, keep):
    folder = dicom_series(tmp_path / "s", volume)
    last = folder / "000.dcm"
    last.write_bytes(last.read_bytes()[:keep])
    with pytest.raises(ImageError) as caught:
        volumes.read(folder)
    assert caught.value.reason is Reason.IMAGE_UNREADABLE


def test_burned_in_slice_refuses_the_series_unless_allowed(tmp_path, volume):
    ref = ImageRef(str(dicom_series(tmp_path / "s", volume, BurnedInAnnotation="YES")), slice=1)
    with pytest.raises(ImageError) as caught:
        load(ref)
    assert caught.value.reason is Reason.BURNED_IN
    np.testing.assert_array_equal(load(ref, allow_burned_in=True).raw, volume[1])


def test_rescale_of_each_pet_slice_is_its_own(tmp_path, volume):
    folder = dicom_series(tmp_path / "s", volume, Modality="PT")
    import pydicom

    for number, path in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.5 + number, 0.0
        dataset.save_as(path)
    factors = 0.5 + np.arange(len(volume))[::-1]  # the file names run from the head
    np.testing.assert_allclose(volumes.read(folder).array, volume * factors[:, None, None], rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3, 2)])
def test_what_is_not_three_dimensional_is_unreadable(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), tmp_path / "v.nii")
    with pytest.raises(ImageError, match="three dimensions") as caught:
        load(ImageRef(str(tmp_path / "v.nii"), slice=0))
    assert caught.value.reason is Reason.IMAGE_UNREADABLE


def test_missing_truncated_and_out_of_range_are_told_apart(tmp_path, volume):
    path = nifti(tmp_path / "v.nii.gz", volume)
    for bad in (-1, len(volume), None):
        with pytest.raises(ImageError, match="slice of 0 to 5"):
            load(ImageRef(str(path), slice=bad))
    (tmp_path / "cut.nii.gz").write_bytes(path.read_bytes()[:200])
    for name, reason in (("cut.nii.gz", Reason.IMAGE_UNREADABLE), ("none.nii.gz", Reason.IMAGE_MISSING)):
        with pytest.raises(ImageError) as caught:
            load(ImageRef(str(tmp_path / name), slice=0))
        assert caught.value.reason is reason


def test_cache_reads_once_stays_in_its_bytes_and_notices_a_new_file(tmp_path, volume, monkeypatch):
    reads = []
    original = volumes.read
    monkeypatch.setattr(volumes, "read", lambda path: reads.append(path) or original(path))
    cache = volumes.Cache(limit=2 * volume.nbytes)
    paths = [nifti(tmp_path / f"{k}.nii", volume) for k in range(3)]
    for _ in range(5):
        cache.get(paths[0])
    assert len(reads) == 1
    for path in paths:
        cache.get(path)
        assert cache.bytes() <= 2 * volume.nbytes
    cache.get(paths[0])
    assert len(reads) == 4  # it had made room
    nifti(paths[0], np.concatenate([volume, volume]))
    assert len(cache.get(paths[0]).array) == 12
    assert cache.bytes() == 2 * volume.nbytes
    small = volumes.Cache(limit=1)
    assert small.get(paths[1]) is small.get(paths[1])  # the last one stays, however big


def test_ct_and_mr_get_their_own_automatic_window(tmp_path, volume):
    ct = load(ImageRef(str(nifti(tmp_path / "ct.nii", volume)), slice=2))
    raw = volume[2].astype(float)
    np.testing.assert_array_equal(ct.pixels, np.rint(((raw + 160) / 400).clip(0, 1) * 255))
    mr = np.abs(volume)
    one, other = (load(ImageRef(str(nifti(tmp_path / "mr.nii", mr)), slice=z)) for z in (0, 3))
    both = np.stack([one.raw, other.raw]), np.stack([one.pixels, other.pixels])
    for value in np.unique(both[0]):
        assert len(np.unique(both[1][both[0] == value])) == 1  # one grey for one value in all slices


@pytest.mark.parametrize("axes", list(permutations("xyz")), ids="".join)
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)), ids=str)
def test_all_48_storage_orders_come_to_one(volume, axes, signs):
    stored, affine = volume.transpose(2, 1, 0), np.diag([*SPACING, 1.0])
    order = ["xyz".index(axis) for axis in axes]
    stored, affine = stored.transpose(order), affine[:, [*order, 3]]
    for axis, sign in enumerate(signs):
        if sign < 0:
            affine[:3, 3] += affine[:3, axis] * (stored.shape[axis] - 1)
            affine[:3, axis] *= -1
            stored = np.flip(stored, axis)
    grid, change = reoriented(stored.shape, affine, True)
    np.testing.assert_array_equal(turned(stored, change), volume)
    assert grid.size == volume.shape[::-1]
    np.testing.assert_allclose(grid.affine, np.diag([*SPACING, 1.0]), atol=1e-12)


def test_an_oblique_volume_keeps_its_positions(volume):
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, -1.0]])  # 37 degrees, head first
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * SPACING, ORIGIN
    stored = volume.transpose(2, 1, 0)
    grid, change = reoriented(stored.shape, affine, True)
    array = turned(stored, change)
    z, y, x = np.argwhere(array == 2000)[0]
    i, j, k = np.argwhere(stored[:, :, ::-1] == 2000)[0]
    np.testing.assert_allclose(grid.world(np.array([x, y, z])), affine[:3] @ [i, j, volume.shape[0] - 1 - k, 1])
    with pytest.raises(ValueError, match="independent axes"):
        reoriented(stored.shape, np.zeros((4, 4)), True)


@given(st.lists(st.floats(-300, 300), min_size=3, max_size=3), st.integers(0, 10_000))
def test_world_and_index_are_inverse(point, seed):
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.3, 5.0, 3)
    affine[:3, 3] = rng.normal(size=3) * 100
    grid = Grid((5, 6, 7), affine, True)
    np.testing.assert_allclose(grid.world(grid.index(np.array(point))), point, atol=1e-6)
