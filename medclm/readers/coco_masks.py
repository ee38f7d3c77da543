"""COCO segmentations as :class:`medclm.regions.Region`: polygons, run lengths as lists and as compressed text.

COCO's run lengths go down the columns. pycocotools decodes them; what it would read past the end of, or take for a box
(a polygon of four numbers), is refused before.
"""

from __future__ import annotations

import numpy as np

from medclm.readers.box_values import numbers
from medclm.regions import Region

MOST_PIXELS = 1 << 28  # a byte each while a mask is decoded


def region_of(segmentation: object, width: int, height: int) -> Region:
    """Raises ValueError, saying what is wrong, where it is no segmentation of an image of this size."""
    from pycocotools import mask as codec

    if width * height > MOST_PIXELS:
        raise ValueError(f"expected an image of up to {MOST_PIXELS} pixels, got {width} x {height}")
    if isinstance(segmentation, list):
        pieces = codec.frPyObjects([_polygon(points, width, height) for points in segmentation], height, width)
        encoded = codec.merge(pieces)
    elif isinstance(segmentation, dict):
        encoded = _run_lengths(segmentation, width, height)
    else:
        raise ValueError(f"expected polygons or run lengths, got {type(segmentation).__name__}")
    mask = codec.decode(encoded).astype(bool)  # [H, W]
    if not mask.any():
        raise ValueError("expected pixels that are set, got none")
    return Region.of(np.ascontiguousarray(mask))


def _polygon(points: object, width: int, height: int) -> list[float]:
    found = numbers(points) if isinstance(points, list) else None
    if found is None or len(found) < 6 or len(found) % 2:
        raise ValueError(f"expected a polygon of three or more points, got {str(points)[:60]}")
    # Its outline is walked pixel by pixel: one wild coordinate would take all memory.
    if any(abs(value) > 4 * max(width, height) for value in found):
        raise ValueError(f"expected a polygon in an image of {width} x {height}, got {str(points)[:60]}")
    return list(found)


def _run_lengths(segmentation: dict, width: int, height: int) -> dict:
    from pycocotools import mask as codec

    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(f"expected run lengths of size {[height, width]}, got {size!r}")
    if isinstance(counts, list):
        if any(type(run) is not int or run < 0 for run in counts) or sum(counts) != height * width:
            raise ValueError(f"expected runs of {height * width} pixels in all, got {str(counts)[:60]}")
        return codec.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if not isinstance(counts, str) or not counts.isascii():
        raise ValueError(f"expected counts as a list or as text, got {str(counts)[:60]!r}")
    encoded = counts.encode()
    if _fits(encoded, height * width - 1) or not _fits(encoded, height * width):
        raise ValueError(f"expected compressed runs of {height * width} pixels in all, got {counts[:60]!r}")
    return {"size": [height, width], "counts": encoded}


def _fits(counts: bytes, pixels: int) -> bool:
    """Whether the runs cover no more than that many pixels; the codec checks this alone: fewer leave memory unset."""
    from pycocotools import mask as codec

    try:
        codec.decode({"size": [pixels, 1], "counts": counts})
    except ValueError:
        return False
    return True
