"""The sample volumes, out of their packages."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from organ_cases import sample_volumes

from medclm import boxes, samples
from medclm.archives import Package
from medclm.images import load, volumes
from medclm.problems import DataError, Problems


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sample_volumes(tmp_path_factory.mktemp("samples") / "volumes")


def test_manifest_names_every_file_and_its_bits(folder):
    files = json.loads((folder / samples.MANIFEST).read_text())["files"]
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(files) == there - {samples.MANIFEST}
    for name, entry in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]


def test_twenty_seven_of_a_hundred_and_seventy_eight_slices_have_a_lesion(folder):
    problems = Problems(strict=True)
    cases = list(samples.cases(folder, problems))
    lesions = [case for case in cases if case.lesions]
    assert len(lesions) == 27
    assert Counter(case.patient for case in lesions) == {
        "lung1": 3,
        "lung2": 11,
        "brain1": 7,
        "brain2": 3,
        "breast1": 3,
    }
    depth = {case.patient: volumes.read_grid(case.image_path()).size[2] for case in lesions}
    assert sum(depth.values()) == 178
    assert all(case.absent == () for case in cases)
    assert len({(case.source, case.id) for case in cases}) == len(cases)
    for case in lesions:
        for lesion in case.lesions:
            assert boxes.from_mask(lesion.region.mask()) == lesion.box


def test_pictures_are_upright_and_their_masks_lie_on_them(folder):
    cases = list(samples.cases(folder, Problems(strict=True)))
    for case in {case.patient: case for case in cases}.values():
        picture = load(case.image)
        assert picture.pixels.shape[:2] == (case.height, case.width)
        assert picture.laterality_verified and len(np.unique(picture.pixels)) > 20
    brain = next(case for case in cases if case.patient == "brain1")
    # Stored with rows that run to the front: row 84 of the file counts from the other end.
    assert brain.lesions[0].box[1] < 256 - 84
    lung = volumes.cache.get(folder / "pyradiomics" / "lung1_image.nrrd")
    table = lung.array[20, 256:, 200:300].mean() - lung.array[20, :100, 200:300].mean()
    assert table > 300  # the body lies on its back: the back is down, air is up


def test_organ_volumes_have_their_masks_on_their_grid(folder):
    cases = [case for case in samples.cases(folder, Problems(strict=True)) if case.source == "totalsegmentator"]
    assert {case.modality for case in cases} == {"CT", "MR"} and not any(case.lesions for case in cases)
    for image, organs in {(case.image.path, case.organs) for case in cases}:
        found = volumes.read(organs)
        assert volumes.read_grid(folder / image).difference(found.grid) is None
        assert len(np.unique(found.array)) > 20


def test_a_second_fetch_does_nothing(folder, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(Package, "path", lambda self: pytest.fail("the archive was opened"))
    assert samples.fetch(folder) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_failed_fetch_leaves_nothing(tmp_path, monkeypatch):
    def fail(self):
        raise DataError("no network")

    monkeypatch.setattr(Package, "path", fail)
    with pytest.raises(DataError, match="no network"):
        samples.fetch(tmp_path / "deep" / "volumes")
    assert list((tmp_path / "deep").iterdir()) == []


def test_another_folder_is_not_taken_for_the_samples(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        samples.fetch(tmp_path)
    (tmp_path / "manifest.json").write_text('{"version": 99}')
    with pytest.raises(DataError, match="version 99"):
        list(samples.cases(tmp_path, Problems()))
    assert (tmp_path / "notes.txt").read_text() == "mine"
