"""Drawn pictures: their truth is true, and their bytes are the seed's."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from organ_cases import picture
from PIL import Image
from scipy import ndimage

from medclm import boxes, phantom
from medclm.cases import Case
from medclm.images import load
from medclm.linking import link_case
from medclm.organs import OrganError, organ_source
from medclm.phantom import ct, lesions, xray
from medclm.phantom.views import ABDOMEN_FINDINGS, CHEST_FINDINGS, ORGANS
from medclm.problems import DataError, Problems, Reason

SIZE, COUNT, SEED = 128, 360, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("phantoms")
    phantom.generate(made, count=COUNT, seed=SEED, size=SIZE)
    return made


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[Case]:
    return list(phantom.cases(folder, Problems(strict=True)))


def organs_of(case: Case) -> dict[str, np.ndarray]:
    return organ_source("phantom").masks(case, picture(SIZE, SIZE))


def pixels_of(case: Case) -> np.ndarray:
    """float32 [H, W]: grey values, or Hounsfield units of a volume's slice."""
    shown = load(case.image)
    assert shown.laterality_verified == (case.image.slice is not None)
    return shown.pixels.astype(np.float32) if shown.raw is None else shown.raw


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_equal_seeds_give_equal_bytes_whoever_writes_them(tmp_path: Path) -> None:
    phantom.generate(tmp_path / "one", count=9, seed=3, size=64)
    phantom.generate(tmp_path / "many", count=9, seed=3, size=64, workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "many")
    phantom.generate(tmp_path / "parts", count=4, seed=3, size=64, first=5)
    phantom.generate(tmp_path / "parts", count=5, seed=3, size=64)
    whole, parts = (list(phantom.cases(tmp_path / name, Problems())) for name in ("one", "parts"))
    assert [case.id for case in whole] == [case.id for case in parts]
    images = {name: digest for name, digest in digests(tmp_path / "one").items() if not name.startswith("cases")}
    assert images.items() <= digests(tmp_path / "parts").items()


def test_another_seed_gives_other_pictures(tmp_path: Path) -> None:
    for seed in (1, 2):
        phantom.generate(tmp_path / str(seed), count=3, seed=seed, size=64)
    first, second = digests(tmp_path / "1"), digests(tmp_path / "2")
    assert not set(first.values()) & set(second.values())


def test_nothing_is_left_half_written(folder: Path, cases: list[Case]) -> None:
    assert not [path for path in folder.rglob(".*")]
    assert len({case.id for case in cases}) == COUNT
    for case in cases:
        assert case.image_path().is_absolute()
        assert case.image_path().exists()
        assert Path(str(case.organs)).exists()


def test_patients_have_one_to_three_images(cases: list[Case]) -> None:
    assert Counter(Counter(case.patient for case in cases).values()) == {1: 60, 2: 60, 3: 60}


def test_boxes_are_those_of_the_masks_and_lesions_do_not_touch(cases: list[Case]) -> None:
    for case in cases:
        drawn = np.zeros((SIZE, SIZE), int)
        for lesion in case.lesions:
            assert lesion.region is not None
            drawn += lesion.region.mask()
            assert lesion.box == boxes.from_mask(lesion.region.mask())
        assert drawn.max() <= 1


def test_what_is_absent_was_looked_for_and_is_not_there(cases: list[Case]) -> None:
    for case in cases:
        present = {lesion.label for lesion in case.lesions}
        assert not present & set(case.absent)
        assert present | set(case.absent) in (set(CHEST_FINDINGS), set(ABDOMEN_FINDINGS))


def test_each_lesion_lies_in_the_organ_that_it_was_put_into(cases: list[Case]) -> None:
    for case in cases:
        masks = organs_of(case)
        for lesion in case.lesions:
            region = lesion.region.mask()
            assert (masks[lesion.attributes["organ"]] & region).sum() > 0.5 * region.sum()


def test_linking_finds_the_organ_or_its_lung(cases: list[Case]) -> None:
    found = Counter()
    for case in cases:
        linked = link_case(case, organs_of(case))
        for lesion, link in zip(case.lesions, linked.links, strict=True):
            truth, side = lesion.attributes["organ"], lesion.attributes["side"]
            found["exact"] += link.organ == truth
            found["same place"] += link.organ == truth or (link.side == side and "lung" in truth + link.organ)
            found["all"] += 1
    assert found["same place"] == found["all"] > 250
    assert found["exact"] > 0.6 * found["all"]


def test_the_patient_s_right_is_on_the_left_of_the_picture(cases: list[Case]) -> None:
    pairs = (
        ("right lung", "left lung"),
        ("right kidney", "left kidney"),
        ("right ribs", "left ribs"),
        ("liver", "spleen"),
    )
    seen = Counter()
    for case in cases:
        masks = organs_of(case)
        for right, left in pairs:
            if right in masks and left in masks:
                assert np.nonzero(masks[right])[1].mean() < np.nonzero(masks[left])[1].mean()
                seen[right] += 1
    assert min(seen[right] for right, _ in pairs) > 50


