"""The questions of one case, in three stages, out of its annotation alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medclm.questions import phrasings, places, reasoning
from medclm.questions.choice import pick
from medclm.questions.exchange import TEMPLATE, Exchange
from medclm.questions.nouns import (
    BACKGROUND,
    counted,
    host_name,
    is_plural,
    listed,
    plural,
    spoken,
    with_article,
)
from medclm.questions.seed import labels_listed, no_seed_text, seed_text
from medclm.schema import KINDS, STAGES

if TYPE_CHECKING:
    from medclm.linking import LinkedCase


@dataclass(frozen=True)
class QuestionSettings:
    """Which questions are asked.

    kinds, stages    of medclm.schema.KINDS and STAGES
    most_boxes       in one reasoning; a question that needs more is not asked
    partial_sources  whose annotation is known to leave findings of an image unmarked: nothing is counted in their
                     images and no complete list of findings is asked for
    """

    kinds: tuple[str, ...] = KINDS
    stages: tuple[str, ...] = STAGES
    most_boxes: int = 12
    partial_sources: tuple[str, ...] = ("deeplesion", "nih")

    def __post_init__(self) -> None:
        for name, values, known in (("kinds", self.kinds, KINDS), ("stages", self.stages, STAGES)):
            if unknown := set(values) - set(known):
                raise ValueError(f"{name}: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
        if self.most_boxes < 1:
            raise ValueError(f"most_boxes: expected at least 1, got {self.most_boxes}")

    def partial(self, source: str) -> bool:
        return source.lower().replace("-", "").replace("_", "").startswith(self.partial_sources)


@dataclass(frozen=True)
class _Asked:
    """What is asked about one case: the same for its stages with reasoning."""

    about: tuple[int, ...]
    answer: str
    conclusion: str
    label: str
    wording: str  # a key of phrasings.WHOLE
    present: bool = True


def exchanges(
    linked: LinkedCase,
    partner: LinkedCase | None,  # another image of the same domain, for the hard stage; None: no hard stage
    settings: QuestionSettings,
    *,
    spacing: tuple[float, float] | None = None,  # mm a pixel (x, y) of the grid that the boxes are on
) -> list[Exchange]:
    """At most one of each kind and stage, in the order of STAGES and KINDS. Equal arguments give equal exchanges.

    A "no" is asked only for a label of ``case.absent``. Sides of the patient come from an organ's name, or from the
    image where ``linked.laterality_verified``. The width and height of ``linked.case`` should be known: without them
    no region of the image is named.
    """
    made = []
    for stage in STAGES:
        if stage not in settings.stages or (stage == "hard" and partner is None):
            continue
        subject = partner if stage == "hard" else linked
        shared = {lesion.label for lesion in linked.case.lesions} if stage == "hard" else None
        for kind in KINDS:
            if kind not in settings.kinds:
                continue
            asked = _asked(subject, kind, marked=stage == "easy", shared=shared, settings=settings)
            if asked is not None:
                made.append(_exchange(subject, stage, kind, asked, spacing, linked.case.id))
    return made


def _exchange(
    subject: LinkedCase,
    stage: str,
    kind: str,
    asked: _Asked,
    spacing: tuple[float, float] | None,
    case_id: str,
) -> Exchange:
    case, marked = subject.case, stage == "easy"
    key = f"{case_id}:{stage}:{kind}"
    labels = [case.lesions[index].label for index in asked.about]
    if asked.present:
        seed = seed_text(labels, [host_name(subject.links[index]) for index in asked.about])
    else:
        seed = no_seed_text(asked.label)
    cot = ""
    if stage != "hard" and asked.about:
        named = kind not in ("what", "is_there")
        cot = reasoning.present(
            subject, asked.about, name=named, marked=marked, spacing=spacing, conclusion=asked.conclusion, key=key
        )
    elif stage != "hard":
        cot = f"{reasoning.absent(asked.label, key)} {asked.conclusion}"
    noun = spoken(asked.label)
    several = kind in ("where", "which_organ") and len(asked.about) > 1
    verb = "are" if several or is_plural(noun) else "is"
    question = pick(phrasings.MARKED[kind] if marked else phrasings.WHOLE[asked.wording], key, "question").format(
        finding=plural(noun) if several else with_article(noun),
        label=plural(noun) if several else noun,
        plural=plural(noun),
        image=phrasings.IMAGES[case.modality],
        is_=verb,
        Is_=verb.capitalize(),
    )
    return Exchange(
        stage=stage,
        kind=kind,
        seed_text=seed,
        question=question,
        cot=cot,
        answer=asked.answer,
        answer_type="CLOSED" if kind == "is_there" else "OPEN",
        cot_source="" if stage == "hard" else TEMPLATE,
        about=asked.about,
    )


def _asked(
    linked: LinkedCase, kind: str, *, marked: bool, shared: set[str] | None, settings: QuestionSettings
) -> _Asked | None:
    case = linked.case
    labels = list(dict.fromkeys(lesion.label for lesion in case.lesions))
    if shared is not None:
        labels = [label for label in labels if label in shared] or labels
    labels = [label for label in labels if not _vague(label)] or labels
    present = {lesion.label for lesion in case.lesions}
    absent = [label for label in case.absent if label not in present and not _vague(label)]
    if kind == "is_there" and absent and not (labels and pick((True, False), case.id, kind, "present")):
        return _not_there(linked, pick(absent, case.id, kind), pick(labels, case.id, kind) if labels else None, marked)
    if not labels:
        return None
    label = pick(labels, case.id, kind)
    of_label = tuple(index for index, lesion in enumerate(case.lesions) if lesion.label == label)
    asked = _KINDS[kind](linked, label, of_label, marked, settings.partial(case.source))
    return asked if asked is not None and len(asked.about) <= settings.most_boxes else None


def _vague(label: str) -> bool:
    """ "other lesion": other than what a list of labels holds, which the question does not tell."""
    return label.startswith("other ")


def _not_there(linked: LinkedCase, label: str, other: str | None, marked: bool) -> _Asked | None:
    """Marked: of the box of ``other`` it is asked whether it is a ``label``, which the image does not have at all."""
    noun = spoken(label)
    conclusion = f"So there {'are' if is_plural(noun) else 'is'} no {noun}."
    if not marked:
        return _Asked((), "No", conclusion, label, "is_there", present=False)
    if other is None:
        return None
    index = next(i for i, lesion in enumerate(linked.case.lesions) if lesion.label == other)
    conclusion = f"The finding in the box is {with_article(spoken(other))}, not {with_article(noun)}."
    return _Asked((index,), "No", conclusion, label, "is_there", present=False)


def _what(linked: LinkedCase, label: str, of_label: tuple[int, ...], marked: bool, partial: bool) -> _Asked:
    case = linked.case
    if marked or partial:
        index = pick(of_label, case.id, "what")
        return _Asked((index,), spoken(label), f"So the finding is {with_article(spoken(label))}.", label, "one_of")
    found = labels_listed([lesion.label for lesion in case.lesions])
    plain = [with_article(spoken(each)) for each in dict.fromkeys(lesion.label for lesion in case.lesions)]
    return _Asked(tuple(range(len(case.lesions))), found, f"So the image shows {listed(plain)}.", label, "what")


def _where(linked: LinkedCase, label: str, of_label: tuple[int, ...], marked: bool, partial: bool) -> _Asked | None:
    if marked:
        of_label = (pick(of_label, linked.case.id, "where"),)
    spots = list(dict.fromkeys(_place(linked, index) for index in of_label))
    if None in spots or len(spots) > 3:
        return None
    noun = spoken(label) if len(of_label) == 1 else plural(spoken(label))
    verb = "are" if is_plural(noun) or len(of_label) > 1 else "is"
    return _Asked(of_label, "; ".join(spots), f"So the {noun} {verb} {listed(spots)}.", label, "where")


def _place(linked: LinkedCase, index: int) -> str | None:
    parts = (places.in_organ(linked, index), places.in_image(linked, index))
    return ", ".join(part for part in parts if part is not None) or None


def _is_there(linked: LinkedCase, label: str, of_label: tuple[int, ...], marked: bool, partial: bool) -> _Asked:
    if marked:
        of_label = (pick(of_label, linked.case.id, "is_there"),)
    noun = spoken(label)
    conclusion = f"So there {'are' if is_plural(noun) else 'is'} {with_article(noun)}."
    return _Asked(of_label, "Yes", conclusion, label, "is_there")


def _how_many(linked: LinkedCase, label: str, of_label: tuple[int, ...], marked: bool, partial: bool) -> _Asked | None:
    crowd = any(linked.case.lesions[index].attributes.get("iscrowd") == "1" for index in of_label)
    if crowd or (partial and not marked):
        return None  # a crowd is one region around several, of which nobody counted them
    conclusion = f"In all, {counted(spoken(label), len(of_label))}."
    return _Asked(of_label, str(len(of_label)), conclusion, label, "how_many")


def _which_organ(
    linked: LinkedCase, label: str, of_label: tuple[int, ...], marked: bool, partial: bool
) -> _Asked | None:
    if marked:
        of_label = (pick(of_label, linked.case.id, "which_organ"),)
    hosts = list(dict.fromkeys(host_name(linked.links[index]) for index in of_label))
    if BACKGROUND in hosts:
        return None
    named = listed([f"the {host}" for host in hosts])
    conclusion = f"So the organ or structure is {named}." if len(hosts) == 1 else f"So the organs are {named}."
    return _Asked(of_label, listed(hosts), conclusion, label, "which_organ")


_KINDS: dict[str, Callable[..., _Asked | None]] = {
    "what": _what,
    "where": _where,
    "is_there": _is_there,
    "how_many": _how_many,
    "which_organ": _which_organ,
}
