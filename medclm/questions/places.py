"""Where a box is and how big, in words that the annotation bears out."""

from __future__ import annotations

from medclm.boxes import Box
from medclm.cases import Case, Lesion
from medclm.questions.nouns import BACKGROUND, side_of_organ, the_organ

# Planes through the body. A projection magnifies by an unknown factor: no millimetres from it.
SECTIONS = ("CT", "MR", "PET")
PROJECTIONS = ("XR",)
# What a source may say of a finding's look; diagnoses and grades are not looks.
APPEARANCE = ("shape", "margin", "texture", "density", "calcification", "composition", "echogenicity", "colour")


def third(low: float, high: float, length: float) -> int:
    """0, 1 or 2: the third of [0, length) in which the middle of [low, high) is."""
    return min(max(int(3 * (low + high) / 2 / length), 0), 2)


def in_image(box: Box, case: Case, host: str, laterality_verified: bool) -> str | None:
    """ "in the upper third of the image". The patient's side is named only where the columns are known to run from the
    patient's right to the left, and the host's own name does not name one. None: the image's size is not known."""
    if case.width is None or case.height is None:
        return None
    row = ("upper", "middle", "lower")[third(box[1], box[3], case.height)]
    words = f"in the {row} third of the image"
    if laterality_verified and side_of_organ(host) is None:
        column = third(box[0], box[2], case.width)
        words += (", towards the patient's right", ", in the middle from side to side", ", towards the patient's left")[
            column
        ]
    return words


def in_organ(host: str, modality: str) -> str | None:
    """ "in the left lung"; on a projection "projecting over the left lung". None: no host."""
    if host == BACKGROUND:
        return None
    return f"{'projecting over' if modality in PROJECTIONS else 'in'} {the_organ(host)}"


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
