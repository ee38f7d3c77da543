"""Which questions of a benchmark are about images or patients that a model was trained on.

exact     the same pixels, however they were stored
near      nearly the same picture: other compression, size or brightness, and neighbouring slices of a volume
patient   the same patient; only where both sides hash patients with one salt
own       an image that the benchmark itself has in its training questions (VQA-RAD shares images among its parts)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from medclm import sets
from medclm.evaluation.questions import Benchmark, decoded
from medclm.privacy import hashed

SIDE = 16  # of the perceptual hash: 256 bits
WORDS = SIDE * SIDE // 64
STEP = 2  # grey levels: what differs by less is noise
NEAR = 12  # bits of 256 that nearly equal pictures differ in at most; docs/medclm_evaluation.md has the distances
PLAIN = 24  # bits: a picture with fewer of them says too little to be recognised by
REASONS = ("exact", "near", "patient", "own")


def exact_hash(image: Image.Image) -> str:
    """Of size and pixels as RGB."""
    image = image.convert("RGB")
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:32]


def perceptual_hash(image: Image.Image) -> np.ndarray:  # uint64 [WORDS]
    """Difference hash: the picture in 17 x 16 grey levels; a bit for every pixel that is darker than its right
    neighbour by more than STEP.  (Krawetz 2013, "Kind of like that")"""
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.int16)
    return np.packbits(grey[:, 1:] - grey[:, :-1] > STEP).view(np.uint64)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:  # [..., WORDS], broadcast
    """Bits that differ."""
    return np.bitwise_count(a ^ b).sum(axis=-1)


@dataclass(frozen=True)
class Seen:
    """What a model was trained on: hashes of images and of patients."""

    exact: frozenset[str]
    perceptual: np.ndarray  # uint64 [images, WORDS]
    patients: frozenset[str]

    def near(self, hash: np.ndarray) -> bool:
        if not len(self.perceptual) or int(np.bitwise_count(hash).sum()) < PLAIN:
            return False
        return bool((distance(self.perceptual, hash) <= NEAR).any())


def seen_in(images: Iterable[Image.Image], patients: Iterable[str] = ()) -> Seen:
    exact: set[str] = set()
    perceptual: list[np.ndarray] = []
    for image in images:
        hash = exact_hash(image)
        if hash in exact:
            continue
        exact.add(hash)
        perceptual.append(perceptual_hash(image))
    table = np.array(perceptual, np.uint64).reshape(-1, WORDS)
    table = np.unique(table[np.bitwise_count(table).sum(axis=1) >= PLAIN], axis=0)
    return Seen(frozenset(exact), table, frozenset(patients) - {""})


def seen_in_set(folder: Path) -> Seen:
    """Of the train split. Images with boxes drawn into them are left out: every image is there without them, too."""
    patients: set[str] = set()

    def images() -> Iterable[Image.Image]:
        done: set[bytes] = set()
        for row in sets.rows(folder, split="train", columns=["patient", "box_drawn", "image", "case"]):
            patients.add(row["patient"])
            raw = row["image"]["bytes"]
            key = hashlib.sha256(raw).digest()
            if key not in done and not row["box_drawn"]:
                done.add(key)
                yield decoded(raw, f"{folder}: row {row['id']}")

    found = seen_in(images())
    return Seen(found.exact, found.perceptual, frozenset(patients) - {""})


@dataclass(frozen=True)
class Leakage:
    """questions: number -> why it is suspected, in the order of REASONS; checked: what could be looked for."""

    questions: dict[int, tuple[str, ...]]
    total: int
    images: int
    checked: tuple[str, ...]

    def to_dict(self, benchmark: Benchmark, examples: int = 20) -> dict:
        """Counts of questions and images by reason, and the first ids."""
        found: dict = {
            "questions": self.total,
            "images": self.images,
            "checked": list(self.checked),
            "leaked_questions": len(self.questions),
        }
        for reason in REASONS:
            numbers = [number for number, reasons in self.questions.items() if reason in reasons]
            found[reason] = {
                "questions": len(numbers),
                "images": len({benchmark.questions[number].image for number in numbers}),
                "ids": [benchmark.questions[number].id for number in numbers[:examples]],
            }
        return found


def check(benchmark: Benchmark, seen: Seen | None, *, salt: str | None = None) -> Leakage:
    """seen: what the model was trained on; without it only ``own`` is looked for. salt: of the set that it was trained
    on, for benchmarks whose patients are named in clear."""
    checked = ["own"] if benchmark.trained_on else []
    patients = _patients(benchmark, salt) if seen is not None and seen.patients else None
    if seen is not None:
        checked += ["exact", "near"] + (["patient"] if patients is not None else [])
    # image -> the number of a question that shows it, without a box drawn into it where there is one
    shown: dict[str, int] = {}
    for number, question in enumerate(benchmark.questions):
        if question.image not in shown or benchmark.questions[shown[question.image]].stage == "easy":
            shown[question.image] = number
    of_image = {image: _of_image(benchmark, number, seen) for image, number in shown.items()}
    questions: dict[int, tuple[str, ...]] = {}
    for number, question in enumerate(benchmark.questions):
        reasons = set(of_image[question.image])
        if seen is not None and patients is not None and patients[number] in seen.patients:
            reasons.add("patient")
        if reasons:
            questions[number] = tuple(reason for reason in REASONS if reason in reasons)
    return Leakage(questions, len(benchmark.questions), len(of_image), tuple(r for r in REASONS if r in checked))


def _of_image(benchmark: Benchmark, number: int, seen: Seen | None) -> tuple[str, ...]:
    found = ["own"] if benchmark.questions[number].image in benchmark.trained_on else []
    if seen is not None:
        image = benchmark.load(number)
        if exact_hash(image) in seen.exact:
            found.append("exact")
        elif seen.near(perceptual_hash(image)):
            found.append("near")
    return tuple(found)


def _patients(benchmark: Benchmark, salt: str | None) -> Sequence[str] | None:
    """Hashed as in converted sets; None where that cannot be."""
    if benchmark.hashed:
        return [question.patient for question in benchmark.questions]
    if benchmark.source is None or salt is None:
        return None
    return [hashed("patient", benchmark.source, question.patient, salt=salt) for question in benchmark.questions]
