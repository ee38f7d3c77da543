"""Volumes of labels in the one orientation: array [z, y, x], axes Superior, Posterior, Left increasing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

_TOLERANCE = 1e-2  # mm: what float32 headers and a resampled copy differ by


@dataclass(frozen=True)
class Grid:
    """shape [z, y, x]; affine: (x, y, z, 1) of a voxel -> millimetres."""

    shape: tuple[int, int, int]
    affine: np.ndarray  # float64 [4, 4]

    def same_as(self, other: Grid) -> bool:
        return self.shape == other.shape and np.allclose(self.affine, other.affine, rtol=0.0, atol=_TOLERANCE)


def read_volume(path: Path) -> tuple[np.ndarray, Grid]:
    """Raises OSError or ValueError where it is no NIfTI volume."""
    import nibabel
    from nibabel import orientations
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nibabel.load(path)
    except ImageFileError as error:
        raise ValueError(str(error)) from error
    if len(image.shape) != 3:
        raise ValueError(f"expected a volume of three axes, got {image.shape}")
    turn = orientations.ornt_transform(
        orientations.io_orientation(image.affine), orientations.axcodes2ornt(("L", "P", "S"))
    )
    turned = image.as_reoriented(turn)
    array = np.asanyarray(turned.dataobj).transpose(2, 1, 0)  # [x, y, z] -> [z, y, x]
    return array, Grid(array.shape, turned.affine)
