"""CXAS in each of the forms that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from organ_cases import case, picture
from PIL import Image
from pycocotools import mask as coco

from medclm.organs import OrganError
from medclm.organs.cxas import Cxas
from medclm.organs.cxas_channels import CHANNELS
from medclm.problems import Reason

SHAPE = (12, 10)


@pytest.fixture
def channels() -> np.ndarray:
    """[159, 12, 10]: the left lung, its upper lobe within it, and a rib across both."""
    found = np.zeros((len(CHANNELS), *SHAPE), bool)
    found[CHANNELS.index("left lung"), 1:11, 6:9] = True
    found[CHANNELS.index("lung upper lobe left"), 1:5, 6:9] = True
    found[CHANNELS.index("posterior 3rd rib left"), 3:5, 4:10] = True
    return found


EXPECTED = {"left lung", "left upper lobe", "left posterior 3rd rib"}


def as_coco(folder: Path, channels: np.ndarray) -> None:
    annotations = [{}]
    for number in np.flatnonzero(channels.any(axis=(1, 2))):
        runs = coco.encode(np.asfortranarray(channels[number].astype(np.uint8)))
        runs["counts"] = runs["counts"].decode()
        annotations.append({"id": 1, "image_id": 1, "category_id": int(number), "segmentation": runs})
    categories = [{"supercategory": name, "id": number, "name": name} for number, name in enumerate(CHANNELS)]
    whole = {"images": [[{"id": 1}]], "categories": categories, "annotations": annotations}
    (folder / "film.json").write_text(json.dumps(whole))


def as_pictures(folder: Path, channels: np.ndarray) -> None:
    (folder / "film").mkdir()
    for name, mask in zip(CHANNELS, channels, strict=True):
        Image.fromarray(mask).convert("1").save(folder / "film" / f"{name}.png")


def as_array(folder: Path, channels: np.ndarray) -> None:
    np.save(folder / "film.npy", channels)


def as_compressed(folder: Path, channels: np.ndarray) -> None:
    np.savez_compressed(folder / "film.npz", channels)


@pytest.mark.parametrize("write", [as_coco, as_pictures, as_array, as_compressed])
def test_overlapping_channels_are_all_read(tmp_path: Path, channels: np.ndarray, write) -> None:
    write(tmp_path, channels)
    found = Cxas(tmp_path).masks(case("films/film.png"), picture(*SHAPE))
    assert set(found) == EXPECTED
    assert np.array_equal(found["left posterior 3rd rib"], channels[CHANNELS.index("posterior 3rd rib left")])
    assert (found["left lung"] & found["left posterior 3rd rib"]).any()


def test_channels_are_numbered_as_in_the_tool() -> None:
    assert len(CHANNELS) == len(set(CHANNELS)) == 159
    known = {0: "spine", 36: "posterior 12th rib right", 81: "posterior 1st rib left", 121: "heart", 134: "lung"}
    known |= {135: "right lung", 136: "left lung", 149: "lung lower lobe left", 158: "breast right"}
    assert {number: CHANNELS[number] for number in known} == known


def test_masks_on_the_network_s_grid_are_stretched_to_the_film(tmp_path: Path) -> None:
    channels = np.zeros((len(CHANNELS), 512, 512), np.uint8)
    channels[CHANNELS.index("heart"), 256:, 256:] = 1
    np.save(tmp_path / "film.npy", channels)
    found = Cxas(tmp_path).masks(case(), picture(100, 80))
    assert found["heart"].shape == (100, 80)
    assert found["heart"][50:, 40:].all()
    assert found["heart"].sum() == 50 * 40


def test_masks_of_another_film_are_refused(tmp_path: Path, channels: np.ndarray) -> None:
    as_array(tmp_path, channels)
    with pytest.raises(OrganError) as caught:
        Cxas(tmp_path).masks(case(), picture(10, 12))
    assert caught.value.reason is Reason.MASK_GRID


@pytest.mark.parametrize("text", ["{", "[]", '{"annotations": [{"category_id": 0}]}', '{"annotations": [7]}'])
def test_a_json_of_another_kind_is_unreadable(tmp_path: Path, text: str) -> None:
    (tmp_path / "film.json").write_text(text)
    with pytest.raises(OrganError) as caught:
        Cxas(tmp_path).masks(case(), picture(*SHAPE))
    assert caught.value.reason is Reason.MASK_UNREADABLE


def test_an_array_of_another_number_of_channels_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "film.npy", np.zeros((14, *SHAPE), bool))
    with pytest.raises(OrganError, match=r"expected \[159, H, W\], got \[14, 12, 10\]"):
        Cxas(tmp_path).masks(case(), picture(*SHAPE))


def test_an_empty_folder_is_missing(tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    with pytest.raises(OrganError) as caught:
        Cxas(tmp_path).masks(case(), picture(*SHAPE))
    assert caught.value.reason is Reason.MASK_MISSING
