"""PMC-VQA (Zhang et al. 2023), multiple choice:

    test.csv, test_clean.csv  Figure_path,Question,Answer,Choice A,Choice B,Choice C,Choice D,Answer_label
    test_2.csv                index,Figure_path,Caption,Question,Choice A,Choice B,Choice C,Choice D,Answer,split

Choices are printed as " A:Diffuse uptake pattern". In the second version Answer is the letter. Images lie in
``images``, ``images_2`` or ``figures``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from medclm.evaluation.benchmarks import files
from medclm.evaluation.questions import Benchmark, Question
from medclm.problems import DataError, Problems

WHAT = "pmc_vqa"
CHOICES = ("Choice A", "Choice B", "Choice C", "Choice D")
FIELDS = ("Figure_path", "Question", "Answer", *CHOICES)
NAMES = ("test_2.csv", "test2.csv", "test_clean.csv", "test.csv")
FOLDERS = ("images_2", "images", "figures")
_PREFIX = re.compile(r"^\s*[A-D]\s*:\s*")


def read(path: Path, problems: Problems, *, missing: str = "error") -> Benchmark:
    file = files.first_file(path, NAMES, WHAT)
    entries = _entries(file)
    files.check_fields(entries, FIELDS, file, WHAT)
    folders = [file.parent / name for name in FOLDERS if (file.parent / name).is_dir()] or [file.parent]
    # An image is looked for in one folder after the other; the last one says that it is nowhere.
    images = [files.Images(folder, "skip", Problems(), WHAT) for folder in folders[:-1]]
    images.append(files.Images(folders[-1], missing, problems, WHAT))
    pairs = _pairs(entries, images, problems)
    return files.assemble(WHAT, file, f"PMC-VQA, {file.name}", pairs, trained_on=_trained_on(file))


def _pairs(entries: list[dict], images: list[files.Images], problems: Problems) -> Iterator[tuple[Question, Path]]:
    for number, entry in enumerate(entries):
        where, name = f"row {number + 1}", files.text_of(entry["Figure_path"])
        options = tuple(files.text_of(entry[column]) for column in CHOICES)
        choices = tuple(_PREFIX.sub("", option) for option in options)
        answer = _right(entry, choices)
        if answer is None:
            files.malformed(problems, where, f"expected a letter or one of the choices, got {entry['Answer']!r}")
            continue
        place = next(filter(None, (folder.find(where, name) for folder in images)), None)
        if place is None:
            continue
        yield (
            Question(
                id=f"{number}",
                question=files.text_of(entry["Question"]),
                answer=answer,
                answer_type="CLOSED",
                choices=choices,
                options=options,
                image=name,
            ),
            place,
        )


def _right(entry: dict, choices: tuple[str, ...]) -> str | None:
    label = files.text_of(entry.get("Answer_label") or entry["Answer"])
    if label in ("A", "B", "C", "D"):
        return choices["ABCD".index(label)]
    answer = _PREFIX.sub("", files.text_of(entry["Answer"]))
    return answer if answer in choices else None


def _entries(file: Path) -> list[dict]:
    try:
        with open(file, newline="", encoding="utf-8-sig") as raw:
            rows = csv.DictReader(raw)
            rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]  # some have a blank before a name
            if not set(FIELDS) <= set(rows.fieldnames):
                got = ", ".join(rows.fieldnames)[:200]
                raise DataError(f"{WHAT}: expected the columns {', '.join(FIELDS)} in {file}, got {got}")
            return list(rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{WHAT}: expected a csv file at {file} ({error})") from None


def _trained_on(file: Path) -> set[str]:
    train = file.with_name(file.name.replace("test_clean", "train").replace("test", "train"))
    if train == file or not train.exists():
        return set()
    return {files.text_of(entry.get("Figure_path")) for entry in _entries(train)}