def test_volumes_show_what_their_masks_say_whatever_order_they_are_stored_in(cases: list[Case]) -> None:
    import nibabel

    volumes = [case for case in cases if case.image.slice is not None]
    assert len({nibabel.aff2axcodes(nibabel.load(case.image.path).affine) for case in volumes}) == 5
    for case in volumes:
        hounsfield, masks = pixels_of(case), organs_of(case)
        drawn = sum((lesion.region.mask() for lesion in case.lesions), np.zeros((SIZE, SIZE), bool))
        if "liver" in masks:
            assert 60 < np.median(hounsfield[masks["liver"] & ~drawn]) < 150
            assert np.median(hounsfield[masks["right kidney"] & ~drawn]) > 130
        else:
            assert np.median(hounsfield[masks["right lung"] & ~drawn]) < -700
            assert np.median(hounsfield[masks["heart"]]) > 90


@pytest.mark.parametrize("kind", ["chest x-ray", "chest ct", "abdomen ct"])
def test_lesions_change_what_they_cover_enough_to_be_seen_and_nothing_else(kind: str) -> None:
    """Against the noise that is added later: 2.5 to 5 grey values, 8 to 16 Hounsfield units."""
    noise, seen = 5.0 if kind == "chest x-ray" else 16.0, 0
    for number in range(40):
        rng = np.random.default_rng([9, number])
        view = xray.draw(192, rng, rng) if kind == "chest x-ray" else ct.draw(192, kind, rng)
        before = view.pixels.copy()
        painted = lesions.paint(view, np.zeros((192, 192), np.float32), rng)
        change = np.abs(view.pixels - before)
        near = np.zeros((192, 192), bool)
        for lesion in painted:
            seen += 1
            near |= ndimage.binary_dilation(lesion.mask, iterations=9)
            assert np.median(change[lesion.mask]) > 1.5 * noise, lesion.label
            if kind == "chest x-ray":
                assert np.median(change[lesion.mask]) < 95.0, lesion.label  # lung to chest wall: about 100
        assert not change[~near].any()
    assert seen > 20


def test_the_priors_are_those_of_the_docstring(cases: list[Case]) -> None:
    kinds = Counter(case.modality for case in cases)
    assert 0.4 < kinds["XR"] / COUNT < 0.6
    numbers = Counter(len(case.lesions) for case in cases)
    assert 0.22 < numbers[0] / COUNT < 0.38
    assert numbers[2] + numbers[3] > 0.15 * COUNT
    found = [(case, lesion) for case in cases for lesion in case.lesions]
    for findings in (CHEST_FINDINGS, ABDOMEN_FINDINGS):
        labels = Counter(
            lesion.label
            for case, lesion in found
            if {*case.absent, *(each.label for each in case.lesions)} == set(findings)
        )
        assert set(labels) == set(findings)
        assert min(labels.values()) > 0.5 * labels.total() / len(findings)
    for label in {*CHEST_FINDINGS, *ABDOMEN_FINDINGS}:
        sides = Counter(lesion.attributes["side"] for _, lesion in found if lesion.label == label)
        assert 0.28 < sides["left"] / sides.total() < 0.72, label
        hosts = {lesion.attributes["organ"] for _, lesion in found if lesion.label == label}
        assert len(hosts) >= (2 if label == "pleural effusion" else 4), label


def test_the_source_reads_by_folder_too(folder: Path, cases: list[Case]) -> None:
    by_folder = organ_source(f"phantom:{folder}").masks(cases[0], picture(SIZE, SIZE))
    assert by_folder.keys() == organs_of(cases[0]).keys() <= set(ORGANS)


def test_damaged_masks_are_unreadable(tmp_path: Path, cases: list[Case]) -> None:
    import dataclasses

    Image.new("L", (4, 4)).save(tmp_path / "plain.png")  # no names of bits
    with pytest.raises(OrganError) as caught:
        organs_of(dataclasses.replace(cases[0], organs=str(tmp_path / "plain.png")))
    assert caught.value.reason is Reason.MASK_UNREADABLE


def test_a_folder_without_phantoms_is_refused_and_a_bad_line_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected phantoms"):
        list(phantom.cases(tmp_path, Problems()))
    phantom.generate(tmp_path, count=2, seed=0, size=64)
    with next(tmp_path.glob("cases-*.jsonl")).open("a") as file:
        file.write('{"id": "cut\n')
    problems = Problems()
    assert len(list(phantom.cases(tmp_path, problems))) == 2
    assert problems.counts == {Reason.ROW_MALFORMED.value: 1}


@pytest.mark.parametrize("wrong", [{"size": 63}, {"count": -1}, {"first": -1}, {"workers": 0}])
def test_impossible_requests_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        phantom.generate(tmp_path, **({"count": 1, "seed": 0} | wrong))
