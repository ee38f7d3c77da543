"""SLAKE (Liu et al. 2021): ``test.json`` beside ``imgs/xmlab<n>/source.jpg``.

    [{"img_id", "img_name", "question", "answer", "q_lang", "location", "modality", "answer_type", "base_type",
      "content_type", "triple", "qid"}]

Half of the questions are Chinese; :func:`read` takes one language.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medclm.evaluation.benchmarks import files
from medclm.evaluation.questions import Benchmark, Question
from medclm.problems import DataError, Problems
from medclm.readers.slake import LICENCE, MODALITIES

WHAT = "slake"
FIELDS = ("img_name", "question", "answer", "q_lang", "answer_type", "qid")


def read(path: Path, problems: Problems, *, missing: str = "error", language: str = "en") -> Benchmark:
    file = files.first_file(path, ("test.json",), WHAT)
    entries = files.json_list(file, WHAT)
    files.check_fields(entries, FIELDS, file, WHAT)
    tests = [entry for entry in entries if entry["q_lang"] == language]
    if not tests:
        there = sorted({str(entry["q_lang"]) for entry in entries})
        raise DataError(f"{WHAT}: expected questions with q_lang {language!r} in {file}, got {', '.join(there)}")
    imgs = file.parent / "imgs"
    images = files.Images(imgs if imgs.is_dir() else file.parent, missing, problems, WHAT)
    return files.assemble(
        WHAT,
        file,
        f"SLAKE ({language}), {file.name}",
        _pairs(tests, images),
        trained_on=_trained_on(file.parent),
        source="slake",
    )


def _pairs(tests: list[dict], images: files.Images) -> Iterator[tuple[Question, Path]]:
    for entry in tests:
        name = str(entry["img_name"])
        place = images.find(f"question {entry['qid']}", name)
        if place is None:
            continue
        modality, location = files.text_of(entry.get("modality")), files.text_of(entry.get("location"))
        groups = {
            "modality": (MODALITIES.get(modality, modality),),
            "organ": (location.lower().replace("_", " "),),
            "content_type": (files.text_of(entry.get("content_type")),),
            "base_type": (files.text_of(entry.get("base_type")),),
        }
        yield (
            Question(
                id=str(entry["qid"]),
                question=files.text_of(entry["question"]),
                answer=files.text_of(entry["answer"]),
                answer_type=files.text_of(entry["answer_type"]).upper(),
                patient=name.split("/")[0],  # SLAKE names no patients: the image stands for one
                image=name,
                licence=LICENCE,
                groups={name: values for name, values in groups.items() if values[0]},
            ),
            place,
        )


def _trained_on(folder: Path) -> set[str]:
    file = folder / "train.json"
    if not file.exists():
        return set()
    entries = files.json_list(file, WHAT)
    files.check_fields(entries, ("img_name",), file, WHAT)
    return {str(entry["img_name"]) for entry in entries}
