"""Where the masks of a case lie, and how a mask gets onto the grid of its picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from medclm.organs.source import OrganError
from medclm.problems import Reason

if TYPE_CHECKING:
    from medclm.cases import Case

_DOUBLE_SUFFIXES = (".nii.gz",)
ASPECT_TOLERANCE = 0.02  # of width over height: what rounding to whole pixels makes


def stem(path: Path) -> str:
    """The file's name without its suffix; ``.nii.gz`` is one."""
    for suffix in _DOUBLE_SUFFIXES:
        if path.name.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def find(case: Case, root: Path | None, suffixes: tuple[str, ...]) -> Path:
    """``case.organs`` (below ``root`` where that is given), else ``root`` / the image's stem + one of ``suffixes``, of
    which "" is a folder's. Raises OrganError where there is none."""
    if case.organs is not None:
        tried = [(root / case.organs) if root is not None else Path(case.organs)]
    elif root is not None:
        tried = [root / f"{stem(case.image_path())}{suffix}" for suffix in suffixes]
    else:
        raise OrganError(Reason.MASK_MISSING, "the case names no masks, and the organ source was given no folder")
    for path in tried:
        if path.exists():
            return path
    raise OrganError(Reason.MASK_MISSING, f"expected one of {', '.join(path.name for path in tried)}")


def fit(mask: np.ndarray, shape: tuple[int, int], what: str) -> np.ndarray:
    """bool [h, w] -> bool [H, W]: the picture may have been resized, not cropped. Raises OrganError where the two
    differ in aspect; ``what`` names the file."""
    a, b = mask.shape[1] / mask.shape[0], shape[1] / shape[0]
    if abs(a - b) > ASPECT_TOLERANCE * max(a, b):
        raise OrganError(Reason.MASK_GRID, f"{what}: masks {list(mask.shape)} for a picture {list(shape)}")
    return resize(mask, shape)


def resize(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """bool [h, w] -> bool [H, W], nearest neighbour by pixel centres."""
    if mask.shape == shape:
        return mask
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((shape[1], shape[0]), Image.Resampling.NEAREST)) > 0
