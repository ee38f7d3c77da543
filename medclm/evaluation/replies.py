"""What a model wrote, and the answer in it."""

from __future__ import annotations

import re
from collections.abc import Callable

from medclm.evaluation.questions import LETTERS

_ANSWER = re.compile(r"(?:^|\s)\**(?:final )?answer\**\s*:\**\s*", re.IGNORECASE)
_REASONING = re.compile(r"^\s*reasoning\s*:", re.IGNORECASE)


def answer_of(reply: str) -> str:
    """What stands behind the last "Answer:"; nothing where a reply begins to reason and never answers; else all of
    it."""
    *_, answer = _ANSWER.split(reply)
    if answer == reply and _REASONING.match(reply):
        return ""
    return answer.strip()


_LETTER = re.compile(rf"^\W*([{LETTERS}{LETTERS.lower()}])(?:[\s.:)\]*]|$)\W*(.*)$", re.DOTALL)


def chosen(answer: str, choices: tuple[str, ...], same: Callable[[str], str]) -> int | None:
    """The number of the choice that an answer names, by its letter ("B", "(B)", "B. CT") or its whole text; None where
    it names none, or a letter with the text of another.

    same: how texts are normalised before they are compared.
    """
    texts = [same(choice) for choice in choices]
    if same(answer) and same(answer) in texts:
        return texts.index(same(answer))
    match = _LETTER.match(answer.strip())
    if match is None:
        return None
    number, rest = LETTERS.index(match[1].upper()), same(match[2])
    if number >= len(choices) or (rest and rest in texts and texts.index(rest) != number):
        return None
    # "A nodule in the lung" is no letter: an article and a sentence.
    marked = re.match(r"\W*[(\[*]|\W*\w[.:)\]*]", answer.strip()) is not None
    return number if not rest or rest == texts[number] or marked else None
