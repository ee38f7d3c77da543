"""PathVQA (He et al. 2020): ``qas/test/test_qa.pkl`` beside ``images/test/<name>.jpg``; or the parquet files of a copy
with the columns image, question, answer.

    [{"image": "test_0273", "question", "answer"}]

A pickle can hold commands; only its lists, dicts, texts and numbers are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastgrad import plain_pickle
from medclm.evaluation.benchmarks import files, hub_copy
from medclm.evaluation.questions import Benchmark, Question
from medclm.problems import DataError, Problems

WHAT = "path_vqa"
FIELDS = ("image", "question", "answer")
NAMES = ("qas/test/test_qa.pkl", "*/qas/test/test_qa.pkl", "test_qa.pkl", "test.json", "test_qa.json")


def read(path: Path, problems: Problems, *, missing: str = "error") -> Benchmark:
    if hub_copy.is_copy(path):
        return hub_copy.read(WHAT, path, problems)
    file = files.first_file(path, NAMES, WHAT)
    entries = _entries(file)
    files.check_fields(entries, FIELDS, file, WHAT)
    root = file.parents[2] if file.parent.name == "test" and file.parent.parent.name == "qas" else file.parent
    images = files.Images(root / "images" if (root / "images").is_dir() else root, missing, problems, WHAT)
    train = file.parents[1] / "train" / "train_qa.pkl"
    others = {str(entry["image"]) for entry in _entries(train)} if train.exists() else ()
    return files.assemble(WHAT, file, f"PathVQA, {file.name}", _pairs(entries, images), trained_on=others)


def _pairs(entries: list[dict], images: files.Images) -> Iterator[tuple[Question, Path]]:
    for number, entry in enumerate(entries):
        name = str(entry["image"])
        place = images.find(f"question {number}", name)
        if place is None:
            continue
        answer = files.text_of(entry["answer"])
        question = Question(
            id=str(number),
            question=files.text_of(entry["question"]),
            answer=answer,
            answer_type=files.yes_no_type(answer),
            image=name,
            groups={"modality": ("pathology",)},
        )
        yield question, place


def _entries(file: Path) -> list:
    if file.suffix == ".json":
        return files.json_list(file, WHAT)
    try:
        found = plain_pickle.load(file.read_bytes())
    except Exception as error:  # damaged pickles raise nearly anything
        raise DataError(f"{WHAT}: expected a pickled list of questions in {file} ({error})") from None
    if not isinstance(found, list):
        raise DataError(f"{WHAT}: expected a pickled list of questions in {file}, got {type(found).__name__}")
    return found
