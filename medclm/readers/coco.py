"""COCO detection json: ``images``, ``annotations``, ``categories``; boxes are a corner and a size, in pixels.

Images, categories and annotations are joined by their ids, whose values mean nothing else (they need not begin at 1 or
be without gaps). COCO does not say that a category was looked for; LVIS does, by ``neg_category_ids`` of an image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from medclm import boxes
from medclm.cases import MODALITIES, Case, ImageRef, Lesion
from medclm.problems import DataError, Problems, Reason
from medclm.readers.box_values import read_box, size_of
from medclm.readers.coco_masks import region_of
from medclm.readers.image_files import ImageFiles, choice
from medclm.readers.labels import plain
from medclm.regions import Region

Size = tuple[int, int]


def read(
    annotations: Path,
    images: Path | None,
    problems: Problems,
    *,
    modality: str = "other",
    source: str = "coco",
    patient_key: str = "patient_id",
    frame_key: str = "frame",
    exhaustive: bool = False,
    crowds: bool = True,
    split: str | None = None,
    missing: str = "report",
    licence: str | None = None,
) -> Iterator[Case]:
    """One case an image, in the file's order.

    modality     of all images
    source       name of this set, where several are converted together: ids are unique in their source only
    patient_key  field of an image that names the patient; where it has none the image's id stands for one, and
                 images of one patient may come into different splits
    frame_key    field of an image that says which frame of a DICOM file with several it is, from 0
    exhaustive   every category was looked for in every image: those without an annotation are absent
    crowds       keep annotations with ``iscrowd`` (one region around several objects), with that as an attribute
    split        of all cases
    licence      of all images; without it what the file says of each, by its ``licenses``
    """
    choice("modality", modality, MODALITIES)
    data = _load(annotations)
    names = {_id(each): plain(str(each.get("name", ""))) for each in _entries(data, "categories", annotations)}
    listed = _entries(data, "licenses", annotations) if data.get("licenses") else []
    licences = {_id(each): str(each.get("name", "unknown")) for each in listed}
    by_image: dict[object, list[dict]] = {}
    for entry in _entries(data, "annotations", annotations):
        by_image.setdefault(_id(entry, "image_id"), []).append(entry)
    files = ImageFiles(images, missing, problems)
    seen: set[str] = set()
    for image in _entries(data, "images", annotations):
        id, name = _id(image), image.get("file_name")
        where = f"{annotations.name}: image {id}"
        if id is None or not isinstance(name, str) or not name:
            problems.add(Reason.ROW_MALFORMED, f"{where}: expected an id and a file_name, got {id!r} and {name!r}")
            continue
        if str(id) in seen:
            problems.add(Reason.DUPLICATE_ID, f"{where}: {name}")
            continue
        seen.add(str(id))
        found = by_image.pop(id, [])
        path = files.find(where, name)
        if path is None:
            continue
        frame = image.get(frame_key)
        if frame is not None and (type(frame) is not int or frame < 0):
            problems.add(Reason.ROW_MALFORMED, f"{where}: expected {frame_key} to count frames from 0, got {frame!r}")
            continue
        size = size_of(image.get("width"), image.get("height"))
        kept = found if crowds else [entry for entry in found if not entry.get("iscrowd")]
        lesions = (_lesion(entry, names, size, annotations, problems) for entry in kept)
        yield Case(
            id=str(id),
            source=source,
            patient=str(id if image.get(patient_key) in (None, "") else image[patient_key]),
            modality=modality,
            image=ImageRef(path, slice=frame),
            lesions=tuple(lesion for lesion in lesions if lesion is not None),
            absent=_absent(image, found, names, exhaustive),
            width=size[0] if size else None,
            height=size[1] if size else None,
            split=split,
            licence=licence or licences.get(_id(image, "license"), "unknown"),
        )
    for id, found in by_image.items():
        what = f"{annotations.name}: {len(found)} annotations of image {id!r}, which is not there"
        problems.add(Reason.ROW_MALFORMED, what)


def _load(annotations: Path) -> dict:
    try:
        data = json.loads(annotations.read_bytes())
    except (ValueError, OSError, RecursionError) as error:  # no json, no UTF-8
        raise DataError(f"{annotations}: expected a COCO json file, got {type(error).__name__}: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"{annotations}: expected a COCO json object, got a {type(data).__name__}")
    return data


def _entries(data: dict, key: str, annotations: Path) -> list[dict]:
    entries = data.get(key)
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        found = ", ".join(data) or "nothing"
        raise DataError(f"{annotations}: expected a list of objects under {key!r}, got an object with {found}")
    return entries


def _id(entry: dict, key: str = "id") -> int | float | str | None:
    """None where it is missing, or nothing that identifies."""
    value = entry.get(key)
    return value if isinstance(value, int | float | str) else None


def _lesion(
    entry: dict, names: Mapping[object, str], size: Size | None, annotations: Path, problems: Problems
) -> Lesion | None:
    where = f"{annotations.name}: annotation {entry.get('id')}"
    label = names.get(_id(entry, "category_id"))
    if not label:
        problems.add(Reason.LABEL_UNKNOWN, f"{where}: category_id {entry.get('category_id')!r}")
        return None
    region = _region(entry.get("segmentation"), size, where, problems)
    corner_and_size = entry.get("bbox")
    if not corner_and_size and region is not None:
        box = boxes.from_mask(region.mask())
    else:
        box = read_box(corner_and_size, where, problems, size=size, xywh=True)
    if box is None:
        return None
    attributes = {"iscrowd": "1"} if entry.get("iscrowd") else {}
    return Lesion(label, box, region, attributes)


def _region(segmentation: object, size: Size | None, where: str, problems: Problems) -> Region | None:
    """None where there is none, or none that can be read (counted): the box stands without."""
    if not segmentation:
        return None
    if size is None:
        problems.add(Reason.MASK_UNREADABLE, f"{where}: a segmentation without the image's width and height")
        return None
    try:
        return region_of(segmentation, *size)
    except ValueError as error:
        problems.add(Reason.MASK_UNREADABLE, f"{where}: {error}")
        return None


def _absent(image: dict, found: list[dict], names: Mapping[object, str], exhaustive: bool) -> tuple[str, ...]:
    """Labels looked for and not found. An annotation that cannot be used still says that its label is there."""
    given = {names.get(_id(entry, "category_id"), "") for entry in found}
    if exhaustive:
        looked_for = set() if "" in given else set(names.values())
    else:
        ids = image.get("neg_category_ids")
        looked_for = {label for id, label in names.items() if id in ids} if isinstance(ids, list) else set()
    return tuple(sorted(looked_for - given - {""}))
