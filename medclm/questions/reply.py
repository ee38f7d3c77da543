"""A teacher's reply: its form, and whether it agrees with the annotation."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medclm.problems import Reason
from medclm.questions import places
from medclm.questions.exchange import Exchange
from medclm.questions.nouns import BACKGROUND, host_name, plural, spoken
from medclm.questions.vocabulary import FINDINGS, ORGAN_WORDS

if TYPE_CHECKING:
    from medclm.linking import LinkedCase

TOLERANCE = 0.02  # of the image's width or height, a coordinate
LONGEST_ANSWER = 30  # words

_REPLY = re.compile(r"\s*Question:([^|]*)\|\s*Reasoning:([^|]*)\|\s*Answer:([^|]*)", re.IGNORECASE)
_NUMBER = r"\s*(-?\d*\.?\d+)\s*"
_BOX = re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]")
_TAG = re.compile(r"<[^<>]*>")
_MEASURE = re.compile(
    r"\d+(?:\.\d+)?(?:\s*(?:x|×|by)\s*\d+(?:\.\d+)?)?\s*-?\s*(?:mm|cm|millimet|centimet)", re.IGNORECASE
)
_NEGATION = re.compile(r"\b(?:no|not|without|absent|absence|free of|neither|nor|never|excluded?|negative for)\b")
_CLOSED_QUESTION = re.compile(r"(?:is|are|does|do|did|can|could|has|have|was|were)\b")


class RationaleError(ValueError):
    """A reply that cannot be used; ``reason`` is one of the RATIONALE_ reasons."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass(frozen=True)
class Reply:
    question: str
    reasoning: str
    answer: str


def parse(text: str) -> Reply:
    """ "Question: .. | Reasoning: .. | Answer: ..". Raises RationaleError where the reply is anything else."""
    match = _REPLY.fullmatch(text)
    fields = [" ".join(field.split()) for field in match.groups()] if match else []
    if not match or not all(fields):
        raise RationaleError(
            Reason.RATIONALE_MALFORMED, f"expected Question: .. | Reasoning: .. | Answer: .., got {text[:80]!r}"
        )
    if _TAG.search(text):
        raise RationaleError(Reason.RATIONALE_MALFORMED, f"expected no tags, got {_TAG.search(text)[0]!r}")
    question, reasoning, answer = fields
    if _BOX.search(question) or _BOX.search(answer):
        raise RationaleError(Reason.RATIONALE_MALFORMED, "expected boxes in the reasoning only")
    if len(answer.split()) > LONGEST_ANSWER:
        raise RationaleError(Reason.RATIONALE_MALFORMED, f"expected an answer of {LONGEST_ANSWER} words at most")
    return Reply(question, reasoning, answer)


def accepted(
    text: str,
    exchange: Exchange,  # easy or medium, as the template made it
    linked: LinkedCase,  # of known width and height
    *,
    name: str,  # of the teacher
    spacing: tuple[float, float] | None = None,
    tolerance: float = TOLERANCE,
) -> Exchange:
    """The exchange in the reply's words, its boxes turned into placeholders. Raises RationaleError where the reply is
    malformed, leaves out a box, or says what the annotation does not: another box, finding, organ, side, measure or
    answer."""
    reply = parse(text)
    _check_question(reply.question, exchange, linked)
    cot = _with_placeholders(reply.reasoning, exchange, linked, tolerance)
    for said in (reply.question, _BOX.sub(" ", reply.reasoning), reply.answer):
        _check_findings(said, exchange, linked)
        _check_anatomy(said, exchange, linked)
        _check_measures(said, exchange, linked, spacing)
    answer = _checked_answer(reply, exchange)
    return replace(exchange, question=reply.question, cot=cot, answer=answer, cot_source=name)


def _contradicts(what: str) -> RationaleError:
    return RationaleError(Reason.RATIONALE_CONTRADICTS, what)


def _with_placeholders(reasoning: str, exchange: Exchange, linked: LinkedCase, tolerance: float) -> str:
    case = linked.case
    sides = (case.width, case.height, case.width, case.height)
    true = {i: [c / side for c, side in zip(case.lesions[i].box, sides, strict=True)] for i in exchange.about}
    seen: set[int] = set()

    def placeholder(match: re.Match) -> str:
        given = [float(number) for number in match.groups()]
        off = {i: max(abs(a - b) for a, b in zip(given, box, strict=True)) for i, box in true.items()}
        # Of several boxes within the tolerance the nearest is meant; of equal ones that which was not named yet.
        nearest = min(off, key=lambda i: (round(off[i], 4), i in seen), default=None)
        if nearest is None or off[nearest] > tolerance:
            raise _contradicts(f"a box that is not in the annotation: {match[0]}")
        seen.add(nearest)
        return f"<box:{nearest}>"

    text = _BOX.sub(placeholder, reasoning)
    if missing := set(exchange.about) - seen:
        raise RationaleError(Reason.RATIONALE_BOXLESS, f"{len(missing)} of {len(exchange.about)} boxes not repeated")
    return text


