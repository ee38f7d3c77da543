"""Lesion masks as label volumes: Medical Segmentation Decathlon, nnU-Net, or any pair of image and label volume.

annotations   a folder of label volumes, or a csv with the columns image,label and, where known, patient, modality,
              split; its paths are relative to the csv (label) and to ``images`` (image)
images        the folder of the image volumes, named as their labels; nnU-Net's channel suffix is understood
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medclm.cases import MODALITIES, Case, ImageRef
from medclm.images import volumes
from medclm.images.geometry import Grid
from medclm.images.picture import ImageError
from medclm.images.windows import Window
from medclm.problems import DataError, Problems, Reason
from medclm.readers.sections import Policy, cases, components


@dataclass(frozen=True)
class Pair:
    """An image volume and its label volume."""

    id: str
    image: Path
    label: Path
    patient: str
    modality: str
    split: str | None = None


def read(
    annotations: Path,
    images: Path | None,
    problems: Problems,
    *,
    labels: Mapping[int, str] | str | Path | None = None,
    source: str = "masks",
    modality: str = "CT",
    licence: str = "unknown",
    window: Window | None = None,
    exhaustive: bool = False,
    slices: str = "all",
    min_area: float = 9.0,
    empty_slices: int = 0,
    channel: int = 0,
) -> Iterator[Case]:
    """A case for each chosen slice of each volume; see :class:`medclm.readers.sections.Policy`.

    labels      id -> name; or "1=tumour,2=cyst"; or a json file of it; or a dataset.json. None: the dataset.json in
                or above the folder. 0 is the background
    exhaustive  every lesion of these labels is marked, so that a slice without one can be said to have none
    channel     which of nnU-Net's image channels
    """
    annotations = Path(annotations)
    names = label_names(labels, annotations)
    policy = Policy(slices, min_area, empty_slices)
    found = (
        _listed(annotations, images, modality, problems)
        if annotations.is_file()
        else _paired(annotations, images, modality, channel)
    )
    for pair in found:
        yield from pair_cases(
            pair, names, problems, policy, source=source, licence=licence, window=window, exhaustive=exhaustive
        )


def pair_cases(
    pair: Pair,
    names: Mapping[int, str],
    problems: Problems,
    policy: Policy,
    *,
    source: str,
    licence: str = "unknown",
    window: Window | None = None,
    exhaustive: bool = False,
    others: Collection[int] = (),
) -> Iterator[Case]:
    """Of one pair; a problem where a file is missing, unreadable or on another grid, and for each unknown id.

    names    ids of one name are one label
    others   ids that are known and no finding
    """
    try:
        grid = volumes.read_grid(pair.image)
    except ImageError as error:
        problems.add(error.reason, f"{pair.id}: {error.what}")
        return
    labels = _labels(pair, grid, problems)
    if labels is None:
        return
    for value in np.unique(labels):
        if value != 0 and value not in names and value not in others:
            problems.add(Reason.LABEL_UNKNOWN, f"{pair.id}: {value} (known: {sorted({*names, *others})})")
    sections = list(components(labels, names, float(np.prod(grid.spacing))))
    whole = Case(
        id=pair.id,
        source=source,
        patient=pair.patient,
        modality=pair.modality,
        image=ImageRef(str(pair.image), window=window),
        width=grid.size[0],
        height=grid.size[1],
        split=pair.split,
        licence=licence,
    )
    looked_for = tuple(dict.fromkeys(names.values())) if exhaustive else ()
    yield from cases(sections, whole, policy, depth=grid.size[2], looked_for=looked_for)


def _labels(pair: Pair, grid: Grid, problems: Problems) -> np.ndarray | None:
    """Integers [z, y, x] on the image's grid; None after a problem."""
    try:
        label = volumes.read(pair.label)
    except ImageError as error:
        missing = error.reason is Reason.IMAGE_MISSING
        problems.add(Reason.MASK_MISSING if missing else Reason.MASK_UNREADABLE, f"{pair.id}: {error.what}")
        return None
    if difference := grid.difference(label.grid):
        problems.add(Reason.MASK_GRID, f"{pair.id}: {difference}")
        return None
    if label.array.dtype.kind == "f":
        problems.add(Reason.MASK_UNREADABLE, f"{pair.label}: expected whole numbers, got fractions")
        return None
    return label.array


def label_names(labels: Mapping[int, str] | str | Path | None, annotations: Path) -> dict[int, str]:
    """id -> name in lower case, without the background."""
    if isinstance(labels, Mapping):
        raw: Mapping = labels
    elif isinstance(labels, str) and "=" in labels:
        raw = dict(entry.split("=", 1) for entry in labels.split(","))
    else:
        path = Path(labels) if labels else _dataset_json(annotations)
        raw = json.loads(path.read_text())
        raw = raw.get("labels", raw)
    try:
        # nnU-Net 2 writes {"tumour": 1}, everything before it {"1": "tumour"}.
        pairs = [(key, value) if str(key).strip().isdigit() else (value, key) for key, value in raw.items()]
        names = {int(key): str(value).strip().lower().replace("_", " ") for key, value in pairs}
    except (TypeError, ValueError):
        raise DataError(f"labels: expected id -> name, got {dict(raw)!r}") from None
    names.pop(0, None)
    if not names:
        raise DataError(f"labels: expected at least one id beside the background, got {dict(raw)!r}")
    return names


def _dataset_json(annotations: Path) -> Path:
    folder = annotations if annotations.is_dir() else annotations.parent
    for place in (folder, folder.parent):
        if (place / "dataset.json").exists():
            return place / "dataset.json"
    raise DataError(f"labels: expected id -> name, or a dataset.json in {folder} or above it")


def _listed(path: Path, images: Path | None, modality: str, problems: Problems) -> Iterator[Pair]:
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        if not {"image", "label"} <= set(table.fieldnames or ()):
            raise DataError(f"{path}: expected the columns image,label, got {','.join(table.fieldnames or ())}")
        for number, row in enumerate(table, start=2):
            kind = row.get("modality") or modality
            if not row["image"] or not row["label"] or kind not in MODALITIES:
                problems.add(Reason.ROW_MALFORMED, f"{path.name} line {number}")
                continue
            stem = _stem(Path(row["label"]))
            yield Pair(
                id=str(Path(row["label"]).with_name(stem)),
                image=(images or path.parent) / row["image"],
                label=path.parent / row["label"],
                patient=row.get("patient") or stem,
                modality=kind,
                split=row.get("split") or None,
            )


def _paired(folder: Path, images: Path | None, modality: str, channel: int) -> Iterator[Pair]:
    if images is None:
        raise DataError("images: expected the folder of the image volumes, got none")
    found = sorted(path for path in folder.iterdir() if volumes.suffix(path) in (*volumes.NIFTI, *volumes.ITK))
    if not found:
        raise DataError(f"{folder}: expected label volumes ({', '.join((*volumes.NIFTI, *volumes.ITK))}), got none")
    for label in found:
        stem = _stem(label)
        names = (
            label.name,
            *(f"{stem}{tail}{end}" for end in (*volumes.NIFTI, *volumes.ITK) for tail in (f"_{channel:04d}", "")),
        )
        image = next((images / name for name in names if (images / name).exists()), images / label.name)
        yield Pair(stem, image, label, stem, modality)


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(volumes.suffix(path))]
