"""NIH ChestX-ray14: ``BBox_List_2017.csv``, 984 boxes on PNG images of 1024 x 1024.

The header's ``Bbox [x,y,w,h]`` holds commas of its own, so fields are taken by position. The table of boxes says
"Infiltrate" where ``Data_Entry_2017.csv`` says "Infiltration". Boxes stand for some findings of an image only; what is
absent comes from Data_Entry, whose labels were mined from the reports by text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medclm.cases import Case, ImageRef, Lesion
from medclm.problems import DataError, Problems, Reason
from medclm.readers.box_values import read_box
from medclm.readers.image_files import ImageFiles
from medclm.readers.labels import plain
from medclm.readers.tables import rows, rows_by_position

SIZE = (1024, 1024)
LICENCE = "NIH Clinical Center ChestX-ray14 terms of use"
NOTHING = "no finding"
SYNONYMS = {"infiltrate": "infiltration", "effusion": "pleural effusion"}


def read(
    annotations: Path,
    images: Path | None,
    problems: Problems,
    *,
    entries: Path | None = None,
    normals: bool = False,
    test_list: Path | None = None,
    missing: str = "report",
    licence: str = LICENCE,
) -> Iterator[Case]:
    """One case an image that has boxes.

    entries    ``Data_Entry_2017.csv``: what of its labels neither it nor a box gives an image is absent there
    normals    also the images that ``entries`` gives "No Finding", without lesions
    test_list  ``test_list.txt``: the names of images of the test split

    The patient is the first part of an image's name, "00013118_008.png".
    """
    if normals and entries is None:
        raise DataError("entries: expected Data_Entry_2017.csv for normals=True, got None")
    marks: dict[str, list[tuple[int, str, list[str]]]] = {}
    header = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")
    for line, (name, label, *values) in rows_by_position(annotations, header, 6, problems):
        if not name or not label:
            problems.add(Reason.ROW_MALFORMED, f"{annotations.name}:{line}: without an image or a label")
            continue
        marks.setdefault(name, []).append((line, plain(label, SYNONYMS), values))
    mined = {} if entries is None else _mined(Path(entries), problems)
    labels = {label for given in mined.values() for label in given} - {NOTHING}
    if normals:
        for name, given in mined.items():
            if given == {NOTHING}:
                marks.setdefault(name, [])
    test = frozenset() if test_list is None else frozenset(Path(test_list).read_text().split())
    files = ImageFiles(images, missing, problems)
    for name, found in marks.items():
        path = files.find(f"{annotations.name}: {name}", name)
        if path is None:
            continue
        lesions = []
        for line, label, values in found:
            box = read_box(values, f"{annotations.name}:{line}", problems, size=SIZE, xywh=True)
            if box is not None:
                lesions.append(Lesion(label, box))
        given = frozenset(label for _, label, _ in found) | mined.get(name, frozenset())
        yield Case(
            id=name,
            source="nih",
            patient=name.split("_")[0],
            modality="XR",
            image=ImageRef(path),
            lesions=tuple(lesions),
            absent=tuple(sorted(labels - given)) if name in mined else (),
            width=SIZE[0],
            height=SIZE[1],
            split="test" if name in test else None,
            licence=licence,
        )


def _mined(entries: Path, problems: Problems) -> dict[str, frozenset[str]]:
    """image -> its labels."""
    sets: dict[str, frozenset[str]] = {}  # one object for each combination: 112,120 images have few
    found: dict[str, frozenset[str]] = {}
    for line, (name, labels) in rows(entries, ("Image Index", "Finding Labels"), problems):
        if not name or not labels:
            problems.add(Reason.ROW_MALFORMED, f"{entries.name}:{line}: without an image or labels")
            continue
        if labels not in sets:
            sets[labels] = frozenset(plain(label, SYNONYMS) for label in labels.split("|"))
        found[name] = sets[labels]
    return found
