"""A few dozen small images with lesions, on disk, as a reader would name them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from medclm.cases import Case, ImageRef, Lesion
from medclm.settings import Settings

LABELS = ("nodule", "mass", "pleural effusion")
SALT = "a salt for tests alone"


def small_case(folder: Path, number: int, *, images_of_a_patient: int = 2, size: int = 64) -> Case:
    """Every fifth image has no lesion; the others have one or two."""
    path = folder / f"image-{number:03d}.png"
    rng = np.random.default_rng(number)
    pixels = rng.integers(40, 90, (size, size + 16), dtype=np.uint8)
    lesions = []
    for place in range(0 if number % 5 == 4 else 1 + number % 2):
        x, y = int(rng.integers(4, 20)) + 30 * place, int(rng.integers(4, 40))
        pixels[y : y + 10, x : x + 12] += 100
        lesions.append(Lesion(LABELS[(number + place) % 3], (x, y, x + 12, y + 10)))
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    present = {lesion.label for lesion in lesions}
    return Case(
        id=f"film/{number:03d}",
        source="tests",
        patient=f"Smith-{number // images_of_a_patient:03d}",
        modality="XR",
        image=ImageRef(str(path)),
        lesions=tuple(lesions),
        absent=tuple(label for label in LABELS if label not in present),
        width=size + 16,
        height=size,
        licence="CC0-1.0",
    )


def small_cases(folder: Path, count: int = 24, **options) -> list[Case]:
    return [small_case(folder, number, **options) for number in range(count)]


def small_settings(**changes) -> Settings:
    return Settings(**{"salt": SALT, "shard_cases": 4, "ratios": (0.5, 0.25, 0.25)} | changes)


def coco_file(cases: list[Case], path: Path) -> Path:
    """The same lesions as COCO detections."""
    numbers = {label: 10 * (i + 1) for i, label in enumerate(LABELS)}
    images, annotations = [], []
    for number, case in enumerate(cases):
        name = Path(case.image.path).name
        images.append({"id": number, "file_name": name, "width": case.width, "height": case.height})
        for lesion in case.lesions:
            x1, y1, x2, y2 = lesion.box
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": numbers[lesion.label], "bbox": box}
                | {"area": box[2] * box[3], "iscrowd": 0}
            )
    categories = [{"id": number, "name": label} for label, number in numbers.items()]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
