"""Boxes: half-open float pixels (x1, y1, x2, y2) of one image, x to the right, y down.

Pixel (column, row) covers [column, column + 1) x [row, row + 1): the box of a mask ends one behind its last pixel, and
x2 - x1 is a width. Every format is turned into this when it is read and out of it when it is exported.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Box = tuple[float, float, float, float]


def from_xywh(x: float, y: float, width: float, height: float) -> Box:
    """COCO, RSNA and NIH: a corner and a size."""
    return (float(x), float(y), float(x) + float(width), float(y) + float(height))


def from_mask(mask: np.ndarray) -> Box:  # bool [H, W], not empty
    """The smallest box around the pixels that are set."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def area(box: Box) -> float:
    """In pixels; 0 where the box has no inside."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def intersection(a: Box, b: Box) -> Box:
    """May have no inside: its :func:`area` is then 0."""
    return (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))


def iou(a: Box, b: Box) -> float:
    """Area of the intersection over that of the union; 0 where both are empty."""
    common = area(intersection(a, b))
    union = area(a) + area(b) - common
    return common / union if union > 0.0 else 0.0


def clip(box: Box, width: int, height: int) -> Box:
    """The part inside an image; may have no inside."""
    return intersection(box, (0.0, 0.0, float(width), float(height)))


def scale(box: Box, from_size: tuple[int, int], to_size: tuple[int, int]) -> Box:
    """Of an image of (width, height) that is resized to another."""
    x, y = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return (box[0] * x, box[1] * y, box[2] * x, box[3] * y)


def union(boxes: Iterable[Box]) -> Box:
    """The smallest box around all of them."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return (min(left), min(top), max(right), max(bottom))
