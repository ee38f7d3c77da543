"""The 14 channels of torchxrayvision's PSPNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from organ_cases import case, picture

from medclm.organs import OrganError, organ_source
from medclm.organs.xray_vision import CHANNELS, XrayVision
from medclm.problems import Reason

# As the network lists them, checked against torchxrayvision 1.5.7.
TARGETS = (
    "Left Clavicle", "Right Clavicle", "Left Scapula", "Right Scapula", "Left Lung", "Right Lung",
    "Left Hilus Pulmonis", "Right Hilus Pulmonis", "Heart", "Aorta", "Facies Diaphragmatica", "Mediastinum", "Weasand",
    "Spine",
)  # fmt: skip


def test_the_channels_are_the_network_s_targets_in_order() -> None:
    from medclm.organs.names import canonical

    assert tuple(canonical(name) for name in TARGETS) == CHANNELS


@pytest.fixture
def logits() -> np.ndarray:
    """[14, 512, 512]: the aorta in the upper left quarter, all else far below zero."""
    values = np.full((14, 512, 512), -9.0, np.float32)
    values[9, :256, :256] = 4.0
    values[8] = -0.5  # a heart of probability 0.38: not there
    return values


@pytest.mark.parametrize("kind", ["logits", "probabilities", "booleans", "batch"])
def test_logits_probabilities_and_masks_give_the_same(tmp_path: Path, logits: np.ndarray, kind: str) -> None:
    """Thresholding logits at 0.5 or probabilities at 0 would change the heart."""
    as_saved = {
        "logits": logits,
        "probabilities": 1 / (1 + np.exp(-logits)),
        "booleans": logits > 0,
        "batch": logits[None],
    }
    np.save(tmp_path / "film.npy", as_saved[kind])
    found = XrayVision(tmp_path).masks(case(), picture(200, 100))
    assert set(found) == {"aorta"}
    assert found["aorta"].shape == (200, 100)
    assert found["aorta"][:100, :50].all()
    assert found["aorta"].sum() == 100 * 50


def test_a_cropped_square_lies_in_the_middle_of_the_film(tmp_path: Path, logits: np.ndarray) -> None:
    np.savez_compressed(tmp_path / "film.npz", logits)
    found = organ_source(f"torchxrayvision-crop:{tmp_path}").masks(case(), picture(200, 100))
    assert found["aorta"][50:100, :50].all()
    assert found["aorta"].sum() == 50 * 50


def test_another_number_of_channels_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "film.npy", np.zeros((3, 512, 512)))
    with pytest.raises(OrganError, match=r"expected \[14, H, W\]"):
        XrayVision(tmp_path).masks(case(), picture(10, 10))


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04"])
def test_a_damaged_file_is_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "film.npy").write_bytes(content)
    with pytest.raises(OrganError) as caught:
        XrayVision(tmp_path).masks(case(), picture(10, 10))
    assert caught.value.reason is Reason.MASK_UNREADABLE


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "film.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(OrganError) as caught:
        XrayVision(tmp_path).masks(case(), picture(10, 10))
    assert caught.value.reason is Reason.MASK_UNREADABLE


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="fit: expected one of stretch, centre crop; got 'pad'"):
        XrayVision(None, fit="pad")
