"""The source "auto": masks that a case comes with, else the lungs of a CT, else none."""

from __future__ import annotations

import numpy as np
import pytest
from organ_cases import case, picture, sample_volumes

from medclm import samples
from medclm.images import load
from medclm.organs import OrganError, organ_source
from medclm.problems import Problems


def test_what_has_no_masks_has_no_organs():
    source = organ_source("auto")
    assert source.name == "auto"
    assert source.masks(case(modality="MR"), picture(8, 8)) == {}
    assert source.masks(case(modality="CT"), picture(8, 8)) == {}, "without Hounsfield units there is no lung"


def test_a_ct_has_lungs_and_masks_that_it_comes_with_go_before(tmp_path):
    raw = np.full((64, 64), 40.0, np.float32)
    raw[16:48, 8:28] = raw[16:48, 36:56] = -800.0
    shown = picture(64, 64, raw=raw, spacing=(4.0, 4.0), laterality_verified=True)
    assert set(organ_source("auto").masks(case(), shown)) == {"right lung", "left lung"}
    with pytest.raises(OrganError, match=r"mask (missing|unreadable)"):
        organ_source("auto").masks(case(organs=str(tmp_path / "none.nii.gz")), shown)


def test_sample_volumes_have_organs_by_what_each_offers(tmp_path_factory):
    folder = sample_volumes(tmp_path_factory.mktemp("samples") / "volumes")
    found: dict[str, set[str]] = {}
    for each in samples.cases(folder, Problems(strict=True)):
        masks = organ_source("auto").masks(each, load(each.image))
        found.setdefault(each.patient, set()).update(masks)
    assert found["lung1"] == found["lung2"] == {"right lung", "left lung"}
    assert found["brain1"] == found["brain2"] == found["breast1"] == set()
    lesions = ("lung1", "lung2", "brain1", "brain2", "breast1")
    others = set().union(*(organs for patient, organs in found.items() if patient not in lesions))
    assert {"liver", "spleen", "aorta"} <= others
