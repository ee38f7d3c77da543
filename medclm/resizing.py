"""A case and its picture, brought to the size in which they are stored."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from medclm import boxes
from medclm.cases import Case, Lesion
from medclm.problems import Problems, Reason
from medclm.regions import Region

if TYPE_CHECKING:
    from medclm.images.picture import Picture
    from medclm.organs.source import Mask


def stored_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """(width, height) with the longest side at most max_side, in the same proportion."""
    longest = max(width, height)
    if longest <= max_side:
        return width, height
    return max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest))


def resize_picture(picture: Picture, size: tuple[int, int]) -> Picture:
    """Antialiased; spacing follows. The same object where the size is the picture's own."""
    height, width = picture.pixels.shape[:2]
    if (width, height) == size:
        return picture
    # Large films: whole-number reduction first, then the antialiased filter on what is left.
    pixels = Image.fromarray(picture.pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    raw = picture.raw
    if raw is not None:
        raw = np.asarray(Image.fromarray(raw).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
    spacing = picture.spacing
    if spacing is not None:
        spacing = (spacing[0] * width / size[0], spacing[1] * height / size[1])
    return replace(picture, pixels=np.asarray(pixels), raw=raw, spacing=spacing)


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:  # bool [H, W] -> bool [height, width]
    """Nearest neighbour; the same object where the size is the mask's own."""
    if (mask.shape[1], mask.shape[0]) == size:
        return mask
    return np.asarray(Image.fromarray(np.asarray(mask)).resize(size, Image.Resampling.NEAREST))


def resize_region(region: Region, size: tuple[int, int]) -> Region | None:
    """As its mask; None where nothing is left of it."""
    if (region.width, region.height) == size:
        return region
    mask = np.asarray(resize_mask(region.mask(), size))
    return Region.of(mask) if mask.any() else None


def resize_case(case: Case, original: tuple[int, int], size: tuple[int, int], problems: Problems) -> Case:
    """Lesions clipped to the original image, then scaled; those without an inside are counted and left out."""
    width, height = original
    kept = []
    for lesion in case.lesions:
        box = boxes.clip(lesion.box, width, height)
        if boxes.area(box) > 0.0:
            kept.append(_resize_lesion(replace(lesion, box=box), original, size))
            continue
        reason = Reason.BOX_OUTSIDE if boxes.area(lesion.box) > 0.0 else Reason.BOX_EMPTY
        problems.add(reason, f"{case.source} {case.id}: {lesion.label} {lesion.box} in {width} x {height}")
    return replace(case, lesions=tuple(kept), width=size[0], height=size[1])


def _resize_lesion(lesion: Lesion, original: tuple[int, int], size: tuple[int, int]) -> Lesion:
    if original == size:
        return lesion
    region = None if lesion.region is None else resize_region(lesion.region, size)
    return replace(lesion, box=boxes.scale(lesion.box, original, size), region=region)
