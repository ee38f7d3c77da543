"""SLAKE: folders ``imgs/xmlab<n>`` of ``source.jpg``, ``mask.png``, ``detection.json`` and ``question.json``.

``detection.json`` is a list of objects {name: [x, y, width, height]}, pixels of ``source.jpg``: diseases and organs in
one list. Diseases become lesions; organs are :func:`organ_boxes`, against which a link of lesion and organ can be
scored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from medclm.boxes import Box
from medclm.cases import Case, ImageRef, Lesion
from medclm.problems import DataError, Problems, Reason
from medclm.readers.box_values import read_box
from medclm.readers.image_files import ImageFiles, image_size
from medclm.readers.labels import plain

LICENCE = "CC-BY-4.0"
MODALITIES = {"CT": "CT", "MRI": "MR", "X-Ray": "XR"}
SPLITS = {"train.json": "train", "validation.json": "val", "validate.json": "val", "test.json": "test"}
SYNONYMS = {"effusion": "pleural effusion"}
# A name with one of these words is a disease, whatever else it names: "Liver Cancer", "Brain Edema".
DISEASE_WORDS = frozenset(
    "abnormality atelectasis cancer cardiomegaly consolidation edema effusion emphysema fibrosis fracture hemorrhage "
    "hernia infiltration lesion mass metastasis nodule opacity pneumonia pneumothorax thickening tumor".split()
)
ORGAN_WORDS = frozenset(
    "adrenal aorta artery bladder bone bowel brain brainstem bronchus cerebellum cerebrum chiasm clavicle cochlea "
    "colon cord diaphragm duodenum ear esophagus eye femur femoral gallbladder gland heart intestine kidney larynx "
    "lens liver lobe lung mandible mediastinum muscle nerve oesophagus pancreas parotid pituitary prostate rectum rib "
    "skull spine spleen stomach teeth temporomandibular thyroid tooth trachea uterus vein vena ventricle "
    "vertebra".split()
)


def read(
    annotations: Path,
    images: Path | None,
    problems: Problems,
    *,
    missing: str = "report",
    licence: str = LICENCE,
) -> Iterator[Case]:
    """One case a folder, by number. ``annotations`` is SLAKE's folder or its ``imgs``; images are looked for there
    where ``images`` is None. The split is that of the ``train.json``, ``validation.json`` or ``test.json`` that
    names the image."""
    imgs = annotations / "imgs" if (annotations / "imgs").is_dir() else annotations
    folders = sorted(imgs.glob("xmlab*"), key=lambda folder: (len(folder.name), folder.name))
    if not folders:
        raise DataError(f"{annotations}: expected folders xmlab0, xmlab1, .., got none")
    splits = _splits(imgs.parent if imgs.name == "imgs" else imgs)
    files = ImageFiles(images or imgs, missing, problems)
    for folder in folders:
        path = files.find(folder.name, f"{folder.name}/source.jpg")
        if path is None:
            continue
        size = image_size(path)
        if size is None:
            problems.add(Reason.IMAGE_UNREADABLE, path)
            continue
        lesions = []
        for name, values in _detections(folder, problems):
            where = f"{folder.name}: {name}"
            kind = kind_of(name)
            if kind is None:
                problems.add(Reason.LABEL_UNKNOWN, f"{where}: neither a disease nor an organ that is known")
            elif kind == "disease" and (box := read_box(values, where, problems, size=size, xywh=True)):
                lesions.append(Lesion(plain(name, SYNONYMS), box))
        mask = folder / "mask.png"
        yield Case(
            id=folder.name,
            source="slake",
            patient=folder.name,  # SLAKE names no patients
            modality=_modality(folder),
            image=ImageRef(path),
            lesions=tuple(lesions),
            width=size[0],
            height=size[1],
            organs=str(mask) if mask.is_file() else None,
            split=splits.get(folder.name),
            licence=licence,
        )


def kind_of(name: str) -> str | None:
    """ "disease", "organ" or None, by the words of a name of SLAKE."""
    words = set(plain(name).replace("-", " ").split())
    words |= {word[:-1] for word in words if word.endswith("s")}
    if words & DISEASE_WORDS:
        return "disease"
    return "organ" if words & ORGAN_WORDS else None


def organ_boxes(folder: Path, problems: Problems) -> dict[str, tuple[Box, ...]]:
    """Organ -> its boxes, of one folder ``xmlab<n>``."""
    size = image_size(folder / "source.jpg")
    found: dict[str, tuple[Box, ...]] = {}
    for name, values in _detections(folder, problems):
        if kind_of(name) != "organ":
            continue
        box = read_box(values, f"{folder.name}: {name}", problems, size=size, xywh=True)
        if box is not None:
            found[plain(name)] = (*found.get(plain(name), ()), box)
    return found


def _detections(folder: Path, problems: Problems) -> list[tuple[str, object]]:
    """(name, four values as they stand) of each; empty, and counted, where the file is not what it should be."""
    path = folder / "detection.json"
    try:
        found = json.loads(path.read_bytes())
        return [(name, values) for each in found for name, values in each.items()]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        what = f"{folder.name}/detection.json: expected a list of {{name: [x, y, w, h]}}, got {error}"
        problems.add(Reason.ROW_MALFORMED, what)
        return []


def _modality(folder: Path) -> str:
    """As the folder's first question says."""
    try:
        return MODALITIES[json.loads((folder / "question.json").read_bytes())[0]["modality"]]
    except (OSError, ValueError, TypeError, LookupError):
        return "other"


def _splits(folder: Path) -> dict[str, str]:
    """xmlab<n> -> split; raises DataError where a list of questions is not what it should be."""
    found: dict[str, str] = {}
    for file, split in SPLITS.items():
        if not (folder / file).exists():
            continue
        try:
            questions = json.loads((folder / file).read_bytes())
            found |= {question["img_name"].split("/")[0]: split for question in questions}
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise DataError(f"{folder / file}: expected a list of questions with img_name, got {error}") from error
    return found
