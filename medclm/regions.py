"""Binary masks as run lengths: row-major, from the top left, alternating runs of unset and set pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Region:
    """A mask [height, width]; the first run counts unset pixels and may be 0. Formats with other conventions (COCO:
    column-major; CheXmask and Kaggle: 1-based starts) are turned into this when they are read."""

    width: int
    height: int
    runs: tuple[int, ...]

    @classmethod
    def of(cls, mask: np.ndarray) -> Region:  # bool [H, W]
        flat = np.asarray(mask, bool).ravel()
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        runs = np.diff(changes, prepend=0, append=flat.size).tolist()
        return cls(mask.shape[1], mask.shape[0], (0, *runs) if flat[:1].any() else tuple(runs))

    def mask(self) -> np.ndarray:  # bool [H, W]
        if sum(self.runs) != self.width * self.height:
            raise ValueError(
                f"region: expected runs of {self.width} x {self.height} pixels, got {sum(self.runs)} pixels"
            )
        values = np.arange(len(self.runs)) % 2 == 1
        return np.repeat(values, self.runs).reshape(self.height, self.width)

    def encode(self) -> str:
        """As text: width, height, runs; separated by blanks."""
        return " ".join(map(str, (self.width, self.height, *self.runs)))

    @classmethod
    def decode(cls, text: str) -> Region:
        width, height, *runs = map(int, text.split())
        return cls(width, height, tuple(runs))
