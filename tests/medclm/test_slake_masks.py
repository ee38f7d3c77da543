"""SLAKE's masks as organs: ids by mask.txt, whatever the mode of the picture they are in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from organ_cases import case, picture
from PIL import Image

from medclm.organs import OrganError, organ_source
from medclm.problems import Problems, Reason
from medclm.readers import read

NAMES = "1:Liver\n2: Left Lung\n7:Lung Cancer\n9:Left Lung\n"
IDS = np.zeros((20, 30), np.uint8)
IDS[:5], IDS[5:10, :10], IDS[10:12], IDS[15:, 25:] = 1, 2, 7, 9


def slake(root: Path, pixels: np.ndarray | Image.Image, names: str | None = NAMES) -> Path:
    folder = root / "imgs" / "xmlab3"
    folder.mkdir(parents=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(folder / "mask.png")
    if names is not None:
        (root / "mask.txt").write_text(names)
    return folder / "mask.png"


def masks(path: Path, height: int = 20, width: int = 30) -> dict[str, np.ndarray]:
    return organ_source("slake").masks(case(organs=str(path)), picture(height, width))


def palette() -> Image.Image:
    image = Image.fromarray(IDS, mode="P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    return image


@pytest.mark.parametrize(
    "pixels",
    [IDS, np.stack([IDS] * 3, axis=-1), np.stack([IDS, IDS * 0, IDS * 0], axis=-1), palette()],
    ids=["grey", "equal channels", "first channel", "palette"],
)
def test_ids_become_organs_and_diseases_do_not(tmp_path: Path, pixels: np.ndarray | Image.Image) -> None:
    found = masks(slake(tmp_path, pixels))
    assert list(found) == ["liver", "left lung"]
    np.testing.assert_array_equal(found["liver"], IDS == 1)
    np.testing.assert_array_equal(found["left lung"], (IDS == 2) | (IDS == 9))


def test_a_mask_of_another_size_is_scaled_and_one_of_another_shape_refused(tmp_path: Path) -> None:
    path = slake(tmp_path, IDS)
    np.testing.assert_array_equal(masks(path, 40, 60)["liver"], np.kron(IDS == 1, np.ones((2, 2), bool)))
    with pytest.raises(OrganError, match=r"xmlab3/mask.png: masks \[20, 30\] for a picture \[30, 30\]") as caught:
        masks(path, 30, 30)
    assert caught.value.reason is Reason.MASK_GRID


@pytest.mark.parametrize(
    ("pixels", "names", "reason", "said"),
    [
        (IDS + 1, NAMES, Reason.LABEL_UNKNOWN, r"ids \[3, 8, 10\] not in mask.txt"),
        (IDS, None, Reason.MASK_UNREADABLE, "no mask.txt"),
        (IDS, "1 Liver\n", Reason.MASK_UNREADABLE, "line 1: expected id:name, got '1 Liver'"),
        (np.stack([IDS, IDS + 9, IDS], axis=-1), NAMES, Reason.MASK_UNREADABLE, "channels differ"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(
    tmp_path: Path, pixels: np.ndarray, names: str | None, reason: Reason, said: str
) -> None:
    with pytest.raises(OrganError, match=said) as caught:
        masks(slake(tmp_path, pixels, names))
    assert caught.value.reason is reason


def test_a_damaged_mask_is_unreadable(tmp_path: Path) -> None:
    path = slake(tmp_path, IDS)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(OrganError) as caught:
        masks(path)
    assert caught.value.reason is Reason.MASK_UNREADABLE


def test_the_reader_s_cases_find_their_masks(tmp_path: Path) -> None:
    folder = slake(tmp_path, IDS).parent
    Image.new("L", (30, 20)).save(folder / "source.jpg")
    (folder / "detection.json").write_text('[{"Liver Cancer": [3, 1, 4, 3]}]')
    (found,) = read("slake", tmp_path, None, Problems(strict=True))
    for source in ("slake", f"slake:{tmp_path}"):
        assert "liver" in organ_source(source).masks(found, picture(20, 30))