def _check_question(question: str, exchange: Exchange, linked: LinkedCase) -> None:
    """It asks about what the exchange is about, so that its answer holds, and does not give the answer."""
    text, case = question.lower(), linked.case
    about = {spoken(case.lesions[index].label) for index in exchange.about}
    present = {spoken(lesion.label) for lesion in case.lesions}
    absent = {spoken(label) for label in case.absent} - present
    named = set()
    for noun in sorted(present | absent, key=len, reverse=True):  # "lung nodule" before "nodule"
        if _find(noun, text):
            named.add(noun)
            text = _without(noun, text)
    if exchange.answer == "No":
        # The seed names the label that is not there.
        right = bool(named) and named <= absent and all(_find(noun, exchange.seed_text.lower()) for noun in named)
    elif exchange.kind == "what":
        right = not named
    else:
        right = named <= about and (exchange.answer_type == "OPEN" or bool(named))
    if not right:
        raise _contradicts(f"a question about something else: {question!r}")


def _without(noun: str, text: str) -> str:
    return re.sub("|".join(rf"\b{re.escape(form)}\b" for form in _forms(noun)), " ", text)


def _forms(noun: str) -> tuple[str, ...]:
    return (noun, plural(noun))


def _find(noun: str, text: str) -> list[re.Match]:
    forms = "|".join(sorted(map(re.escape, _forms(noun)), key=len, reverse=True))
    return list(re.finditer(rf"\b(?:{forms})\b", text))


def _case_nouns(linked: LinkedCase) -> list[str]:
    labels = {lesion.label for lesion in linked.case.lesions} | set(linked.case.absent)
    return sorted({spoken(label) for label in labels} | labels, key=len, reverse=True)


def _check_findings(said: str, exchange: Exchange, linked: LinkedCase) -> None:
    """No finding but the case's; an absent one only in a clause that negates it."""
    case, text = linked.case, said.lower()
    present = {spoken(lesion.label) for lesion in case.lesions} | {lesion.label for lesion in case.lesions}
    absent = ({spoken(label) for label in case.absent} | set(case.absent)) - present
    question = text.rstrip().endswith("?")
    for noun in sorted(present | absent | set(FINDINGS), key=len, reverse=True):
        for match in _find(noun, text):
            clause = re.split(r"[.;:?]", text[: match.start()])[-1]
            negated = bool(
                _NEGATION.search(clause) or re.match(r"[^.;:?]*\b(?:is|are) (?:not|absent)\b", text[match.end() :])
            )
            if noun in present and negated and exchange.answer != "No":
                raise _contradicts(f"denies the {noun} that is annotated")
            if noun in absent and not negated and not question:
                raise _contradicts(f"a {noun} that is annotated as absent")
            if noun not in present | absent and not any(_find(noun, label) for label in present):
                raise _contradicts(f"{noun}: not in the annotation")
        text = _without(noun, text)


def _check_anatomy(said: str, exchange: Exchange, linked: LinkedCase) -> None:
    """No organ but the hosts of what is asked about, no side but theirs or one that the image bears out."""
    text = said.lower()
    for noun in _case_nouns(linked):  # "lung opacity" names no organ
        text = _without(noun, text)
    allowed: set[str] = set()
    for index in exchange.about:
        link = linked.links[index]
        if link.organ != BACKGROUND:
            allowed |= set(host_name(link).lower().split())
        region = places.in_image(linked, index)
        allowed |= {"left", "right"} & set(re.findall(r"\w+", region or ""))
    if "lobe" in allowed:
        allowed.add("lung")
    roots = {ORGAN_WORDS.get(word) for word in allowed}
    for word in re.findall(r"[a-z]+", text):
        root = ORGAN_WORDS.get(word)
        if root is not None and root not in roots:
            raise _contradicts(f"{word}: not the organ of the annotation")
        if word in ("bilateral", "bilaterally") and not {"left", "right"} <= allowed:
            raise _contradicts(f"{word}: sides that the annotation does not give")
        if word.removesuffix("sided") in ("left", "right") and word.removesuffix("sided") not in allowed:
            raise _contradicts(f"{word}: a side that the annotation does not give")


def _check_measures(said: str, exchange: Exchange, linked: LinkedCase, spacing: tuple[float, float] | None) -> None:
    case = linked.case
    known = {places.extent(case.lesions[i].box, case.modality, spacing) for i in exchange.about}
    for match in _MEASURE.finditer(said):
        if match[0] not in known:
            raise _contradicts(f"{match[0]}: a measure that was not given")


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower())) - {"a", "an", "the", "in", "of", "and", "it", "is"}


def _checked_answer(reply: Reply, exchange: Exchange) -> str:
    """Of a closed question yes or no alone; of an open one the reply's words, which hold the annotation's."""
    closed = bool(_CLOSED_QUESTION.match(reply.question.lower()))
    if closed != (exchange.answer_type == "CLOSED"):
        raise _contradicts(f"expected a question of type {exchange.answer_type}, got {reply.question!r}")
    if closed:
        if not re.match(rf"{exchange.answer}\b", reply.answer, re.IGNORECASE):
            raise _contradicts(f"expected the answer {exchange.answer}, got {reply.answer!r}")
        return exchange.answer
    if not _words(exchange.answer) <= _words(reply.answer):
        raise _contradicts(f"expected the answer {exchange.answer!r}, got {reply.answer!r}")
    return reply.answer
