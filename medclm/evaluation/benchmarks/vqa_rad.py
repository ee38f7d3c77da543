"""VQA-RAD (Lau et al. 2018): ``VQA_RAD Dataset Public.json`` beside ``VQA_RAD Image Folder``; or the parquet files of a
copy with the columns image, question, answer.

    [{"qid", "phrase_type", "image_case_url", "image_name", "image_organ", "question", "question_type", "answer",
      "answer_type", ..}]

The test questions are those whose phrase_type begins with "test". Answers may be numbers, types may end in a blank.
Images are shared by the training and the test questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medclm.evaluation.benchmarks import files, hub_copy
from medclm.evaluation.questions import Benchmark, Question
from medclm.problems import DataError, Problems

WHAT = "vqa_rad"
FIELDS = ("qid", "phrase_type", "image_name", "question", "answer", "answer_type")
NAMES = ("VQA_RAD Dataset Public.json", "*VQA_RAD*.json")


def read(path: Path, problems: Problems, *, missing: str = "error") -> Benchmark:
    if hub_copy.is_copy(path):
        return hub_copy.read(WHAT, path, problems)
    file = files.first_file(path, NAMES, WHAT)
    if file.suffix != ".json":
        raise DataError(f"{WHAT}: expected a json file or parquet files, got {file}")
    entries = files.json_list(file, WHAT)
    files.check_fields(entries, FIELDS, file, WHAT)
    tests = [entry for entry in entries if str(entry["phrase_type"]).startswith("test")]
    if not tests:
        raise DataError(f"{WHAT}: expected entries whose phrase_type begins with 'test' in {file}, got none")
    folder = next((each for each in sorted(file.parent.glob("*mage*")) if each.is_dir()), file.parent)
    images = files.Images(folder, missing, problems, WHAT)
    others = {str(entry["image_name"]) for entry in entries if not str(entry["phrase_type"]).startswith("test")}
    return files.assemble(WHAT, file, f"VQA-RAD, {file.name}", _pairs(tests, images), trained_on=others)


def _pairs(tests: list[dict], images: files.Images) -> Iterator[tuple[Question, Path]]:
    for entry in tests:
        name = str(entry["image_name"])
        place = images.find(f"question {entry['qid']}", name)
        if place is None:
            continue
        kind = files.text_of(entry["answer_type"]).upper()
        if kind not in ("OPEN", "CLOSED"):
            raise DataError(f"{WHAT}: question {entry['qid']}: expected answer_type OPEN or CLOSED, got {kind!r}")
        organ = files.text_of(entry.get("image_organ"))
        groups = {"organ": (organ.lower(),), "question_type": (files.text_of(entry.get("question_type")),)}
        yield (
            Question(
                id=str(entry["qid"]),
                question=files.text_of(entry["question"]),
                answer=files.text_of(entry["answer"]),
                answer_type=kind,
                patient=files.text_of(entry.get("image_case_url")),  # a case of MedPix
                image=name,
                groups={name: values for name, values in groups.items() if values[0]},
            ),
            place,
        )
