"""Example cards: an image with the boxes of the annotation and of the reply."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from medclm.boxes import Box, scale
from medclm.drawing import draw_boxes, thickness

TRUE_COLOUR, WRITTEN_COLOUR = (0, 255, 0), (255, 60, 60)
SHORTEST = 320  # pixels: small images are enlarged, so that frames stay thin


def card(file: Path, size: tuple[int, int], row: Mapping) -> Image.Image:
    """The image with the true boxes in green and those of the reply in red. size: of the image whose pixels the boxes
    count."""
    with Image.open(file) as stored:
        image = stored.convert("RGB")
    factor = max(1, -(-SHORTEST // max(image.size)))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    line = thickness(*image.size)
    for boxes, colour in ((row["true_boxes"], TRUE_COLOUR), (row["boxes"], WRITTEN_COLOUR)):
        inside = [box for each in boxes if _has_inside(box := scale(tuple(each), size, image.size), image.size)]
        if inside:
            pixels = draw_boxes(pixels, inside, colour=colour, line=line)
    return Image.fromarray(pixels)


def _has_inside(box: Box, size: tuple[int, int]) -> bool:
    x1, y1, x2, y2 = box
    return min(x2, size[0]) > max(x1, 0) and min(y2, size[1]) > max(y1, 0)
