"""Contours of RTSTRUCT on their series."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from image_files import ORIGIN, SPACING, dicom, dicom_series
from pydicom.dataset import Dataset

from medclm.images import load
from medclm.problems import DataError, Problems
from medclm.readers import rtstruct


def square(x1, y1, x2, y2, z):
    """The edges of the pixels x1..x2, y1..y2 (half-open) of slice z, in world millimetres."""
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    points = [(x - 0.5, y - 0.5, z) for x, y in corners]  # indices count from centres
    return [ORIGIN[k] + index * SPACING[k] for point in points for k, index in enumerate(point)]


def write_plan(path, regions, series="1.2.3", kind="CLOSED_PLANAR"):
    """regions: name -> contours."""
    dicom(path, np.zeros((2, 2), np.uint8), Modality="RTSTRUCT", PixelData=None, Rows=None, Columns=None)
    plan = pydicom.dcmread(path)
    referenced, study, frame = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = series
    study.RTReferencedSeriesSequence = [referenced]
    frame.RTReferencedStudySequence = [study]
    plan.ReferencedFrameOfReferenceSequence = [frame]
    rois, outlines = [], []
    for number, (name, contours) in enumerate(regions.items(), start=1):
        roi, outline = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        outline.ReferencedROINumber = number
        outline.ContourSequence = []
        for data in contours:
            contour = Dataset()
            contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(data) // 3
            contour.ContourData = [f"{value:.6f}" for value in data]
            outline.ContourSequence.append(contour)
        rois.append(roi)
        outlines.append(outline)
    plan.StructureSetROISequence, plan.ROIContourSequence = rois, outlines
    plan.save_as(path)
    return path


@pytest.fixture
def study(tmp_path):
    volume = np.zeros((5, 40, 50), np.int16)
    volume[2, 10:20, 5:25] = 600
    volume[2, 13:16, 10:15] = 0
    dicom_series(tmp_path, volume)
    contours = [square(5, 10, 25, 20, 2), square(10, 13, 15, 16, 2), square(5, 10, 9, 14, 3)]
    regions = {"GTV-1": contours, "PTV": [square(0, 0, 30, 30, 2)], "Lung_L": [square(0, 0, 40, 40, 1)]}
    write_plan(tmp_path / "plan.dcm", regions)
    return tmp_path


def test_contours_lie_on_their_pixels_and_inner_ones_are_holes(study):
    cases = list(rtstruct.read(study, None, Problems(strict=True)))
    assert [case.image.slice for case in cases] == [2, 3]
    (lesion,) = cases[0].lesions
    np.testing.assert_array_equal(lesion.region.mask(), load(cases[0].image).raw == 600)
    assert lesion.box == (5.0, 10.0, 25.0, 20.0)
    assert lesion.label == "tumour" and lesion.attributes == {"roi": "GTV-1"}
    assert cases[0].modality == "CT" and cases[0].absent == () and cases[0].patient == "SECRET-4711"


def test_regions_are_chosen_by_pattern(study):
    cases = list(rtstruct.read(study / "plan.dcm", study, Problems(strict=True), rois={"lung*": "lung"}))
    assert [(case.image.slice, case.lesions[0].label) for case in cases] == [(1, "lung")]


def test_contours_off_the_slices_are_counted(study):
    tilted = square(5, 10, 25, 20, 2)
    tilted[2] += SPACING[2]
    between = square(5, 10, 25, 20, 2.5)
    outside = square(5, 10, 25, 20, 9)
    write_plan(study / "plan.dcm", {"GTV": [tilted, between, outside, tilted[:4]]})
    problems = Problems()
    assert list(rtstruct.read(study, None, problems)) == []
    assert dict(problems.counts) == {"malformed row": 3, "box outside the image": 1}


def test_points_are_no_regions(study):
    write_plan(study / "plan.dcm", {"GTV": [square(5, 10, 25, 20, 2)]}, kind="POINT")
    assert list(rtstruct.read(study, None, Problems(strict=True))) == []


def test_a_damaged_plan_is_counted_beside_a_good_one(study):
    plans = study / "plans"
    plans.mkdir()
    raw = (study / "plan.dcm").read_bytes()
    for name, content in (("a.dcm", raw[:150]), ("b.dcm", b"text"), ("c.dcm", raw)):
        (plans / name).write_bytes(content)
    problems = Problems()
    assert len(list(rtstruct.read(plans, study, problems))) == 2
    assert dict(problems.counts) == {"malformed row": 2}


def test_missing_series_is_counted_and_a_folder_without_plans_refused(study):
    write_plan(study / "plan.dcm", {"GTV": []}, series="9.9")
    problems = Problems()
    assert list(rtstruct.read(study, None, problems)) == []
    assert dict(problems.counts) == {"image missing": 1}
    (study / "plan.dcm").unlink()
    with pytest.raises(DataError, match="RTSTRUCT"):
        list(rtstruct.read(study, None, Problems()))
