"""The predictions file: the replies of one model to one benchmark, one JSON object a line.

    {"medclm_predictions": 1, "benchmark": .., "questions": .., "model": .., "prompt": .., ..}      the first line
    {"id": .., "reply": .., "boxes": [[x1, y1, x2, y2], ..]}                                        one a question

Replies are written a batch at a time, in the benchmark's order. A run that was killed goes on behind its last whole
batch, so batches hold the same questions as in a run that was not, and the file ends in the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medclm.boxes import Box
from medclm.codecs import Codec
from medclm.evaluation.answering import Answers, Reply
from medclm.evaluation.prompts import asked
from medclm.evaluation.questions import Benchmark
from medclm.problems import DataError
from medclm.whole_files import make_folder, writing

VERSION = 1
MARK = "medclm_predictions"
FILE = "predictions.jsonl"
# What must agree for a run to go on, in words.
HEADER = {
    "benchmark": "benchmark",
    "questions": "questions, answers and images",
    "model": "weights",
    "prompt": "prompt",
    "batch_size": "batch size",
    "max_new_tokens": "limit of new tokens",
}


@dataclass(frozen=True)
class Asking:
    prompt: str = "own"
    batch_size: int = 8
    max_new_tokens: int | None = None  # None: as the prompt says


@dataclass(frozen=True)
class Progress:
    """done of total questions, resumed of which an earlier run answered; new_tokens of this run."""

    done: int
    total: int
    resumed: int
    new_tokens: int


def predict(
    benchmark: Benchmark,
    answers: Answers,
    folder: Path,
    asking: Asking,
    *,
    restart: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[Reply]:
    """The replies to every question, asked where they are not there yet. restart: throw away what is there.

    Raises DataError where the file in ``folder`` is another model's or benchmark's, or another process writes it.
    """
    if asking.batch_size < 1:
        raise DataError(f"batch size: expected at least 1, got {asking.batch_size}")
    make_folder(folder)
    path = folder / FILE
    questions = benchmark.questions
    header = {
        MARK: VERSION,
        "benchmark": benchmark.name,
        "questions": benchmark.fingerprint(),
        "model": answers.fingerprint,
        "prompt": asking.prompt,
        "batch_size": asking.batch_size,
        "max_new_tokens": asking.max_new_tokens,
    }
    with _alone(path) as file:
        if restart:
            os.ftruncate(file, 0)
        lines = _whole_lines(path)
        if not lines:
            os.ftruncate(file, 0)
            _append(file, [header], path)
            replies = []
        else:
            _check_header(path, lines[0], header)
            replies = [_reply(path, number, line) for number, line in enumerate(lines[1:], 2)]
            _check_ids(path, replies, benchmark)
            kept = len(replies)
            if kept < len(questions):
                kept -= kept % asking.batch_size
            os.ftruncate(file, sum(len(line) for line in lines[: kept + 1]))
            replies = replies[:kept]
        resumed, tokens = len(replies), 0
        found = [reply for _, reply in replies]
        report(Progress(resumed, len(questions), resumed, 0))
        while len(found) < len(questions):
            numbers = range(len(found), min(len(found) + asking.batch_size, len(questions)))
            rows = [benchmark.row(number) | {"image": benchmark.load(number)} for number in numbers]
            texts = [
                asked(questions[number], benchmark.kind, asking.prompt, asking.max_new_tokens) for number in numbers
            ]
            made = [_stored(reply) for reply in answers(rows, texts)]
            if len(made) != len(rows):
                raise ValueError(f"answers: expected {len(rows)} replies to a batch, got {len(made)}")
            _append(file, [_line(questions[n].id, reply) for n, reply in zip(numbers, made, strict=True)], path)
            found += made
            tokens += sum(reply.tokens for reply in made)
            report(Progress(len(found), len(questions), resumed, tokens))
    return found


def given(path: Path, benchmark: Benchmark, codec: Codec) -> list[Reply]:
    """Replies out of a file that something else wrote: lines with ``id`` and ``reply`` (or ``question_id`` and
    ``text``), in any order. Where a line has no ``boxes``, those in its text are read with the codec. Raises DataError
    where a question has none, or the file is for another benchmark."""
    lines = _whole_lines(path, torn=True)
    if lines and MARK in (first := _object(path, 1, lines[0])):
        mine = benchmark.fingerprint()
        if first.get("questions") != mine:
            raise DataError(
                f"{path}: expected replies to {benchmark.title} (questions {mine}), got replies to "
                f"{first.get('benchmark')} (questions {first.get('questions')})"
            )
        lines = lines[1:]
    else:
        first = None
    found = {}
    for number, line in enumerate(lines, 1 if first is None else 2):
        id, reply = _reply(path, number, line)
        found[id] = reply, "boxes" in _object(path, number, line)
    lacking = [question.id for question in benchmark.questions if question.id not in found]
    if lacking:
        raise DataError(
            f"{path}: expected a reply to each of the {len(benchmark.questions):,} questions of {benchmark.title}, got "
            f"none to {len(lacking):,} of them ({', '.join(lacking[:3])}, ..); the file has {len(found):,} replies"
        )
    replies = []
    for question in benchmark.questions:
        reply, with_boxes = found[question.id]
        if not with_boxes and question.width and question.height:
            boxes = codec.decode(reply.text, (question.width, question.height))
            reply = Reply(reply.text, tuple(box for _, box in boxes))
        replies.append(reply)
    return replies


def _stored(reply: Reply) -> Reply:
    """As it is read back: what a resumed run scores is what a whole one does."""
    return Reply(reply.text, tuple(_box(round(float(edge), 2) for edge in box) for box in reply.boxes), reply.tokens)


def _box(edges: Iterable[float]) -> Box:
    x1, y1, x2, y2 = edges  # ValueError where there are not four
    return x1, y1, x2, y2


def _line(id: str, reply: Reply) -> dict:
    return {"id": id, "reply": reply.text, "boxes": [list(box) for box in reply.boxes]}


def _append(file: int, entries: Sequence[dict], path: Path) -> None:
    raw = b"".join(json.dumps(entry, ensure_ascii=False).encode(errors="replace") + b"\n" for entry in entries)
    with writing(path):
        os.lseek(file, 0, os.SEEK_END)
        while raw:
            raw = raw[os.write(file, raw) :]
        os.fsync(file)


@contextmanager
def _alone(path: Path) -> Iterator[int]:
    with writing(path):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{path}: another process is writing it; wait for it, or take another folder") from None
        yield file
    finally:
        os.close(file)


def _whole_lines(path: Path, *, torn: bool = False) -> list[bytes]:
    """torn: a last line without its end counts, too."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise DataError(f"{path}: expected a predictions file ({error.strerror})") from None
    return [line for line in lines if torn or line.endswith(b"\n")]


