"""CheXmask's csv."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from organ_cases import case, picture

from medclm.organs import OrganError, chexmask, organ_source
from medclm.organs.chexmask import CheXmask, decode
from medclm.problems import DataError, Reason

SHAPE = (6, 4)


def encode(mask: np.ndarray) -> str:
    """1-based starts and lengths, rows one after another: as CheXmask's own code writes them."""
    padded = np.concatenate([[0], mask.astype(int).ravel(), [0]])
    edges = np.flatnonzero(padded[1:] != padded[:-1]) + 1
    edges[1::2] -= edges[::2]
    return " ".join(map(str, edges))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def lung() -> np.ndarray:
    """Not its own transpose: a column-major reading gives another mask."""
    mask = np.zeros(SHAPE, bool)
    mask[0, 0] = mask[1:4, 1:3] = True
    return mask


def write(path: Path, rows: list[dict], id_column: str = "dicom_id", drop: str = "") -> Path:
    columns = ["", id_column, "Dice RCA (Mean)", "Dice RCA (Max)", "Landmarks", *chexmask.ORGANS, "Height", "Width"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in columns if name != drop], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(id: str, lung: np.ndarray, dice: float = 0.9, **other: object) -> dict:
    landmarks = "[[ 1  2]\n [ 3  4]]"  # printed arrays: a row of the csv runs over several lines
    fields = {"dicom_id": id, "Dice RCA (Mean)": dice, "Dice RCA (Max)": 0.95, "Landmarks": landmarks}
    fields |= {"Left Lung": encode(lung), "Right Lung": "", "Heart": encode(lung[::-1]), "Height": 6, "Width": 4}
    return fields | other


def test_runs_start_at_one_and_go_along_rows() -> None:
    mask = decode("1 1 3 2", 2, 4)
    assert mask.tolist() == [[True, False, True, True], [False] * 4]


@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_what_is_encoded_is_decoded(mask: np.ndarray) -> None:
    assert np.array_equal(decode(encode(mask), *mask.shape), mask)


@pytest.mark.parametrize("runs", ["1", "0 2", "24 2", "a b", "3 -1"])
def test_runs_that_cannot_be_are_refused(runs: str) -> None:
    with pytest.raises(ValueError):
        decode(runs, *SHAPE)


def test_a_row_is_found_by_its_id_wherever_it_stands(tmp_path: Path, lung: np.ndarray) -> None:
    rows = [row(f"id{n}", np.roll(lung, n, axis=0)) for n in range(40)]
    source = CheXmask(write(tmp_path / "MIMIC.csv", rows))
    for n in (0, 17, 39):
        found = source.masks(case(id=f"id{n}"), picture(*SHAPE))
        assert set(found) == {"left lung", "heart"}
        assert np.array_equal(found["left lung"], np.roll(lung, n, axis=0))


@pytest.mark.parametrize(
    ("column", "value", "film"),
    [
        ("Image Index", "00000013_005.png", case("images/00000013_005.png", id="other")),
        ("ImageID", "2168_02-094.png", case("x/2168_02-094.png", id="2168_02-094")),
        ("image_id", "9a5094b2563a", case("train/9a5094b2563a.dicom", id="vindr")),
        ("Path", "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg",
         case("/data/CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg", id="chexpert")),
    ],
)  # fmt: skip
def test_each_set_s_id_column_is_known(tmp_path: Path, lung: np.ndarray, column: str, value: str, film) -> None:
    path = write(tmp_path / "set.csv", [row("", lung) | {column: value}], column)
    assert "left lung" in organ_source(f"chexmask:{path}").masks(film, picture(*SHAPE))


