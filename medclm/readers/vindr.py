"""VinDr-CXR as PhysioNet has it (``annotations_train.csv``, ``annotations_test.csv``) and VinBigData as Kaggle has it
(``train.csv``): chest radiographs whose findings several radiologists boxed, each on their own.

One row a box, in pixels of the original DICOM image; a reader who found nothing has a row "No finding" without a box.
The tables have no image sizes. Readers went through a closed list, so a label that none of them gave is absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from medclm import boxes
from medclm.cases import Case, ImageRef, Lesion
from medclm.merging import merge as merged
from medclm.problems import DataError, Problems, Reason
from medclm.readers.box_values import read_box, size_of
from medclm.readers.image_files import ImageFiles, image_size
from medclm.readers.labels import plain
from medclm.readers.tables import rows

NOTHING = "no finding"
NOT_A_FINDING = ("other lesion",)  # names no one thing: "absent" would claim too much
SYNONYMS = {
    "enlarged pa": "enlarged pulmonary artery",
    "ild": "interstitial lung disease",
    "interstitial lung disease (ild)": "interstitial lung disease",
    "nodule/mass": "nodule or mass",
}
KAGGLE_LICENCE = "VinBigData Chest X-ray Abnormalities Detection competition rules"
PHYSIONET_LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"

Mark = tuple[int, str, str, str]  # line, label, reader, corners as the table has them: a million rows stay small
Size = tuple[int, int]


def read(
    annotations: Path,
    images: Path | None,
    problems: Problems,
    *,
    merge: str = "wbf",
    merge_iou: float = 0.5,
    original_sizes: Path | str | None = None,
    split: str | None = None,
    missing: str = "report",
    licence: str | None = None,
) -> Iterator[Case]:
    """One case an image, in the table's order.

    merge           how the readers' boxes become one list: :func:`medclm.merging.merge`
    original_sizes  for PNG or JPEG images: a csv ``image_id,width,height`` (or Kaggle's ``image_id,dim0,dim1``, rows
                    first) of the DICOM originals, from which boxes are scaled to each file's own size; or "same"
                    where the files have their originals' size
    split           of all cases; without it that in the table's name (``annotations_test.csv``: test)

    Raises DataError where images are not DICOM and ``original_sizes`` is not given: boxes would be misplaced.
    """
    marks, kaggle = _marks(annotations, problems)
    labels = {label for found in marks.values() for _, label, _, _ in found} - {NOTHING, "", *NOT_A_FINDING}
    sizes = _sizes(Path(original_sizes), problems) if original_sizes not in (None, "same") else None
    files = ImageFiles(images, missing, problems)
    if split is None and annotations.name.startswith("annotations_test"):
        split = "test"
    for image, found in marks.items():
        path = files.find(f"{annotations.name}: {image}", image)
        if path is None:
            continue
        original = (sizes or {}).get(image)
        if sizes is not None and original is None:
            problems.add(Reason.ROW_MALFORMED, f"{image}: expected a row in {Path(original_sizes).name}, got none")
            continue
        stored = original
        if images is not None and Path(path).suffix.lower() in (".png", ".jpg", ".jpeg"):
            if original_sizes is None:
                raise DataError(
                    f"original_sizes: expected the sizes of the DICOM originals, or 'same', as {path} is not DICOM "
                    "and boxes are in pixels of the original"
                )
            stored = image_size(path)
            if stored is None:
                problems.add(Reason.IMAGE_UNREADABLE, path)
                continue
        lesions = _lesions(found, original, stored, annotations, problems)
        given = {label for _, label, _, _ in found}
        seen_by = {reader for _, _, reader, _ in found if reader}
        # Without readers, as in the test split, boxes are the consensus already.
        policy = merge if seen_by else "none"
        yield Case(
            id=image,
            source="vindr",
            patient=image,  # the tables name no patients
            modality="XR",
            image=ImageRef(path),
            lesions=merged(lesions, policy, seen_by=seen_by, iou=merge_iou),
            absent=() if "" in given else tuple(sorted(labels - given)),
            width=stored[0] if stored else None,
            height=stored[1] if stored else None,
            split=split,
            licence=licence or (KAGGLE_LICENCE if kaggle else PHYSIONET_LICENCE),
        )


def _marks(annotations: Path, problems: Problems) -> tuple[dict[str, list[Mark]], bool]:
    """image -> its rows, which are not side by side in the table; whether the table is Kaggle's."""
    columns = ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max")
    marks: dict[str, list[Mark]] = {}
    kaggle = False
    kept: dict[str, str] = {}  # one string for each label and each reader, not one a row
    for line, (image, name, *corners, reader, number) in rows(annotations, columns, problems, ("rad_id", "class_id")):
        if not image or not name:
            problems.add(Reason.ROW_MALFORMED, f"{annotations.name}:{line}: without image_id or class_name")
            if not image:
                continue
        kaggle |= bool(number)
        label = plain(name, SYNONYMS)
        label, reader = kept.setdefault(label, label), kept.setdefault(reader, reader)
        marks.setdefault(image, []).append((line, label, reader, ",".join(corners)))
    return marks, kaggle


def _lesions(
    found: list[Mark], original: Size | None, stored: Size | None, annotations: Path, problems: Problems
) -> list[Lesion]:
    """In pixels of the stored image."""
    lesions = []
    for line, label, reader, corners in found:
        if label in (NOTHING, ""):
            continue
        box = read_box(corners.split(","), f"{annotations.name}:{line}", problems, size=original or stored)
        if box is None:
            continue
        if original and stored:
            box = boxes.clip(boxes.scale(box, original, stored), *stored)
        lesions.append(Lesion(label, box, readers=(reader,) if reader else ()))
    return lesions


def _sizes(path: Path, problems: Problems) -> Mapping[str, Size]:
    """image -> (width, height)."""
    found: dict[str, Size] = {}
    optional = ("width", "height", "dim1", "dim0")
    for line, (image, *values) in rows(path, ("image_id",), problems, optional):
        size = size_of(*values[:2]) or size_of(*values[2:])
        if size is None:
            what = f"{path.name}:{line}: expected width,height or dim0,dim1 in pixels, got {values!r}"
            problems.add(Reason.ROW_MALFORMED, what)
        else:
            found[image] = size
    return found
