"""What the readers of benchmarks share: lists of entries out of files, images on this disk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from medclm.evaluation.questions import Benchmark, Question, opened
from medclm.problems import DataError, Problems, Reason
from medclm.readers.image_files import ImageFiles


def first_file(path: Path, names: Sequence[str], what: str) -> Path:
    """``path`` itself, or the first of ``names`` (patterns) in it. Raises DataError naming them."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{what}: expected a file or a folder that exists, got {path}")
    for name in names:
        if found := sorted(path.glob(name)):
            return found[0]
    raise DataError(f"{what}: expected {' or '.join(names)} in {path}, got none of them")


def json_list(path: Path, what: str) -> list:
    """Raises DataError where the file holds no list in JSON."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{what}: expected a JSON list in {path} ({error})") from None
    if not isinstance(found, list):
        raise DataError(f"{what}: expected a JSON list in {path}, got {type(found).__name__}")
    return found


def check_fields(entries: Sequence[object], fields: Iterable[str], path: Path, what: str) -> None:
    """Every entry has these fields. Raises DataError that names the first that lacks one, and what it has instead."""
    if not entries:
        raise DataError(f"{what}: expected entries in {path}, got none")
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise DataError(f"{what}: expected an object as entry {number} of {path}, got {type(entry).__name__}")
        lacking = [name for name in fields if name not in entry]
        if lacking:
            raise DataError(
                f"{what}: expected the fields {', '.join(fields)} in entry {number} of {path}, got "
                f"{', '.join(map(str, entry))} (without {', '.join(lacking)})"
            )


class Images:
    """The images of a benchmark. missing: "error" raises for the first that is not there, "skip" counts them."""

    def __init__(self, folder: Path, missing: str, problems: Problems, what: str) -> None:
        if not folder.is_dir():
            raise DataError(f"{what}: expected the folder of the images at {folder}")
        self._files = ImageFiles(folder, "error" if missing == "error" else "report", problems)

    def find(self, where: str, name: str) -> Path | None:
        found = self._files.find(where, name)
        return None if found is None else Path(found)


def assemble(
    kind: str,
    path: Path,
    title: str,
    pairs: Iterable[tuple[Question, Path]],
    *,
    trained_on: Iterable[str] = (),
    source: str | None = None,
) -> Benchmark:
    """Of questions and the files of their images. Raises DataError where there are none, or two of one id."""
    questions, places = [], []
    for question, place in pairs:
        size = os.stat(place).st_size
        questions.append(_with_facts(question, (place.name, size)))
        places.append(place)
    return finish(
        kind, path, title, questions, lambda number: opened(places[number]), trained_on=trained_on, source=source
    )


def finish(
    kind: str,
    path: Path,
    title: str,
    questions: list[Question],
    load: Callable,
    *,
    trained_on: Iterable[str] = (),
    source: str | None = None,
) -> Benchmark:
    if not questions:
        raise DataError(f"{kind}: expected test questions in {path}, got none whose image is there")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise DataError(f"{kind}: expected ids that are unique, got {question.id!r} twice in {path}")
        seen.add(question.id)

    def row(number: int) -> dict:
        question = questions[number]
        return {"id": question.id, "question": question.question, "boxes": [], "labels": [], "width": 0, "height": 0}

    return Benchmark(kind, kind, title, questions, load, row, frozenset(trained_on), source)


def _with_facts(question: Question, facts: tuple) -> Question:
    from dataclasses import replace

    return replace(question, facts=facts)


def text_of(value: object) -> str:
    """Answers may be numbers; blanks at the ends are the files', not the answers'."""
    return "" if value is None else str(value).strip()


def yes_no_type(answer: str) -> str:
    """CLOSED where the answer is yes or no, for benchmarks whose files do not say."""
    return "CLOSED" if re.fullmatch(r"(yes|no)\W*", answer.strip(), re.IGNORECASE) else "OPEN"


def malformed(problems: Problems, where: str, what: str) -> None:
    problems.add(Reason.ROW_MALFORMED, f"{where}: {what}")
