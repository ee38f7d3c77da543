"""What a teacher is asked: the annotation as given facts, and the form of the reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medclm.questions import phrasings, places
from medclm.questions.exchange import Exchange
from medclm.questions.nouns import BACKGROUND, host_name, spoken

if TYPE_CHECKING:
    from medclm.linking import LinkedCase

VERSION = 1  # of the wording: part of the cache's key
DECIMALS = 4

_AIM = {
    "what": "which abnormality it is",
    "where": "where the abnormality lies",
    "is_there": "whether the abnormality is present (a question that is answered by yes or no)",
    "how_many": "how many of them there are",
    "which_organ": "which organ or structure it lies in",
}
_FORM = (
    "Reply with one line and nothing else, in this form:\n"
    "Question: <the question> | Reasoning: <the steps> | Answer: <a few words>\n"
    "Do not use the sign | anywhere else."
)


def plain_box(box: tuple[float, float, float, float], width: int, height: int) -> str:
    """Of an image's width and height: "[0.2760, 0.4500, 0.6610, 0.5990]"."""
    x1, y1, x2, y2 = box
    numbers = (x1 / width, y1 / height, x2 / width, y2 / height)
    return "[" + ", ".join(f"{number:.{DECIMALS}f}" for number in numbers) + "]"


def prompt_text(exchange: Exchange, linked: LinkedCase, spacing: tuple[float, float] | None) -> str:
    """For the easy and the medium stage; the width and height of ``linked.case`` are known."""
    case = linked.case
    image = phrasings.IMAGES[case.modality]
    facts = [f"What an expert marked in this {image}: {exchange.seed_text}"]
    for index in exchange.about:
        lesion, link = case.lesions[index], linked.links[index]
        where = "" if link.organ == BACKGROUND else f", organ or structure: {host_name(link)}"
        size = places.extent(lesion.box, case.modality, spacing)
        facts.append(
            f"- {spoken(lesion.label)}{where}, box [xmin, ymin, xmax, ymax] in parts of the width and the height: "
            f"{plain_box(lesion.box, case.width, case.height)}" + (f", box of {size}" if size else "")
        )
    if exchange.stage == "easy":
        subject = "the region that is highlighted by the drawn box"
        boxes = "take it step by step from the anatomy to the finding and repeat every box above exactly as it is given"
    elif exchange.about:
        subject = "the whole image, in which nothing is highlighted"
        boxes = "take it step by step from the anatomy to the finding, and name every box above exactly as it is given"
    else:
        subject = "the whole image, in which nothing is highlighted"
        boxes = "say what was looked for and that it is not there; give no box"
    return "\n".join(
        [
            *facts,
            f"Write a diagnostic question about {subject}. It asks {_AIM[exchange.kind]}; it holds no coordinates.",
            f"Then write the reasoning that leads to the answer: {boxes}. Use only the facts above: no other finding, "
            "no other organ, no side and no measure that is not given.",
            f"Then write the short answer. Its content must be: {exchange.answer}",
            _FORM,
        ]
    )
