"""A mask that is one bit of a picture of bits: unpacked where it is looked at, and no further."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Layer:
    """Stands for bool [H, W]: what a link of a lesion and an organ needs of that, which is a window of every mask and
    the whole of one or two. A film has a dozen masks, and to unpack them all takes longer than all that is asked of
    them.

    bits  uint16 [H, W]
    bit   0 .. 15
    """

    bits: np.ndarray
    bit: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.bits.shape

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        return (self.bits[window] & np.uint16(1 << self.bit)) != 0

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:, :] if dtype is None else self[:, :].astype(dtype, copy=False)


def layers(bits: np.ndarray, names: list[str]) -> dict[str, Layer]:
    """names: of the bits, from the lowest. Without those that no pixel has."""
    present = int(np.bitwise_or.reduce(bits, axis=None))
    return {name: Layer(bits, bit) for bit, name in enumerate(names) if present >> bit & 1}
