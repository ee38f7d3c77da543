"""The line of text that names a source, callables, and where masks are looked for."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from organ_cases import case, picture

from medclm.organs import FromCallable, OrganError, organ_source
from medclm.organs.placement import find
from medclm.problems import DataError, Reason


def test_none_has_no_masks() -> None:
    assert organ_source("none").masks(case(), picture(4, 4)) == {}


@pytest.mark.parametrize("spec", ["", "lung", "none:x", "totalsegmentator-v3", "chexmask", "lungs:/", "sam"])
def test_an_unknown_spec_is_refused_with_what_was_expected(spec: str) -> None:
    with pytest.raises(DataError, match="expected"):
        organ_source(spec)


@pytest.mark.parametrize("spec", ["totalsegmentator:{}", "cxas:{}", "torchxrayvision:{}", "phantom:{}", "slake:{}"])
def test_a_path_that_does_not_exist_is_refused_at_once(spec: str, tmp_path: Path) -> None:
    assert organ_source(spec.format(tmp_path)).name == spec.partition(":")[0]
    with pytest.raises(DataError, match="exists"):
        organ_source(spec.format(tmp_path / "no"))


def test_find_prefers_the_case_s_own_path(tmp_path: Path) -> None:
    (tmp_path / "a.npy").touch()
    (tmp_path / "film.npy").touch()
    assert find(case(organs="a.npy"), tmp_path, (".npy",)).name == "a.npy"
    assert find(case(organs=str(tmp_path / "a.npy")), None, (".npy",)).name == "a.npy"
    assert find(case("in/film.nii.gz"), tmp_path, (".npy",)).name == "film.npy"


def test_find_without_any_place_says_so() -> None:
    with pytest.raises(OrganError, match="names no masks") as caught:
        find(case(), None, (".npy",))
    assert caught.value.reason is Reason.MASK_MISSING


def test_an_error_survives_the_way_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(OrganError(Reason.MASK_GRID, "what")))
    assert (error.reason, error.what) == (Reason.MASK_GRID, "what")


def test_a_callable_gives_canonical_names() -> None:
    source = FromCallable(lambda pixels: {"lung_left": (np.arange(12).reshape(3, 4) > 5) * 255, "heart": pixels * 0})
    found = source.masks(case(), picture(3, 4))
    assert list(found) == ["left lung"]
    assert found["left lung"].dtype == bool
    assert found["left lung"].sum() == 6


def test_a_callable_s_mask_of_another_size_is_refused() -> None:
    with pytest.raises(OrganError, match=r"expected \(3, 4\), got \(4, 3\)"):
        FromCallable(lambda pixels: {"heart": np.ones((4, 3))}).masks(case(), picture(3, 4))