def _object(path: Path, number: int, line: bytes) -> dict:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{path}, line {number}: expected a JSON object, got {line[:60].decode(errors='replace')!r}")
    return found


def _check_header(path: Path, line: bytes, expected: dict) -> None:
    there = _object(path, 1, line)
    if there.get(MARK) != VERSION:
        raise DataError(f"{path}: expected a predictions file of version {VERSION}, got {there.get(MARK)!r}")
    differing = [f"{words} {there.get(name)!r}, now {expected[name]!r}"
                 for name, words in HEADER.items() if there.get(name) != expected[name]]  # fmt: skip
    if differing:
        raise DataError(
            f"{path}: expected predictions of the same model, questions and settings, got other ones "
            f"({'; '.join(differing)}); take another folder, or --restart"
        )


def _reply(path: Path, number: int, line: bytes) -> tuple[str, Reply]:
    entry = _object(path, number, line)
    id, text = entry.get("id", entry.get("question_id")), entry.get("reply", entry.get("text"))
    if id is None or not isinstance(text, str):
        raise DataError(f"{path}, line {number}: expected id and reply, got {', '.join(entry)}")
    try:
        boxes = tuple(_box(float(edge) for edge in box) for box in entry.get("boxes") or ())
    except (TypeError, ValueError):
        raise DataError(f"{path}, line {number}: expected boxes of four numbers, got {entry['boxes']!r}") from None
    return str(id), Reply(text, boxes)


def _check_ids(path: Path, replies: Sequence[tuple[str, Reply]], benchmark: Benchmark) -> None:
    if len(replies) > len(benchmark.questions):
        raise DataError(f"{path}: expected at most {len(benchmark.questions)} replies, got {len(replies)}")
    for number, ((id, _), question) in enumerate(zip(replies, benchmark.questions, strict=False), 2):
        if id != question.id:
            raise DataError(f"{path}, line {number}: expected the reply to question {question.id!r}, got {id!r}")
