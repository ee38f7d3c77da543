"""ISIC: one dermoscopic image, one lesion, its mask ``<image>_segmentation.png`` (0 and 255); diagnoses in a one-hot
csv, ``image,MEL,NV,BCC,..`` (2018 task 3, 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medclm import boxes
from medclm.cases import Case, ImageRef, Lesion
from medclm.problems import DataError, Problems, Reason
from medclm.readers.box_values import numbers
from medclm.readers.image_files import ImageFiles, image_size
from medclm.readers.tables import header_of, rows
from medclm.regions import Region

LICENCE = "CC-BY-NC-4.0"
SUFFIX = "_segmentation.png"
LABEL = "skin lesion"  # where no diagnosis is given
DIAGNOSES = {
    "MEL": "melanoma",
    "NV": "melanocytic nevus",
    "BCC": "basal cell carcinoma",
    "AK": "actinic keratosis",
    "AKIEC": "actinic keratosis or intraepithelial carcinoma",
    "BKL": "benign keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
    "SCC": "squamous cell carcinoma",
    "UNK": LABEL,
}


def read(
    annotations: Path,
    images: Path | None,
    problems: Problems,
    *,
    classes: Path | None = None,
    groups: Path | None = None,
    missing: str = "report",
    licence: str = LICENCE,
) -> Iterator[Case]:
    """One case a mask in the folder ``annotations``, by name.

    classes  the one-hot csv of diagnoses, which exclude each other: the others are absent
    groups   a csv with ``image`` (or ``image_id``) and ``lesion_id``: images of one lesion count as one patient, as
             they must not come into different splits; without it each image is a patient

    A mask of another size than its image is brought to the image's, where the two have one shape.
    """
    if not annotations.is_dir():
        raise DataError(f"annotations: expected a folder of <image>{SUFFIX}, got {annotations}")
    masks = sorted(annotations.glob("*" + SUFFIX))
    if not masks:
        raise DataError(f"{annotations}: expected files <image>{SUFFIX}, got none")
    diagnoses, columns = (None, ()) if classes is None else _diagnoses(Path(classes), problems)
    lesion_of = {} if groups is None else _groups(Path(groups), problems)
    files = ImageFiles(images, missing, problems)
    for mask_path in masks:
        name = mask_path.name.removesuffix(SUFFIX)
        label = LABEL if diagnoses is None else diagnoses.get(name)
        if label is None:
            problems.add(Reason.LABEL_UNKNOWN, f"{name}: expected one diagnosis in {Path(classes).name}, got none")
            continue
        path = files.find(mask_path.name, name)
        mask = None if path is None else _mask(mask_path, problems)  # [H, W]
        if mask is None:
            continue
        if images is not None:
            mask = _on_image(mask, mask_path, path, problems)
            if mask is None:
                continue
        yield Case(
            id=name,
            source="isic",
            patient=lesion_of.get(name, name),
            modality="dermoscopy",
            image=ImageRef(path),
            lesions=(Lesion(label, boxes.from_mask(mask), Region.of(mask)),),
            absent=() if label == LABEL else tuple(sorted({DIAGNOSES[c] for c in columns} - {label, LABEL})),
            width=mask.shape[1],
            height=mask.shape[0],
            licence=licence,
        )


def _mask(path: Path, problems: Problems) -> np.ndarray | None:  # bool [H, W], not empty
    from PIL import Image

    try:
        with Image.open(path) as file:
            mask = np.asarray(file.convert("L")) > 127
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        problems.add(Reason.MASK_UNREADABLE, f"{path.name}: {error}")
        return None
    if not mask.any():
        problems.add(Reason.BOX_EMPTY, f"{path.name}: a mask without pixels")
        return None
    return mask


def _on_image(mask: np.ndarray, mask_path: Path, path: str, problems: Problems) -> np.ndarray | None:
    """The mask [H, W] on the image's grid, by the nearest pixel; None (counted) where the two differ in shape."""
    from PIL import Image

    size = image_size(path)
    if size is None:
        problems.add(Reason.IMAGE_UNREADABLE, path)
        return None
    height, width = mask.shape
    if size == (width, height):
        return mask
    # A resized mask keeps its image's shape up to one pixel's rounding of a side.
    if abs(size[0] * height - size[1] * width) > max(*size, width, height):
        what = f"{mask_path.name}: expected the shape of its image of {size[0]} x {size[1]}, got {width} x {height}"
        problems.add(Reason.MASK_GRID, what)
        return None
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)) > 0


def _diagnoses(path: Path, problems: Problems) -> tuple[dict[str, str], tuple[str, ...]]:
    """image -> diagnosis; the table's columns of diagnoses."""
    header = header_of(path)
    columns = tuple(name for name in header if name in DIAGNOSES)
    if len(columns) < 2:
        raise DataError(f"{path}: expected a header with image,{','.join(DIAGNOSES)}, got {','.join(header)}")
    found: dict[str, str] = {}
    for line, (image, *values) in rows(path, ("image", *columns), problems):
        hot = numbers(values)
        if hot is None or sorted(hot) != [0.0] * (len(columns) - 1) + [1.0]:
            problems.add(Reason.ROW_MALFORMED, f"{path.name}:{line}: expected one 1 and zeros, got {values!r}")
        elif image in found:
            problems.add(Reason.DUPLICATE_ID, f"{path.name}:{line}: {image}")
        else:
            found[image] = DIAGNOSES[columns[hot.index(1.0)]]
    return found, columns


def _groups(path: Path, problems: Problems) -> dict[str, str]:
    """image -> lesion."""
    found = {}
    for _, (lesion, image, image_id) in rows(path, ("lesion_id",), problems, ("image", "image_id")):
        found[image or image_id] = lesion
    return found
