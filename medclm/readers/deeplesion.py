"""DeepLesion: ``DL_info.csv`` and ``Images_png``, one axial CT slice an image, one row a lesion.

Cells that hold lists are quoted, "x1, y1, x2, y2", and may hold several lesions one behind another. The PNG files are
16-bit: Hounsfield units + 32768. The box is that of the two RECIST diameters, with a margin of 5 pixels. Other lesions
of a slice may be unmarked: nothing is ever absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from medclm.cases import Case, ImageRef, Lesion
from medclm.problems import Problems, Reason
from medclm.readers.box_values import numbers, read_box, size_of
from medclm.readers.image_files import ImageFiles, choice
from medclm.readers.tables import rows

LICENCE = "NIH Clinical Center DeepLesion terms of use"
HU_OFFSET = -32768.0
SPLITS = {"1": "train", "2": "val", "3": "test"}
TYPES = {
    "-1": "lesion",  # the training split's are not typed
    "1": "bone lesion",
    "2": "abdominal lesion",
    "3": "mediastinal lesion",
    "4": "liver lesion",
    "5": "lung lesion",
    "6": "kidney lesion",
    "7": "soft tissue lesion",
    "8": "pelvic lesion",
}
COLUMNS = (
    "File_name",
    "Patient_index",
    "Bounding_boxes",
    "Coarse_lesion_type",
    "Possibly_noisy",
    "Image_size",
    "DICOM_windows",
    "Train_Val_Test",
)
PER_SLICE = ("File_name", "Patient_index", "Image_size", "DICOM_windows", "Train_Val_Test")
PER_LESION = {"Lesion_diameters_Pixel_": 2, "Normalized_lesion_location": 3}  # attributes: how many values a lesion has
PER_IMAGE = ("Spacing_mm_px_",)

Row = tuple[int, dict[str, str]]  # line, values by column


def read(
    annotations: Path,
    images: Path | None,
    problems: Problems,
    *,
    noisy: str = "drop",
    typed: bool = True,
    missing: str = "report",
    licence: str = LICENCE,
) -> Iterator[Case]:
    """One case a slice, in the table's order; rows of one slice are joined.

    noisy  "drop" (counted: an error where problems are strict) or "keep" the lesions that the source marks as
           possibly noisy
    typed  labels are the coarse types ("liver lesion", -1: "lesion"); else "lesion" throughout, so that a label does
           not give the organ away
    """
    choice("noisy", noisy, ("drop", "keep"))
    optional = (*PER_LESION, *PER_IMAGE)
    slices: dict[str, list[Row]] = {}
    for line, values in rows(annotations, COLUMNS, problems, optional):
        row = dict(zip((*COLUMNS, *optional), values, strict=True))
        slices.setdefault(row["File_name"], []).append((line, row))
    files = ImageFiles(images, missing, problems)
    for name, found in slices.items():
        line, first = found[0]
        where = f"{annotations.name}:{line}"
        folder, _, number = name.rpartition("_")
        size = size_of(*pair) if (pair := _numbers(first["Image_size"], 2)) else None
        window = _numbers(first["DICOM_windows"], 2)
        split = SPLITS.get(first["Train_Val_Test"])
        if not folder or not first["Patient_index"] or not size or not window or window[0] >= window[1] or not split:
            got = ", ".join(f"{column} {first[column]!r}" for column in PER_SLICE)
            problems.add(Reason.ROW_MALFORMED, f"{where}: expected what describes a slice, got {got}")
            continue
        relative = f"{folder}/{number}"
        path = files.find(where, relative, f"Images_png/{relative}", name)
        if path is None:
            continue
        lesions = [lesion for row in found for lesion in _lesions(*row, annotations, size, noisy, typed, problems)]
        yield Case(
            id=name,
            source="deeplesion",
            patient=first["Patient_index"],
            modality="CT",
            image=ImageRef(path, window=(window[0], window[1]), offset=HU_OFFSET),
            lesions=tuple(lesions),
            width=size[0],
            height=size[1],
            split=split,
            licence=licence,
        )


def _lesions(
    line: int,
    row: dict[str, str],
    annotations: Path,
    size: tuple[int, int],
    noisy: str,
    typed: bool,
    problems: Problems,
) -> Iterator[Lesion]:
    where = f"{annotations.name}:{line}"
    if row["Possibly_noisy"] == "1" and noisy == "drop":
        problems.add(Reason.NOISY, f"{where}: {row['File_name']}")
        return
    kind = TYPES.get(row["Coarse_lesion_type"])
    if kind is None:
        what = f"{where}: expected a Coarse_lesion_type of {', '.join(TYPES)}, got {row['Coarse_lesion_type']!r}"
        problems.add(Reason.LABEL_UNKNOWN, what)
        return
    cells = row["Bounding_boxes"].split(",")
    if len(cells) % 4 or not row["Bounding_boxes"]:
        what = f"{where}: expected a multiple of four numbers, got {row['Bounding_boxes']!r}"
        problems.add(Reason.BOX_MALFORMED, what)
        return
    for index in range(len(cells) // 4):
        box = read_box(cells[4 * index : 4 * index + 4], where, problems, size=size)
        if box is not None:
            attributes = _attributes(row, index, len(cells) // 4)
            yield Lesion(kind if typed else "lesion", box, attributes=attributes)


def _attributes(row: dict[str, str], index: int, count: int) -> dict[str, str]:
    """Of lesion ``index`` of the ``count`` in a row; a cell that does not fit the count says nothing."""
    found = {name: row[name] for name in PER_IMAGE if row[name]}
    for name, each in PER_LESION.items():
        values = [value.strip() for value in row[name].split(",")]
        if len(values) == each * count:
            found[name] = ", ".join(values[each * index : each * index + each])
    return found


def _numbers(cell: str, count: int) -> Sequence[float] | None:
    """ "512, 512" as that many numbers."""
    found = numbers(cell.split(","))
    return found if found is not None and len(found) == count else None
