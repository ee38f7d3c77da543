"""The two sides of a conversation, out of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medclm.codecs import Codec, render
from medclm.problems import DataError

IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class Turns:
    question: str
    reply: str


def turns(row: Mapping, codec: Codec) -> Turns:
    """The reply is "Reasoning: ..\\n\\nAnswer: .." where there is reasoning, else "Answer: ..". Raises DataError where
    the row holds an image token (trainers count them) or names a box that it does not have."""
    size = (row["width"], row["height"])
    try:
        question, cot, answer = (
            render(row[name], row["boxes"], row["labels"], size, codec) for name in ("question", "cot", "answer")
        )
    except ValueError as error:
        raise DataError(f"row {row['id']}: {error}") from None
    reply = f"Reasoning: {cot}\n\nAnswer: {answer}" if cot else f"Answer: {answer}"
    if IMAGE_TOKEN in question or IMAGE_TOKEN in reply:
        raise DataError(f"row {row['id']}: expected text without {IMAGE_TOKEN}")
    return Turns(question, reply)
