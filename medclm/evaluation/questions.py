"""A question of a benchmark, and a benchmark."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from medclm.boxes import Box
from medclm.problems import DataError

LETTERS = "ABCDEFGHIJ"
REPORT = "REPORT"  # an answer type beside medclm.schema.ANSWER_TYPES: many sentences


@dataclass(frozen=True)
class Question:
    """One question about one image, without the image.

    answer_type  OPEN, CLOSED, or REPORT: as the benchmark says, or as its reader says where it does not
    choices      of a multiple-choice question, without letters; the answer is then one of them
    options      the same as the benchmark prints them ("A. CT"); what the model is shown
    stage        of a converted set; None elsewhere
    boxes        what the reply should point at, pixels of the image; labels: one each
    width        of the image, pixels; 0 where there are no boxes
    patient      "" where it is not known
    groups       name -> values: what scores are broken down by
    facts        what the identity of the question is made of beside its texts (the image's name and size)
    """

    id: str
    question: str
    answer: str
    answer_type: str
    choices: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    stage: str | None = None
    boxes: tuple[Box, ...] = ()
    labels: tuple[str, ...] = ()
    width: int = 0
    height: int = 0
    patient: str = ""
    image: str = ""  # questions about one image share it
    licence: str = ""
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    facts: tuple[str | int, ...] = ()

    @property
    def letter(self) -> str:
        """Of the right choice. Raises ValueError where there are no choices."""
        return LETTERS[self.choices.index(self.answer)]


@dataclass(frozen=True)
class Benchmark:
    """kind      of medclm.evaluation.benchmarks.BENCHMARKS
    name         of its folder in the output
    title        with the file it was read from, for people
    questions    of the test split, in the benchmark's order; ids are unique
    load         number of a question -> its image, RGB; raises DataError where it cannot be read
    row          number -> a mapping as :func:`medclm.training.prompting.generation_inputs` takes it, without the image
    trained_on   names of the images in the benchmark's own training part, as in Question.image
    source       what ``source`` is in sets that were converted from the same data; None where there are none such
    hashed       Question.patient is hashed as in converted sets
    """

    kind: str
    name: str
    title: str
    questions: Sequence[Question]
    load: Callable[[int], Image.Image]
    row: Callable[[int], dict]
    trained_on: frozenset[str] = frozenset()
    source: str | None = None
    hashed: bool = False

    def sampled(self, limit: int) -> Benchmark:
        """At most so many of its questions, in their order: drawn by the hash of their ids, so always the same."""
        if limit >= len(self.questions):
            return self
        order = sorted(range(len(self.questions)), key=lambda n: hashlib.sha256(self.questions[n].id.encode()).digest())
        kept = sorted(order[:limit])
        return replace(
            self,
            title=f"{self.title}, {limit:,} of {len(self.questions):,} questions",
            questions=[self.questions[number] for number in kept],
            load=lambda number: self.load(kept[number]),
            row=lambda number: self.row(kept[number]),
        )

    def fingerprint(self) -> str:
        """32 hexadecimal digits: equal questions, equal answers, equal images."""
        state = hashlib.sha256()
        for each in self.questions:
            says = (each.id, each.question, each.answer, each.answer_type, each.options, each.stage, each.facts)
            state.update(json.dumps(says, ensure_ascii=True).encode() + b"\n")
        return state.hexdigest()[:32]


def opened(path: str | Path) -> Image.Image:
    """RGB. Raises DataError where it is no picture."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: expected a readable image ({error})") from None


def decoded(raw: bytes, where: str) -> Image.Image:
    """RGB, of an encoded picture. Raises DataError naming ``where``."""
    try:
        return Image.open(io.BytesIO(raw)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: expected a readable image ({error})") from None
