"""Single DICOM files: the order of the look-up tables, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pydicom
import pytest
from image_files import SPACING, dicom
from pydicom.pixels import apply_presentation_lut, apply_voi_lut
from pydicom.uid import JPEGLosslessSV1, RLELossless

from medclm.cases import ImageRef
from medclm.images import ImageError, load
from medclm.problems import Reason

STORED = np.array([[0, 424, 824], [1024, 1224, 3000]], np.int16)
CT = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": [0, 500], "WindowWidth": [401, 2001]}


def shown(path, **options):
    return load(ImageRef(str(path)), **options)


def expected(hu: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(((hu - low) / (high - low)).clip(0, 1) * 255).astype(np.uint8)


def test_ct_is_hounsfield_units_under_its_first_window(tmp_path):
    picture = shown(dicom(tmp_path / "a.dcm", STORED, **CT))
    hu = STORED - 1024.0
    np.testing.assert_array_equal(picture.raw, hu)
    np.testing.assert_array_equal(picture.pixels, expected(hu, -200.5, 199.5))  # PS3.3 C.11.2.1.2: centre - 0.5
    assert picture.modality == "CT"
    assert picture.spacing == pytest.approx(SPACING[:2])


def test_pydicoms_voi_result_is_not_grey_values(tmp_path):
    dataset = pydicom.dcmread(dicom(tmp_path / "a.dcm", STORED, **CT))
    naive = apply_voi_lut(STORED - 1024.0, dataset, index=0)
    assert naive.max() > 255 and naive.min() < 0


def test_monochrome1_is_inverted_after_the_window(tmp_path):
    tags = CT | {"PhotometricInterpretation": "MONOCHROME1", "Modality": "DX"}
    path = dicom(tmp_path / "a.dcm", STORED, **tags)
    hu = STORED - 1024.0
    np.testing.assert_array_equal(shown(path).pixels, 255 - expected(hu, -200.5, 199.5))
    # Inverting the stored values first, as one might, counts the window from the wrong end; and pydicom's own
    # presentation step leaves the image as it is.
    assert not np.array_equal(shown(path).pixels, expected(hu.max() + hu.min() - hu, -200.5, 199.5))
    np.testing.assert_array_equal(apply_presentation_lut(STORED, pydicom.dcmread(path)), STORED)


def test_windows_that_are_asked_for(tmp_path):
    path = dicom(tmp_path / "a.dcm", STORED, **CT)
    hu = STORED - 1024.0
    np.testing.assert_array_equal(shown(path, window="lung").pixels, expected(hu, -1350, 150))
    np.testing.assert_array_equal(shown(path, window=(-10.0, 300.0)).pixels, expected(hu, -10, 300))
    three = shown(path, window="medgemma3").pixels
    np.testing.assert_array_equal(three[..., 1], expected(hu, -135, 215))
    own = load(ImageRef(str(path), window=(-100.0, 100.0)))
    np.testing.assert_array_equal(own.pixels, expected(hu, -100, 100))
    with pytest.raises(ValueError, match="window: expected"):
        shown(path, window="lungs")


def test_a_radiograph_is_not_shown_in_hounsfield_windows(tmp_path):
    tags = {"Modality": "DX", "WindowCenter": 1500, "WindowWidth": 3000}
    path = dicom(tmp_path / "a.dcm", STORED.astype(np.uint16), **tags)
    np.testing.assert_array_equal(shown(path, window="lung").pixels, shown(path).pixels)
    assert shown(path).pixels.max() > 200


def test_sigmoid_and_linear_exact_windows(tmp_path):
    hu = STORED - 1024.0
    sigmoid = shown(dicom(tmp_path / "a.dcm", STORED, **CT, VOILUTFunction="SIGMOID"))
    np.testing.assert_allclose(sigmoid.pixels, 255 / (1 + np.exp(-4 * hu / 401)), atol=1.01)
    exact = shown(dicom(tmp_path / "b.dcm", STORED, **CT, VOILUTFunction="LINEAR_EXACT"))
    np.testing.assert_array_equal(exact.pixels, expected(hu, -200.5, 200.5))


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_voi_lut_sequence_is_scaled_by_its_table(tmp_path, vr):
    table = pydicom.Dataset()
    table.LUTDescriptor = [4, 0, 16]
    values = [0, 1000, 3000, 4000]
    table.add_new("LUTData", vr, values if vr == "US" else np.array(values, "<u2").tobytes())
    tags = {"Modality": "CR", "VOILUTSequence": pydicom.Sequence([table])}
    picture = shown(dicom(tmp_path / "a.dcm", np.array([[0, 1], [2, 3]], np.uint16), **tags))
    np.testing.assert_array_equal(picture.pixels, [[0, 64], [191, 255]])


def test_colour_capture_with_a_leftover_window_is_not_windowed(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    path = dicom(tmp_path / "a.dcm", colour, WindowCenter=3000, WindowWidth=100, Modality="OT")
    picture = shown(path)
    np.testing.assert_array_equal(picture.pixels, colour)
    assert picture.raw is None
    with pytest.raises(ValueError, match="MONOCHROME"):  # the naive order of steps ends here, or black
        apply_voi_lut(colour, pydicom.dcmread(path))


def test_palette_colour_is_looked_up(tmp_path):
    palette = np.array([0, 0x4000, 0xFFFF], "<u2").tobytes()
    tags = {"PhotometricInterpretation": "PALETTE COLOR", "Modality": "US"}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
        tags[f"{colour}PaletteColorLookupTableData"] = palette if colour == "Red" else bytes(6)
    picture = shown(dicom(tmp_path / "a.dcm", np.array([[0, 1, 2]], np.uint8), **tags))
    np.testing.assert_array_equal(picture.pixels[0], [[0, 0, 0], [0x40, 0, 0], [255, 0, 0]])


def test_eight_bit_grey_without_a_window_is_as_stored(tmp_path):
    grey = np.random.default_rng(0).integers(50, 200, (4, 6)).astype(np.uint8)
    np.testing.assert_array_equal(shown(dicom(tmp_path / "a.dcm", grey, Modality="US")).pixels, grey)


@pytest.mark.parametrize("window", [(100, 0), (None, None), ([], [])])
def test_a_window_without_width_is_no_window(tmp_path, window):
    tags = {"Modality": "DX", "WindowCenter": window[0], "WindowWidth": window[1]}
    pixels = shown(dicom(tmp_path / "a.dcm", STORED.astype(np.uint16), **tags)).pixels
    assert pixels.min() == 0 and pixels.max() == 255 and len(np.unique(pixels)) == STORED.size


def test_burned_in_annotation_is_refused_unless_allowed(tmp_path):
    path = dicom(tmp_path / "a.dcm", STORED, BurnedInAnnotation="YES")
    with pytest.raises(ImageError) as caught:
        shown(path)
    assert caught.value.reason is Reason.BURNED_IN
    assert shown(path, allow_burned_in=True).pixels.shape == STORED.shape


def test_no_tag_is_kept(tmp_path):
    picture = shown(dicom(tmp_path / "a.dcm", STORED, **CT))
    assert {field.name for field in dataclasses.fields(picture)} == {
        "pixels",
        "raw",
        "spacing",
        "laterality_verified",
        "modality",
    }
    assert "SECRET" not in repr(picture) and "Doe" not in repr(picture)


@pytest.mark.parametrize(
    ("tags", "verified"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, True),
        ({"ImageOrientationPatient": [-1, 0, 0, 0, 1, 0]}, False),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, False),  # sagittal
        ({"Modality": "DX", "PatientOrientation": ["L", "F"]}, True),
        ({"Modality": "DX", "PatientOrientation": ["R", "F"]}, False),
        ({"Modality": "DX", "PatientOrientation": ["A", "F"]}, False),
        ({"Modality": "DX"}, False),
    ],
)
def test_laterality_is_known_from_an_axis_only(tmp_path, tags, verified):
    assert shown(dicom(tmp_path / "a.dcm", STORED, **tags)).laterality_verified is verified


def test_spacing_is_columns_before_rows_and_never_the_detectors(tmp_path):
    assert shown(dicom(tmp_path / "a.dcm", STORED, PixelSpacing=[2.0, 0.5])).spacing == (0.5, 2.0)
    path = dicom(tmp_path / "b.dcm", STORED, PixelSpacing=None, ImagerPixelSpacing=[0.1, 0.1])
    assert shown(path).spacing is None


def test_compressed_files_are_decoded_or_refused_by_name(tmp_path):
    path = dicom(tmp_path / "a.dcm", STORED)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(shown(tmp_path / "rle.dcm").raw, STORED)
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1  # what it says it is; the bytes do not matter
    dataset.save_as(tmp_path / "jpeg.dcm")
    with pytest.raises(ImageError, match="JPEG Lossless") as caught:
        shown(tmp_path / "jpeg.dcm")
    assert caught.value.reason is Reason.IMAGE_UNREADABLE


@pytest.mark.parametrize("keep", [0, 100, 300, -3])
def test_truncated_files_are_unreadable(tmp_path, keep):
    path = dicom(tmp_path / "a.dcm", STORED)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ImageError) as caught:
        shown(path)
    assert caught.value.reason is Reason.IMAGE_UNREADABLE


FRAMES = np.stack([STORED, STORED[::-1], STORED + 100])


def many_frames(path, **tags):
    return dicom(path, STORED, NumberOfFrames=3, PixelData=FRAMES.tobytes(), **CT | tags)


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_one_frame_of_several_is_the_picture_of_a_file_of_that_frame(tmp_path, frame):
    several = load(ImageRef(str(many_frames(tmp_path / "a.dcm")), slice=frame))
    alone = shown(dicom(tmp_path / "b.dcm", np.ascontiguousarray(FRAMES[frame]), **CT))
    np.testing.assert_array_equal(several.raw, alone.raw)
    np.testing.assert_array_equal(several.pixels, alone.pixels)
    assert several.spacing == alone.spacing


def test_colour_frames(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    path = dicom(tmp_path / "a.dcm", colour[0], NumberOfFrames=2, PixelData=colour.tobytes(), Modality="US")
    np.testing.assert_array_equal(load(ImageRef(str(path), slice=1)).pixels, colour[1])


def test_enhanced_files_say_what_they_mean_by_frame(tmp_path):
    def group(**sequences):
        made = pydicom.Dataset()
        for name, tags in sequences.items():
            item = pydicom.Dataset()
            for tag, value in tags.items():
                setattr(item, tag, value)
            setattr(made, name, pydicom.Sequence([item]))
        return made

    shared = group(PixelMeasuresSequence={"PixelSpacing": [2.0, 0.5]})
    own = [
        group(
            PixelValueTransformationSequence={"RescaleSlope": 1, "RescaleIntercept": intercept, "RescaleType": "HU"},
            FrameVOILUTSequence={"WindowCenter": 0, "WindowWidth": 401},
        )
        for intercept in (-1024, -1000, -900)
    ]
    path = many_frames(
        tmp_path / "a.dcm",
        **dict.fromkeys(("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "PixelSpacing")),
        SharedFunctionalGroupsSequence=pydicom.Sequence([shared]),
        PerFrameFunctionalGroupsSequence=pydicom.Sequence(own),
    )
    picture = load(ImageRef(str(path), slice=2))
    np.testing.assert_array_equal(picture.raw, FRAMES[2] - 900.0)
    np.testing.assert_array_equal(picture.pixels, expected(FRAMES[2] - 900.0, -200.5, 199.5))
    assert picture.spacing == (0.5, 2.0)


@pytest.mark.parametrize(
    ("frame", "said"), [(None, "3 frames, and its annotation does not say which one"), (3, r"0 \.\. 2, got 3")]
)
def test_a_frame_that_is_not_told_or_not_there_is_refused(tmp_path, frame, said):
    with pytest.raises(ImageError, match=said) as caught:
        load(ImageRef(str(many_frames(tmp_path / "a.dcm")), slice=frame))
    assert caught.value.reason is Reason.IMAGE_UNREADABLE


def test_a_file_of_one_frame_has_no_second(tmp_path):
    path = str(dicom(tmp_path / "a.dcm", STORED, **CT))
    np.testing.assert_array_equal(load(ImageRef(path, slice=0)).pixels, shown(path).pixels)
    with pytest.raises(ImageError, match=r"expected a frame of 0 \.\. 0, got 1"):
        load(ImageRef(path, slice=1))


def test_a_file_without_a_suffix_is_known_by_its_magic_word(tmp_path):
    assert shown(dicom(tmp_path / "CT.1.2.840", STORED)).modality == "CT"
