"""One name for an organ, whatever its segmenter calls it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from medclm.organs.cxas_channels import CHANNELS
from medclm.organs.names import canonical, collect, is_bone, side
from medclm.organs.totalsegmentator_labels import LABELS

EVERY_NAME = sorted({*CHANNELS, *(name for table in LABELS.values() for name in table.values())})


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("lung_upper_lobe_left", "left upper lobe"),
        ("lung upper lobe left", "left upper lobe"),
        ("lung_left", "left lung"),
        ("Left Lung", "left lung"),
        ("Weasand", "oesophagus"),
        ("esophagus", "oesophagus"),
        ("Facies Diaphragmatica", "diaphragm"),
        ("Right Hilus Pulmonis", "right hilum"),
        ("rib_left_3", "left 3rd rib"),
        ("rib_right_11", "right 11th rib"),
        ("posterior 11th rib right", "right posterior 11th rib"),
        ("vertebrae_T12", "T12 vertebra"),
        ("clavicula_left", "left clavicle"),
        ("heart_atrium_left", "left atrium"),
    ],
)
def test_canonical_is_the_field_s_name(raw: str, expected: str) -> None:
    assert canonical(raw) == expected


def test_canonical_of_a_canonical_name_is_itself() -> None:
    assert all(canonical(canonical(name)) == canonical(name) for name in EVERY_NAME)


def test_side_is_of_the_body_and_not_of_a_chamber() -> None:
    assert (side("left lung"), side("right 3rd rib"), side("liver")) == ("left", "right", None)
    assert side("left atrium") is None


def test_side_of_every_name_that_tells_one_is_found() -> None:
    chambers = ("atrium", "ventricle", "appendage")
    for name in EVERY_NAME:
        words = name.replace("_", " ").split()
        if "left" in words and not any(word in chambers for word in words):
            assert side(canonical(name)) == "left"


def test_bones_are_known_and_the_spinal_cord_is_none() -> None:
    assert all(is_bone(canonical(name)) for name in EVERY_NAME if "rib" in name or "vertebrae" in name)
    assert is_bone("left clavicle")
    assert is_bone(canonical("hip_left"))
    assert not is_bone("spinal cord")
    assert not is_bone("left lung")


def test_collect_joins_one_name_s_masks_and_drops_empty_ones_and_cysts() -> None:
    one, other, none = np.eye(4, dtype=bool), np.eye(4, dtype=bool)[::-1], np.zeros((4, 4), bool)
    found = collect({"esophagus": one, "Weasand": other, "liver": none, "kidney_cyst_left": one})
    assert list(found) == ["oesophagus"]
    assert np.array_equal(found["oesophagus"], one | other)


def test_collect_merges_lobes_on_request() -> None:
    upper, lower = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    upper[:2], lower[2:] = True, True
    lobes = {"lung_upper_lobe_left": upper, "lung_lower_lobe_left": lower}
    assert set(collect(lobes)) == {"left upper lobe", "left lower lobe"}
    merged = collect(lobes, merge_lobes=True)
    assert list(merged) == ["left lung"]
    assert merged["left lung"].all()


def test_importing_the_data_side_needs_no_heavy_package() -> None:
    code = (
        "import sys, medclm.organs, medclm.linking, medclm.phantom\n"
        "print([m for m in ('torch', 'nibabel', 'SimpleITK', 'pycocotools', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
