"""Linked cases for tests."""

from __future__ import annotations

from medclm.boxes import Box
from medclm.cases import Case, ImageRef, Lesion
from medclm.linking import Link, LinkedCase


def side(organ: str) -> str | None:
    first = organ.split(" ")[0]
    return first if first in ("left", "right") else None


def linked_case(
    *found: tuple[str, Box, str],  # label, box, organ
    id: str = "case-1",
    source: str = "clinic",
    modality: str = "CT",
    absent: tuple[str, ...] = (),
    size: tuple[int, int] = (300, 300),
    verified: bool = False,
    licence: str = "CC0-1.0",
    attributes: dict[str, str] | None = None,
) -> LinkedCase:
    case = Case(
        id=id,
        source=source,
        patient="p",
        modality=modality,
        image=ImageRef("image.png"),
        lesions=tuple(Lesion(label, box, attributes=attributes or {}) for label, box, _ in found),
        absent=absent,
        width=size[0],
        height=size[1],
        licence=licence,
    )
    organs = tuple(organ for _, _, organ in found)
    return LinkedCase(case, tuple(Link(organ, 1.0, 0.5, 1.0, None, side(organ)) for organ in organs), verified)
