"""What every reader stands on: the registry, tables, boxes as text, finding images."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medclm import readers
from medclm.problems import DataError, Problems, Reason
from medclm.readers.box_values import read_box, size_of
from medclm.readers.image_files import ImageFiles, image_size
from medclm.readers.tables import rows, rows_by_position

TABLE = '\ufeffid,x,note\r\na,1,"one, two"\r\n\r\nb, 2 ,\r\n'


def plain(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def gzipped(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


def zipped(path: Path, text: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inside.csv", text)
        archive.writestr("__MACOSX/inside.csv", "junk")
    return path


@pytest.mark.parametrize("write", [plain, gzipped, zipped])
def test_tables_are_read_however_they_are_packed_and_named(tmp_path: Path, write: Callable) -> None:
    path = write(tmp_path / "train.csv", TABLE)
    found = list(rows(path, ("note", "id"), Problems(), optional=("x", "z")))
    assert found == [(2, ["one, two", "a", "1", ""]), (4, ["", "b", "2", ""])]


def test_a_wrong_header_is_named_with_the_one_expected(tmp_path: Path) -> None:
    path = plain(tmp_path / "t.csv", "image,x\n1,2\n")
    with pytest.raises(DataError, match=r"expected a header with id,x, got image,x \(without id\)"):
        list(rows(path, ("id", "x"), Problems()))
    with pytest.raises(DataError, match="expected a header that begins with id,x, got image,x"):
        list(rows_by_position(path, ("id", "x"), 2, Problems()))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe\x01\x80",
        gzip.compress(b"id\n" + bytes(range(65, 91)) * 9)[:-12],
        b"PK\x03\x04junk",
        b'id\n"a',
    ],
    ids=["empty", "binary", "gzip cut off", "no archive", "open quote"],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t\.csv: expected"):
        list(rows(path, ("id",), Problems()))


def test_an_archive_of_two_tables_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a.csv", "id\n")
        archive.writestr("b.csv", "id\n")
    with pytest.raises(DataError, match="archive of one csv file, got 2"):
        list(rows(tmp_path / "t.zip", ("id",), Problems()))


def test_rows_that_are_too_short_or_too_long_are_counted(tmp_path: Path) -> None:
    path = plain(tmp_path / "t.csv", "id,x\na\nb,1,2\nc,3,\n")
    problems = Problems()
    assert list(rows(path, ("id", "x"), problems)) == [(4, ["c", "3"])]
    assert problems.counts == {Reason.ROW_MALFORMED.value: 2}
    assert problems.examples[Reason.ROW_MALFORMED.value][0] == "t.csv:2: expected 2 fields, got 1"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (("1", "2", "3"), Reason.BOX_MALFORMED),
        (("1", "2", "x", "4"), Reason.BOX_MALFORMED),
        (("1", "2", "nan", "4"), Reason.BOX_MALFORMED),
        (("1", "2", "inf", "4"), Reason.BOX_MALFORMED),
        (("", "", "", ""), Reason.BOX_MALFORMED),
        ((1, 2, True, 4), Reason.BOX_MALFORMED),
        ("1234", Reason.BOX_MALFORMED),
        (None, Reason.BOX_MALFORMED),
        ((5, 5, 5, 9), Reason.BOX_EMPTY),
        ((9, 9, 5, 5), Reason.BOX_EMPTY),
        ((100, 0, 120, 9), Reason.BOX_OUTSIDE),
        ((-9, 0, 0, 9), Reason.BOX_OUTSIDE),
    ],
)
def test_boxes_that_cannot_be_used_are_counted_by_reason_or_raise(values: object, reason: Reason) -> None:
    problems = Problems()
    assert read_box(values, "t.csv:7", problems, size=(100, 50)) is None
    assert problems.counts == {reason.value: 1} and problems.examples[reason.value][0].startswith("t.csv:7: ")
    with pytest.raises(DataError, match=reason.value):
        read_box(values, "t.csv:7", Problems(strict=True), size=(100, 50))


def test_boxes_are_clipped_to_their_image() -> None:
    assert read_box(("-5", "10", "120", "60"), "", Problems(strict=True), size=(100, 50)) == (0, 10, 100, 50)
    assert read_box((90, 10, 20, 20), "", Problems(strict=True), size=(100, 50), xywh=True) == (90, 10, 100, 30)
    assert read_box((-5, 10, 9000, 60), "", Problems(strict=True), size=None) == (0, 10, 9000, 60)


@given(st.tuples(*[st.floats(-1e6, 1e6)] * 4), st.tuples(*[st.integers(1, 5000)] * 2))
def test_a_box_that_is_read_lies_in_its_image(values: tuple, size: tuple[int, int]) -> None:
    problems = Problems()
    box = read_box(values, "", problems, size=size)
    if box is None:
        assert sum(problems.counts.values()) == 1
    else:
        assert 0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1] and not problems.counts


@pytest.mark.parametrize("pair", [(0, 5), (5, -1), ("a", 5), (None, None), (1.5, 2), (True, 3)])
def test_sizes_are_positive_whole_numbers(pair: tuple) -> None:
    assert size_of("512", 300.0) == (512, 300) and size_of(*pair) is None


def picture(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(path)
    return path


def test_images_are_found_by_name_with_or_without_extension_in_any_folder(tmp_path: Path) -> None:
    direct, below = picture(tmp_path / "a.png"), picture(tmp_path / "images_001" / "images" / "1.2.840.png")
    files = ImageFiles(tmp_path, "error", Problems())
    assert files.find("", "a.png") == files.find("", "a") == str(direct)
    assert files.find("", "1.2.840") == str(below)


def test_names_with_folders_are_never_taken_from_another_folder(tmp_path: Path) -> None:
    picture(tmp_path / "000002_01_01" / "109.png")
    problems = Problems()
    assert ImageFiles(tmp_path, "report", problems).find("row 2", "000001_01_01/109.png") is None
    assert problems.counts == {Reason.IMAGE_MISSING.value: 1}


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "x/../../secret.png", ""])
def test_names_never_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "secret.png")
    (tmp_path / "images" / "x").mkdir(parents=True)
    assert ImageFiles(tmp_path / "images", "skip", Problems()).find("", name) is None


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png"), picture(tmp_path / "b" / "1.png")
    with pytest.raises(DataError, match=r"expected one file 1\.png, got .* and "):
        ImageFiles(tmp_path, "skip", Problems()).find("", "1")


def test_missing_images_raise_are_skipped_or_are_counted(tmp_path: Path) -> None:
    for missing, counted in (("skip", 0), ("report", 1)):
        problems = Problems()
        assert ImageFiles(tmp_path, missing, problems).find("row 2", "a.png") is None
        assert problems.counts[Reason.IMAGE_MISSING.value] == counted
    with pytest.raises(DataError, match=r"image missing: row 2: a\.png"):
        ImageFiles(tmp_path, "error", Problems()).find("row 2", "a.png")
    with pytest.raises(DataError, match="missing: expected one of error, skip, report, got 'ignore'"):
        ImageFiles(tmp_path, "ignore", Problems())


def test_image_size_is_width_and_height_or_nothing(tmp_path: Path) -> None:
    assert image_size(picture(tmp_path / "a.png", (8, 6))) == (8, 6)
    assert image_size(plain(tmp_path / "b.png", "no picture")) is None


def test_every_reader_of_the_registry_is_there_and_takes_what_all_take() -> None:
    for reader in readers.READERS.values():
        options = set(reader.options())
        volumes = reader.name in ("masks", "brats", "luna16", "lidc", "rtstruct")
        assert "licence" in options and ("missing" in options) != volumes, reader.name


def test_the_registry_names_what_it_does_not_know(tmp_path: Path) -> None:
    path = plain(tmp_path / "t.csv", "x")
    with pytest.raises(DataError, match=r"reader: expected one of coco, .*, got 'voc'"):
        readers.read("voc", path, None, Problems())
    with pytest.raises(DataError, match=r"annotations: expected a path that exists, got .*none\.csv"):
        readers.read("nih", tmp_path / "none.csv", None, Problems())
    with pytest.raises(DataError, match=r"rsna: expected options among label, .*, got 'lable'"):
        readers.read("rsna", path, None, Problems(), lable="pneumonia")


def test_the_registry_imports_no_heavy_library() -> None:
    code = (
        "import sys, medclm.readers as r; [x.function() for x in r.READERS.values()]; "
        "print([m for m in ('torch', 'pandas', 'pydicom', 'SimpleITK', 'nibabel', 'pycocotools') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
