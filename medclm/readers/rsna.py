"""RSNA Pneumonia Detection Challenge: ``stage_2_train_labels.csv``, one row a box (corner and size, in pixels of images
of 1024 x 1024), or one row without a box for a patient with Target 0. One image a patient.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medclm.cases import Case, ImageRef, Lesion
from medclm.problems import DataError, Problems, Reason
from medclm.readers.box_values import read_box
from medclm.readers.image_files import ImageFiles, choice
from medclm.readers.tables import rows

SIZE = (1024, 1024)
LICENCE = "RSNA Pneumonia Detection Challenge terms of use"
CLASSES = ("Lung Opacity", "Normal", "No Lung Opacity / Not Normal")


def read(
    annotations: Path,
    images: Path | None,
    problems: Problems,
    *,
    label: str = "lung opacity",
    class_info: Path | None = None,
    negatives: str = "all",
    missing: str = "report",
    licence: str = LICENCE,
) -> Iterator[Case]:
    """One case a patient; ``label`` is absent where Target is 0.

    label       what the boxes mark
    class_info  ``stage_2_detailed_class_info.csv``; a patient whose class contradicts the Target is left out
    negatives   of Target 0: "all"; "normal", only those of class "Normal" (needs ``class_info``: "No Lung Opacity /
                Not Normal" has other findings, which nobody marked); or "none"
    """
    choice("negatives", negatives, ("all", "normal", "none"))
    if negatives == "normal" and class_info is None:
        raise DataError("class_info: expected stage_2_detailed_class_info.csv for negatives='normal', got None")
    classes = {} if class_info is None else _classes(Path(class_info), problems)
    found: dict[str, list[tuple[int, list[str], str]]] = {}
    columns = ("patientId", "x", "y", "width", "height", "Target")
    for line, (patient, *values, target) in rows(annotations, columns, problems):
        if not patient or target not in ("0", "1") or (target == "0" and any(values)):
            what = f"{annotations.name}:{line}: expected a patient and Target 1 with a box or 0 without, got {target!r}"
            problems.add(Reason.ROW_MALFORMED, what)
            continue
        found.setdefault(patient, []).append((line, values, target))
    files = ImageFiles(images, missing, problems)
    for patient, marks in found.items():
        targets = {target for _, _, target in marks}
        kind = classes.get(patient)
        if len(targets) > 1 or (kind is not None and (kind == CLASSES[0]) != (targets == {"1"})):
            what = f"{annotations.name}: {patient}: contradictory, Target {' and '.join(sorted(targets))}"
            problems.add(Reason.ROW_MALFORMED, what if kind is None else f"{what}, class {kind!r}")
            continue
        positive = targets == {"1"}
        if not positive and (negatives == "none" or (negatives == "normal" and kind != "Normal")):
            continue
        path = files.find(f"{annotations.name}: {patient}", patient)
        if path is None:
            continue
        boxes = (
            read_box(values, f"{annotations.name}:{line}", problems, size=SIZE, xywh=True)
            for line, values, target in marks
            if target == "1"
        )
        yield Case(
            id=patient,
            source="rsna",
            patient=patient,
            modality="XR",
            image=ImageRef(path),
            lesions=tuple(Lesion(label, box) for box in boxes if box is not None),
            absent=() if positive else (label,),
            width=SIZE[0],
            height=SIZE[1],
            licence=licence,
        )


def _classes(path: Path, problems: Problems) -> dict[str, str]:
    found: dict[str, str] = {}
    for line, (patient, kind) in rows(path, ("patientId", "class"), problems):
        if kind in CLASSES:
            found[patient] = kind
        else:
            problems.add(Reason.LABEL_UNKNOWN, f"{path.name}:{line}: expected one of {CLASSES}, got {kind!r}")
    return found
