"""Where a box is and how big, in words that the annotation bears out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medclm.boxes import Box
from medclm.cases import Lesion
from medclm.questions.nouns import BACKGROUND, host_name

if TYPE_CHECKING:
    from medclm.linking import LinkedCase

# Planes through the body. A projection magnifies by an unknown factor: no millimetres from it.
SECTIONS = ("CT", "MR", "PET")
PROJECTIONS = ("XR",)
_SIDES = ("towards the patient's right", "in the middle from side to side", "towards the patient's left")
# What a source may say of a finding's look; diagnoses and grades are not looks.
APPEARANCE = ("shape", "margin", "texture", "density", "calcification", "composition", "echogenicity", "colour")


def third(low: float, high: float, length: float) -> int:
    """0, 1 or 2: the third of [0, length) in which the middle of [low, high) is."""
    return min(max(int(3 * (low + high) / 2 / length), 0), 2)


def in_image(linked: LinkedCase, index: int) -> str | None:
    """Of a lesion: "in the upper third of the image". The patient's side is named only where the columns are known to
    run from the patient's right to the left, and the host does not have one. None: the image's size is not known."""
    case, box = linked.case, linked.case.lesions[index].box
    if case.width is None or case.height is None:
        return None
    row = ("upper", "middle", "lower")[third(box[1], box[3], case.height)]
    words = f"in the {row} third of the image"
    if linked.laterality_verified and linked.links[index].side is None:
        column = third(box[0], box[2], case.width)
        words += f", {_SIDES[column]}"
    return words


def in_organ(linked: LinkedCase, index: int) -> str | None:
    """Of a lesion: "in the left lung"; on a projection "projecting over the left lung". None: no host."""
    link = linked.links[index]
    if link.organ == BACKGROUND:
        return None
    return f"{'projecting over' if linked.case.modality in PROJECTIONS else 'in'} the {host_name(link)}"


def extent(box: Box, modality: str, spacing: tuple[float, float] | None) -> str | None:
    """Of the box: "14 x 12 mm", from ``spacing`` (x, y) in mm a pixel. None where that is not known or not true."""
    if spacing is None or modality not in SECTIONS:
        return None
    width, height = (box[2] - box[0]) * spacing[0], (box[3] - box[1]) * spacing[1]
    return f"{_number(width)} x {_number(height)} mm"


def proportions(box: Box) -> str | None:
    """Which way the box is longer, where that is clear (by half)."""
    width, height = box[2] - box[0], box[3] - box[1]
    if width >= 1.5 * height:
        return "wider than tall"
    return "taller than wide" if height >= 1.5 * width else None


def looks(lesion: Lesion) -> list[str]:
    """ "margin: spiculated", where the source says it in words."""
    named = {name.lower(): value.strip() for name, value in lesion.attributes.items()}
    return [f"{name}: {named[name].lower()}" for name in APPEARANCE if named.get(name, "").isalpha()]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
