"""Boxes as sources write them: four values become a checked, clipped :data:`medclm.boxes.Box`, or a counted problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from medclm import boxes
from medclm.boxes import Box
from medclm.problems import Problems, Reason


def numbers(values: Sequence[Any]) -> tuple[float, ...] | None:
    """All of them as finite floats; None where one is not. A truth value is no number."""
    try:
        found = tuple(float(value) for value in values if not isinstance(value, bool))
    except (TypeError, ValueError, OverflowError):
        return None
    return found if len(found) == len(values) and all(map(math.isfinite, found)) else None


def size_of(width: object, height: object) -> tuple[int, int] | None:
    """(width, height) in whole pixels, both positive; None where they are anything else."""
    found = numbers((width, height))
    if found is None or any(value < 1 or value != int(value) for value in found):
        return None
    return int(found[0]), int(found[1])


def read_box(
    values: object,  # four numbers, or texts of numbers: x1, y1, x2, y2, or with xywh a corner, width, height
    where: str,
    problems: Problems,
    *,
    size: tuple[int, int] | None,  # (width, height) of the image
    xywh: bool = False,
) -> Box | None:
    """The part of the box inside the image. Where the size is unknown, only what lies left of it or above is cut.

    None, with one problem counted, for what is not four numbers, has no area, or lies outside.
    """
    found = numbers(values) if isinstance(values, Sequence) and not isinstance(values, str) else None
    if found is None or len(found) != 4:
        problems.add(Reason.BOX_MALFORMED, f"{where}: expected four numbers, got {values!r}")
        return None
    box: Box = boxes.from_xywh(*found) if xywh else (found[0], found[1], found[2], found[3])
    if boxes.area(box) <= 0.0:
        problems.add(Reason.BOX_EMPTY, f"{where}: {_text(box)}")
        return None
    limits = (0.0, 0.0, math.inf, math.inf) if size is None else (0.0, 0.0, float(size[0]), float(size[1]))
    inside = boxes.intersection(box, limits)
    if boxes.area(inside) <= 0.0:
        image = "" if size is None else f" of an image of {size[0]} x {size[1]}"
        problems.add(Reason.BOX_OUTSIDE, f"{where}: {_text(box)}{image}")
        return None
    return inside


def _text(box: Box) -> str:
    return "box " + ", ".join(f"{value:g}" for value in box)
