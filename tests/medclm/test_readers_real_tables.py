"""The real tables, out of a package that carries them: counts that are known of these sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from medclm import readers
from medclm.archives import Package
from medclm.cases import Case
from medclm.problems import DataError, Problems

PACKAGE = Package(
    requirement="torchxrayvision==1.5.7",
    file="torchxrayvision-1.5.7-py3-none-any.whl",
    sha256="95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41",
    licence="the tables have the terms of their sources",
)
Table = Callable[[str], Path]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    try:
        PACKAGE.path()
    except DataError as error:
        if "pip could not fetch" in str(error):
            pytest.skip(str(error))
        raise
    folder = tmp_path_factory.mktemp("tables")

    def write(name: str) -> Path:
        (folder / name).write_bytes(PACKAGE.read(f"torchxrayvision/data/{name}"))
        return folder / name

    return write


def labels(cases: list[Case]) -> Counter[str]:
    return Counter(lesion.label for case in cases for lesion in case.lesions)


def test_vinbigdata_has_its_images_boxes_and_findings(table: Table) -> None:
    path = table("vinbigdata-train.csv.gz")
    cases = list(readers.read("vindr", path, None, Problems(strict=True), merge="none"))
    found = labels(cases)
    assert (len(cases), found.total(), len(found)) == (15_000, 36_096, 14)
    assert found["aortic enlargement"] == 7_162 and found["interstitial lung disease"] == 1_000
    # 67,914 rows: the other 31,818 say that one of the three readers of an image found nothing.
    normal = [case for case in cases if not case.lesions]
    assert 3 * len(normal) == 67_914 - 36_096 and all(len(case.absent) == 13 for case in normal)
    assert len({case.id for case in cases}) == 15_000 and all(case.image.path == case.id for case in cases)


def test_vinbigdata_merged_by_majority_keeps_what_two_of_three_marked(table: Table) -> None:
    path = table("vinbigdata-train.csv.gz")
    counts = {
        policy: labels(list(readers.read("vindr", path, None, Problems(strict=True), merge=policy))).total()
        for policy in ("union", "wbf", "majority")
    }
    assert counts["majority"] < counts["union"] <= counts["wbf"] < 36_096


def test_nih_has_its_boxes_and_images(table: Table) -> None:
    path, entries = table("BBox_List_2017.csv.gz"), table("Data_Entry_2017_v2020.csv.gz")
    cases = list(readers.read("nih", path, None, Problems(strict=True), entries=entries))
    found = labels(cases)
    assert (len(cases), found.total(), len(found)) == (880, 984, 8)
    assert found["infiltration"] == 123 and found["pleural effusion"] == 153
    assert all(not {lesion.label for lesion in case.lesions} & set(case.absent) for case in cases)
    assert max(len(case.absent) for case in cases) == 13
    everything = list(readers.read("nih", path, None, Problems(strict=True), entries=entries, normals=True))
    assert len(everything) - len(cases) == 60_361 and len(everything[-1].absent) == 14


def test_rsna_has_its_boxes_and_patients(table: Table) -> None:
    path = table("kaggle_stage_2_train_labels.csv.zip")
    cases = list(readers.read("rsna", path, None, Problems(strict=True)))
    assert (len(cases), labels(cases).total()) == (26_684, 9_555)
    assert sum(bool(case.lesions) for case in cases) == 6_012
    assert sum(case.absent == ("lung opacity",) for case in cases) == 20_672
