"""Reasoning out of the annotation, step by step: organ, region of the image, box, appearance, conclusion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medclm.questions import phrasings, places
from medclm.questions.choice import pick
from medclm.questions.nouns import spoken

if TYPE_CHECKING:
    from medclm.linking import LinkedCase


def steps(
    linked: LinkedCase,
    index: int,  # of the lesion
    *,
    subject: str,  # what it is called before it is named: "highlighted region"
    spacing: tuple[float, float] | None,  # mm a pixel (x, y)
    key: str,
) -> str:
    """Organ -> region of the image -> box (as ``<box:i>``) -> appearance. A step that nothing is known about is left
    out; the box never is."""
    case, lesion = linked.case, linked.case.lesions[index]
    key = f"{key}:{index}"
    said = []

    organ = places.in_organ(linked, index)
    if organ is not None:
        said.append(pick(phrasings.ORGAN_STEPS, key, "organ").format(subject=subject, place=organ))
    region = places.in_image(linked, index)
    if region is not None:
        options = phrasings.REGION_STEPS if said else phrasings.FIRST_REGION_STEPS
        said.append(pick(options, key, "region").format(subject=subject, place=region))
    options = phrasings.BOX_STEPS if said else phrasings.FIRST_BOX_STEPS
    said.append(pick(options, key, "box").format(subject=subject, box=f"<box:{index}>"))

    size, shape = places.extent(lesion.box, case.modality, spacing), places.proportions(lesion.box)
    measured = [f"measures about {size}"] if size else []
    measured += [f"is {shape}"] if shape else []
    if measured:
        said.append(f"The box {' and '.join(measured)}.")
    if looks := places.looks(lesion):
        said.append(f"Its appearance: {', '.join(looks)}.")
    return " ".join(said)


def present(
    linked: LinkedCase,
    about: tuple[int, ...],
    *,
    name: bool,  # call each finding by its label (the question asks for something else)
    marked: bool,  # boxes are drawn
    spacing: tuple[float, float] | None,
    conclusion: str,
    key: str,
) -> str:
    """The steps of every lesion that is asked about, and what follows."""

    def subject(index: int) -> str:
        if name:
            return spoken(linked.case.lesions[index].label)
        return "highlighted region" if marked else "abnormal region"

    paragraphs = [steps(linked, index, subject=subject(index), spacing=spacing, key=key) for index in about]
    if len(paragraphs) > 1:
        paragraphs = [f"({number}) {text}" for number, text in enumerate(paragraphs, 1)]
    return " ".join([*paragraphs, conclusion])


def absent(label: str, key: str) -> str:
    """Of a label that was looked for in the image and not found."""
    return pick(phrasings.ABSENT_STEPS, key, "absent").format(label=spoken(label))
