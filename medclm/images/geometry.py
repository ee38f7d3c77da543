"""Where the voxels of a volume are: index to world and back, and the one orientation that everything is brought to.

World is LPS millimetres (DICOM, ITK): x grows to the patient's left, y to the back, z to the head. NIfTI's world is
RAS, turned into LPS when a file is read. The one orientation: array [z, y, x] whose axes grow to the head, the back and
the left. A slice is then what a radiologist looks at: the front is up, the patient's right is on the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SAME = 0.05  # of a voxel: headers round


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of a volume in the one orientation.

    size        (x, y, z) voxels
    affine      float64 [4, 4], index (x, y, z) of a voxel's centre to world LPS mm
    world_known the file says where the patient's axes are; False: the affine is a default
    """

    size: tuple[int, int, int]
    affine: np.ndarray
    world_known: bool

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(x, y, z) mm between voxel centres."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return (float(x), float(y), float(z))

    def world(self, index: np.ndarray) -> np.ndarray:  # [..., 3] (x, y, z) -> LPS mm [..., 3]
        return np.asarray(index, float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def index(self, world: np.ndarray) -> np.ndarray:  # LPS mm [..., 3] -> (x, y, z) [..., 3]
        """Continuous: a voxel's centre is whole numbers. In pixels of boxes (half-open) that is 0.5 more."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(world, float) @ inverse[:3, :3].T + inverse[:3, 3]

    def difference(self, other: Grid) -> str | None:
        """What tells the two apart, in words; None where they are one grid."""
        if self.size != other.size:
            return f"size {self.size} and {other.size}"
        if self.world_known != other.world_known:
            return "only one of them says where the patient's axes are"
        corners = np.array(list(product(*((0, n - 1) for n in self.size))), float)
        apart = np.abs(self.index(other.world(corners)) - corners).max()
        return None if apart <= _SAME else f"positions {apart:.2f} voxels apart"


def reoriented(
    size: tuple[int, int, int],  # (i, j, k) as stored
    affine: np.ndarray,  # [4, 4], (i, j, k) to LPS mm
    world_known: bool,
) -> tuple[Grid, np.ndarray]:
    """The grid in the one orientation, and nibabel's orientation [3, 2] that brings an array [i, j, k] there.

    Oblique volumes are not resampled: each stored axis becomes the world axis it is closest to. Raises ValueError
    where the affine has no inverse.
    """
    from nibabel import orientations

    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise ValueError(f"affine: expected three independent axes, got {affine[:3, :3].tolist()}")
    stored = orientations.io_orientation(_RAS_FROM_LPS @ affine)
    change = orientations.ornt_transform(stored, orientations.axcodes2ornt(("L", "P", "S")))
    turned = affine @ orientations.inv_ornt_aff(change, size)
    by_new_axis = np.argsort(change[:, 0])
    x, y, z = (int(size[axis]) for axis in by_new_axis)
    return Grid((x, y, z), turned, world_known), change


def turned(array: np.ndarray, change: np.ndarray) -> np.ndarray:  # [i, j, k] -> [z, y, x], a view
    """Into the one orientation."""
    from nibabel import orientations

    return orientations.apply_orientation(array, change).transpose(2, 1, 0)
