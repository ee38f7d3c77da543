"""How a question is put to a model. Scores depend on it: whoever compares with a paper asks as the paper did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medclm.evaluation.questions import REPORT, Question
from medclm.problems import DataError

LONG, SHORT = 512, 64  # tokens of a reply at most: with reasoning or a report; of a brief answer
LETTER_ONLY = "Answer with the option's letter from the given choices directly."
SINGLE_WORD = "Answer the question using a single word or phrase."


@dataclass(frozen=True)
class Asked:
    """text   the question with its options
    stage     of :func:`medclm.training.prompting.generation_inputs`; None: no more is said than the text
    tokens    of the reply at most
    """

    text: str
    stage: str | None
    tokens: int


def _with_options(question: Question) -> str:
    if not question.choices:
        return question.question
    lines = [f"{letter}. {choice}" for letter, choice in zip("ABCDEFGHIJ", question.choices, strict=False)]
    return "\n".join([question.question, *lines])


def _own(question: Question, kind: str) -> Asked:
    if question.answer_type == REPORT:
        return Asked(question.question, None, LONG)
    stage = question.stage or "hard"
    return Asked(_with_options(question), stage, SHORT if stage == "hard" else LONG)


def _brief(question: Question, kind: str) -> Asked:
    own = _own(question, kind)
    return own if own.stage is None else Asked(own.text, "hard", SHORT)


def _plain(question: Question, kind: str) -> Asked:
    return Asked(_with_options(question), None, LONG if question.answer_type == REPORT or question.stage else SHORT)


def _lmms_eval(question: Question, kind: str) -> Asked:
    return Asked(f"{_with_options(question).strip()}\n{SINGLE_WORD}", None, 32)


def _medevalkit(question: Question, kind: str) -> Asked:
    if question.answer_type == REPORT:
        text = (
            "You are a helpful assistant. Please generate a report for the given images, including both findings and "
            "impressions. Return the report in the following format: Findings: {} Impression: {}."
        )
        return Asked(text, None, LONG)
    if question.choices:
        options = "\n".join(question.options)
        return Asked(f"\nQuestion: {question.question}\nOptions: \n{options}\n{LETTER_ONLY}", None, SHORT)
    if kind in ("vqa_rad", "path_vqa"):
        closed = question.answer.lower() in ("yes", "no")
        suffix = "Please output 'yes' or 'no'(no extra output)." if closed else "Please answer the question concisely."
    else:
        suffix = SINGLE_WORD if question.answer_type == "CLOSED" else "Please answer the question concisely."
    return Asked(f"{question.question}\n{suffix}", None, SHORT)


PROMPTS: dict[str, Callable[[Question, str], Asked]] = {
    "own": _own,  # as the models of this project are trained
    "brief": _brief,  # as those that were trained with --no-reasoning are: for the answer alone, in every stage
    "plain": _plain,  # LLaVA-Med: the question alone
    "lmms_eval": _lmms_eval,
    "medevalkit": _medevalkit,
}

OWN = ("own", "brief")


def asked(question: Question, kind: str, prompt: str, tokens: int | None = None) -> Asked:
    """tokens: instead of the prompt's own limit. Raises DataError for a prompt that is not known."""
    if prompt not in PROMPTS:
        raise DataError(f"prompt: expected one of {', '.join(PROMPTS)}, got {prompt!r}")
    found = PROMPTS[prompt](question, kind)
    return found if tokens is None else Asked(found.text, found.stage, tokens)