def test_two_patients_with_one_file_name_are_told_apart(tmp_path: Path, lung: np.ndarray) -> None:
    names = [f"train/patient0000{n}/study1/view1_frontal.jpg" for n in (1, 2)]
    rows = [row("", np.roll(lung, n, axis=0)) | {"Path": name} for n, name in enumerate(names)]
    source = CheXmask(write(tmp_path / "CheXpert.csv", rows, "Path"))
    for n, name in enumerate(names):
        found = source.masks(case(f"/data/{name}", id=str(n)), picture(*SHAPE))
        assert np.array_equal(found["left lung"], np.roll(lung, n, axis=0))


@pytest.mark.parametrize(("dice", "kept"), [(0.7, True), (0.6999, False), (float("nan"), False)])
def test_masks_of_low_quality_are_left_out(tmp_path: Path, lung: np.ndarray, dice: float, kept: bool) -> None:
    source = CheXmask(write(tmp_path / "set.csv", [row("a", lung, dice)]))
    if kept:
        assert source.masks(case(id="a"), picture(*SHAPE))
        return
    with pytest.raises(OrganError, match="Dice RCA") as caught:
        source.masks(case(id="a"), picture(*SHAPE))
    assert caught.value.reason is Reason.NOISY


def test_a_film_that_was_resized_gets_resized_masks(tmp_path: Path, lung: np.ndarray) -> None:
    source = CheXmask(write(tmp_path / "set.csv", [row("a", lung)]))
    found = source.masks(case(id="a"), picture(12, 8))
    assert np.array_equal(found["left lung"], lung.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"Height": 4, "Width": 6}, Reason.MASK_GRID), ({"Heart": "7"}, Reason.MASK_UNREADABLE)],
)
def test_a_row_that_does_not_fit_is_refused(tmp_path: Path, lung: np.ndarray, changed: dict, reason: Reason) -> None:
    source = CheXmask(write(tmp_path / "set.csv", [row("a", lung, **changed)]))
    with pytest.raises(OrganError) as caught:
        source.masks(case(id="a"), picture(*SHAPE))
    assert caught.value.reason is reason


def test_a_film_that_is_not_in_the_file_is_missing(tmp_path: Path, lung: np.ndarray) -> None:
    source = CheXmask(write(tmp_path / "set.csv", [row("a", lung)]))
    with pytest.raises(OrganError) as caught:
        source.masks(case(id="b"), picture(*SHAPE))
    assert caught.value.reason is Reason.MASK_MISSING


@pytest.mark.parametrize("drop", ["dicom_id", "Height", "Heart"])
def test_a_csv_of_another_kind_names_both_headers(tmp_path: Path, lung: np.ndarray, drop: str) -> None:
    """Without Height it is a preprocessed file: its masks are of padded squares and fit no film."""
    path = write(tmp_path / "set.csv", [row("a", lung)], drop=drop)
    with pytest.raises(DataError, match=r"original resolution.*found"):
        CheXmask(path)


def test_a_compressed_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.csv.gz").write_bytes(b"\x1f\x8b\x08\x00\xff\xfe\xfd")
    with pytest.raises(DataError, match="not compressed"):
        CheXmask(tmp_path / "set.csv.gz")


def test_the_index_is_made_once_and_anew_for_a_changed_file(
    tmp_path: Path, lung: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "set.csv", [row("a", lung)])
    built = []
    make = chexmask._build
    monkeypatch.setattr(chexmask, "_build", lambda *args: built.append(1) or make(*args))
    CheXmask(path)
    again = pickle.loads(pickle.dumps(CheXmask(path)))
    assert len(built) == 1
    assert again.masks(case(id="a"), picture(*SHAPE))
    write(path, [row("a", lung), row("b", lung)])
    assert CheXmask(path).masks(case(id="b"), picture(*SHAPE))
    assert len(built) == 2


def test_a_row_longer_than_csv_s_own_limit_is_read(tmp_path: Path, lung: np.ndarray) -> None:
    long = row("a", lung) | {"Landmarks": "1 " * 100_000}
    assert CheXmask(write(tmp_path / "set.csv", [long])).masks(case(id="a"), picture(*SHAPE))
