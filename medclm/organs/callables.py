"""Any function as a source of organ masks: a segmenter of one's own, MedSAM, a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medclm.organs.names import collect
from medclm.organs.source import OrganError
from medclm.problems import Reason

if TYPE_CHECKING:
    from medclm.cases import Case
    from medclm.images.picture import Picture


@dataclass(frozen=True)
class FromCallable:
    """function: pixels, uint8 [H, W] or [H, W, 3] -> {organ name: mask [H, W], set where it is not 0}."""

    function: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    name: str = "callable"

    def masks(self, case: Case, picture: Picture) -> dict[str, np.ndarray]:
        found = {name: np.asarray(mask) != 0 for name, mask in self.function(picture.pixels).items()}
        for name, mask in found.items():
            if mask.shape != picture.pixels.shape[:2]:
                raise OrganError(
                    Reason.MASK_GRID,
                    f"{self.name}: {name}: expected {picture.pixels.shape[:2]}, got {mask.shape}",
                )
        return collect(found)
