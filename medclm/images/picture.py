"""A picture as it is shown, beside the values it was made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medclm.problems import Reason


class ImageError(ValueError):
    """An image that cannot be used: why, and what about it."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(f"{reason.value}: {what}")
        self.reason = reason
        self.what = what

    def __reduce__(self) -> tuple:
        return type(self), (self.reason, self.what)


@dataclass(frozen=True, eq=False)
class Picture:
    """One image.

    pixels      uint8 [H, W] or [H, W, 3], as a person looks at it
    raw         float32 [H, W]: the stored values after the modality LUT (Hounsfield units for CT); None where the file
                holds nothing beyond the pixels
    spacing     (x, y) mm between pixel centres, where the file says
    laterality_verified  the columns run from the patient's right to the left, known from a world axis
    modality    one of medclm.cases.MODALITIES, where the file says
    """

    pixels: np.ndarray
    raw: np.ndarray | None = None
    spacing: tuple[float, float] | None = None
    laterality_verified: bool = False
    modality: str | None = None
