"""Lungs by threshold, on drawn slices and on the real CTs of pyradiomics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from organ_cases import case, members, picture

from medclm.cases import ImageRef
from medclm.images import Picture, load, volumes
from medclm.organs import OrganError
from medclm.organs.lungs import Lungs, convex_hull
from medclm.samples import PYRADIOMICS

AIR, TISSUE, LUNG = -1000.0, 50.0, -850.0


@pytest.fixture
def chest() -> np.ndarray:
    """A body in air with two lungs, the right one in two pieces, and gas in the oesophagus."""
    hounsfield = np.full((100, 120), AIR, np.float32)
    hounsfield[10:90, 10:110] = TISSUE
    hounsfield[20:45, 20:50] = hounsfield[50:80, 20:50] = LUNG
    hounsfield[20:80, 70:100] = LUNG
    hounsfield[60:64, 58:62] = LUNG
    return hounsfield


def slice_of(hounsfield: np.ndarray, **other: object) -> Picture:
    known = {"raw": hounsfield, "spacing": (1.0, 1.0), "laterality_verified": True}
    return picture(*hounsfield.shape, **(known | other))


def test_air_outside_and_gas_are_no_lung(chest: np.ndarray) -> None:
    found = Lungs("air").masks(case(), slice_of(chest))
    assert set(found) == {"right lung", "left lung"}
    assert np.array_equal(found["right lung"] | found["left lung"], (chest == LUNG) & (chest_columns(chest) != 59))
    assert np.nonzero(found["right lung"])[1].max() < 60 < np.nonzero(found["left lung"])[1].min()


def chest_columns(chest: np.ndarray) -> np.ndarray:
    """59 in the columns of the oesophagus, 0 elsewhere."""
    return np.where((np.arange(chest.shape[1]) >= 58) & (np.arange(chest.shape[1]) < 62), 59, 0)[None]


def test_sides_are_not_said_where_the_axes_are_unknown(chest: np.ndarray) -> None:
    assert set(Lungs().masks(case(), slice_of(chest, laterality_verified=False))) == {"lung"}


def test_lungs_that_touch_are_cut_in_the_middle(chest: np.ndarray) -> None:
    chest[22:26, 50:70] = LUNG
    found = Lungs("air").masks(case(), slice_of(chest))
    assert np.nonzero(found["right lung"])[1].max() == 59
    assert np.nonzero(found["left lung"])[1].min() == 60


@pytest.mark.parametrize(("extent", "inside"), [("hull", True), ("air", False)])
def test_a_mass_at_the_pleura_is_in_the_hull_only(chest: np.ndarray, extent: str, inside: bool) -> None:
    chest[40:60, 70:82] = TISSUE  # at the edge of the left lung
    found = Lungs(extent).masks(case(), slice_of(chest))
    assert found["left lung"][45:55, 72:80].all() == inside


def test_closing_fills_a_nodule_but_no_bay(chest: np.ndarray) -> None:
    chest[62:68, 80:86] = TISSUE
    chest[20:50, 70:95] = TISSUE
    found = Lungs("closing").masks(case(), slice_of(chest))
    assert found["left lung"][62:68, 80:86].all()
    assert not found["left lung"][22:36, 72:80].any()


def test_the_hull_ends_20_mm_from_air(chest: np.ndarray) -> None:
    chest[20:75, 70:95] = TISSUE  # a thin L: its hull spans the bay
    near = Lungs().masks(case(), slice_of(chest, spacing=(4.0, 4.0)))["left lung"]
    wide = Lungs().masks(case(), slice_of(chest, spacing=(1.0, 1.0)))["left lung"]
    assert near.sum() < wide.sum()


def test_a_slice_without_lungs_has_no_masks() -> None:
    assert Lungs().masks(case(), slice_of(np.full((50, 50), TISSUE, np.float32))) == {}
    assert Lungs().masks(case(), slice_of(np.full((50, 50), AIR, np.float32))) == {}


def test_pictures_without_hounsfield_units_are_refused(chest: np.ndarray) -> None:
    with pytest.raises(OrganError, match="Hounsfield"):
        Lungs().masks(case(), slice_of(chest, raw=None))
    with pytest.raises(OrganError, match="this is MR"):
        Lungs().masks(case(modality="MR"), slice_of(chest))


def test_the_hull_of_a_line_is_the_line() -> None:
    line = np.zeros((5, 7), bool)
    line[2, 1:5] = True
    assert np.array_equal(convex_hull(line), line)


@pytest.mark.parametrize("volume", ["lung1", "lung2"])
def test_real_lesions_lie_in_the_lungs(tmp_path: Path, volume: str) -> None:
    """lung2's mass is solid and at the pleura: the threshold alone holds 2 % of it, closing over 10 mm 21 %."""
    names = (f"data/{volume}_image.nrrd", f"data/{volume}_label.nrrd")
    read = []
    for name, content in zip(names, members(PYRADIOMICS, *names), strict=True):
        path = tmp_path / Path(name).name
        path.write_bytes(content)
        read.append(volumes.read(path))
    lesion = read[1].array > 0
    inside, in_air, right = 0, 0, 0
    for z in np.flatnonzero(lesion.any(axis=(1, 2))):
        shown = load(ImageRef(str(tmp_path / f"{volume}_image.nrrd"), slice=int(z)))
        found = Lungs().masks(case(), shown)
        inside += sum(int((mask & lesion[z]).sum()) for mask in found.values())
        right += int((found["right lung"] & lesion[z]).sum()) if "right lung" in found else 0
        in_air += sum(int((mask & lesion[z]).sum()) for mask in Lungs("air").masks(case(), shown).values())
    total = int(lesion.sum())
    assert inside >= 0.9 * total
    assert in_air <= 0.1 * total
    # The lesion of lung1 is left of the picture's middle, that of lung2 right of it.
    assert right == (inside if volume == "lung1" else 0)
