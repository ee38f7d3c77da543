"""The masks that :mod:`medclm.phantom` drew: one 16-bit PNG an image, one bit an organ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from medclm.organs.layers import layers
from medclm.organs.names import canonical, collect
from medclm.organs.placement import find, fit
from medclm.organs.source import Mask, OrganError
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

    def masks(self, case: Case, picture: Picture) -> Mapping[str, Mask]:
        path = find(case, self.root, (".png",))
        try:
            with Image.open(path) as image:
                names = image.info[NAMES_KEY].split(NAMES_SEPARATOR)
                bits = np.asarray(image, dtype=np.uint16)
            if bits.ndim != 2:
                raise ValueError(f"expected one value a pixel, got {bits.shape[2]}")
        except (OSError, ValueError, KeyError, UnidentifiedImageError) as error:
            raise OrganError(Reason.MASK_UNREADABLE, f"{path.name}: {error!r}") from error
        what, shape, found = path.name, picture.pixels.shape[:2], layers(bits, names)
        if bits.shape == shape and all(canonical(name) == name for name in found):
            return found
        return collect({name: fit(np.asarray(mask), shape, what) for name, mask in found.items()})
