"""The test split of a converted set. Rows that a reviewer rejected are left out."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from medclm import sets
from medclm.evaluation.boxes import expected
from medclm.evaluation.questions import Benchmark, Question, decoded
from medclm.problems import DataError
from medclm.view.rows import Rows

WHAT = "set"
_COLUMNS = (
    "id", "case", "split", "patient", "width", "height", "modality", "boxes", "labels", "organs", "kind", "stage",
    "box_drawn", "question", "cot", "answer", "answer_type", "licence", "provenance_hash",
)  # fmt: skip


def read(path: Path, *, split: str = "test") -> Benchmark:
    """Raises DataError where ``path`` is no set, one of another schema version, or its split is empty."""
    rows = Rows(path)  # random access: images are read when they are shown
    questions, numbers = [], []
    for found in sets.rows(path, split=split, columns=_COLUMNS):
        questions.append(_question(found))
        numbers.append(rows.numbers[found["id"]])
    if not questions:
        there = sets.facts(path)["counts"]["split"]
        counts = ", ".join(f"{name} {count:,}" for name, count in sorted(there.items()) if count) or "no rows"
        raise DataError(f"{path}: expected rows in the {split} split, got none ({counts})")
    train = frozenset(row["case"] for row in sets.rows(path, split="train", columns=["case"]))

    def load(number: int) -> Image.Image:
        found = rows.read(numbers[number])
        return decoded(found["image"]["bytes"], f"{path}: row {found['id']}")

    def row(number: int) -> dict:
        found = rows.read(numbers[number])
        return {name: found[name] for name in ("id", "question", "boxes", "labels", "width", "height")}

    title = f"{path.resolve().name}, {split} split"
    return Benchmark(WHAT, path.resolve().name, title, questions, load, row, train, hashed=True)


def _question(row: dict) -> Question:
    about = expected(row)
    boxes = tuple(tuple(row["boxes"][number]) for number in about)
    labels = tuple(row["labels"][number] for number in about)
    concerned = about or range(len(row["boxes"]))
    groups = {
        "stage": (row["stage"],),
        "kind": (row["kind"],),
        "modality": (row["modality"],),
        "organ": tuple(dict.fromkeys(row["organs"][number] for number in concerned)),
        "lesion": tuple(dict.fromkeys(row["labels"][number] for number in concerned)) or ("none",),
    }
    return Question(
        id=row["id"],
        question=row["question"],
        answer=row["answer"],
        answer_type=row["answer_type"],
        stage=row["stage"],
        boxes=boxes,
        labels=labels,
        width=row["width"],
        height=row["height"],
        patient=row["patient"],
        image=row["case"],
        licence=row["licence"],
        groups={name: values for name, values in groups.items() if values},
        facts=(row["provenance_hash"],),
    )
