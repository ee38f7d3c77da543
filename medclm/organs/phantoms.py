"""The masks that :mod:`medclm.phantom` drew: one 16-bit PNG an image, one bit an organ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from medclm.organs.names import collect
from medclm.organs.placement import find, fit
from medclm.organs.source import OrganError
from medclm.problems import Reason

if TYPE_CHECKING:
    from medclm.cases import Case
    from medclm.images.picture import Picture

NAMES_KEY = "organs"  # text chunk of the PNG: the names of the bits, from the lowest, separated by NAMES_SEPARATOR
NAMES_SEPARATOR = "|"


@dataclass(frozen=True)
class Phantoms:
    """root: the phantoms' folder; None where ``case.organs`` is a whole path, as ``medclm.phantom.cases`` gives it."""

    root: Path | None = None
    name: str = "phantom"

    def masks(self, case: Case, picture: Picture) -> dict[str, np.ndarray]:
        path = find(case, self.root, (".png",))
        try:
            with Image.open(path) as image:
                names = image.info[NAMES_KEY].split(NAMES_SEPARATOR)
                bits = np.asarray(image, dtype=np.uint16)
            if bits.ndim != 2:
                raise ValueError(f"expected one value a pixel, got {bits.shape[2]}")
        except (OSError, ValueError, KeyError, UnidentifiedImageError) as error:
            raise OrganError(Reason.MASK_UNREADABLE, f"{path.name}: {error!r}") from error
        what, shape = path.name, picture.pixels.shape[:2]
        masks = _unpacked(bits, names)
        return collect({name: fit(mask, shape, what) for name, mask in masks.items()})


def _unpacked(bits: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:  # uint16 [H, W] -> bool [H, W], none empty
    """In bytes: a comparison of those is four times as fast as the conversion of words to bool."""
    present = int(np.bitwise_or.reduce(bits, axis=None))
    halves = bits.astype(np.uint8), (bits >> np.uint16(8)).astype(np.uint8)
    one = np.empty_like(halves[0])
    return {
        name: np.bitwise_and(halves[bit // 8], np.uint8(1 << bit % 8), out=one) != 0
        for bit, name in enumerate(names)
        if present >> bit & 1
    }
