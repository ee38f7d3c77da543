"""The lungs of a CT slice by threshold: no model, no weights.

Air is below -320 HU; what touches the picture's border is outside the body. A solid mass at the pleura is not air: of
the real lesion of pyradiomics' lung2 the threshold alone holds 2 %. So each lung is grown to its convex hull, no
farther than PLEURA_MM from its air: that holds 93 %, at the price of a rim of heart, liver dome and chest wall.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from medclm.organs.names import collect
from medclm.organs.source import OrganError
from medclm.problems import Reason

if TYPE_CHECKING:
    from medclm.cases import Case
    from medclm.images.picture import Picture

AIR_HU = -320.0
SMALLEST_MM2 = 150.0  # below: gas in the oesophagus, a bronchus
SMALLEST_SHARE = 0.0006  # of the picture, where the spacing is not known
PLEURA_MM = 20.0
EXTENTS = ("hull", "closing", "air")
CLOSING_MM = 10.0


@dataclass(frozen=True)
class Lungs:
    """extent: "hull" (the default, see above); "closing": vessels and nodules closed over, 10 mm; "air": the threshold.
    Sides only where the picture's axes are known, else both together as "lung"."""

    extent: str = "hull"
    name: str = "lungs"

    def __post_init__(self) -> None:
        if self.extent not in EXTENTS:
            raise ValueError(f"extent: expected one of {', '.join(EXTENTS)}; got {self.extent!r}")

    def masks(self, case: Case, picture: Picture) -> dict[str, np.ndarray]:
        if case.modality != "CT" or picture.raw is None:
            raise OrganError(
                Reason.MASK_MISSING,
                f"lungs need the Hounsfield units of a CT slice, this is {case.modality}",
            )
        first, second = (
            self._grown(half, picture.spacing) for half in halves(picture.raw, picture.spacing)
        )  # the picture's left is the patient's right
        if picture.laterality_verified:
            return collect({"right lung": first, "left lung": second & ~first})
        return collect({"lung": first | second})

    def _grown(self, lung: np.ndarray, spacing: tuple[float, float] | None) -> np.ndarray:
        from scipy import ndimage

        if self.extent == "air" or not lung.any():
            return lung
        sampling = (1.0, 1.0) if spacing is None else (spacing[1], spacing[0])  # [y, x]
        reach = PLEURA_MM if self.extent == "hull" else CLOSING_MM
        if self.extent == "hull":
            hull = convex_hull(lung)
            if spacing is None:
                return hull
            return hull & (ndimage.distance_transform_edt(~lung, sampling=sampling) <= reach)
        if spacing is None:
            return ndimage.binary_fill_holes(lung)
        pad = int(np.ceil(reach / min(sampling))) + 1  # what is dilated must not be cut off by the border
        wide = ndimage.distance_transform_edt(~np.pad(lung, pad), sampling=sampling) <= reach
        closed = ndimage.distance_transform_edt(wide, sampling=sampling) > reach
        return ndimage.binary_fill_holes(closed[pad:-pad, pad:-pad] | lung)


def halves(hounsfield: np.ndarray, spacing: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Air inside the body [H, W] -> that left and that right of the body's middle column, bool [H, W] each.

    All pieces count, not the two largest: under the dome of the diaphragm one lung is several.
    """
    from scipy import ndimage

    pieces, count = ndimage.label(hounsfield < AIR_HU)
    nothing = np.zeros(hounsfield.shape, bool)
    if count == 0:
        return nothing, nothing
    border = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    smallest = SMALLEST_SHARE * hounsfield.size if spacing is None else SMALLEST_MM2 / (spacing[0] * spacing[1])
    kept = sizes >= smallest
    kept[0] = kept[border] = False
    if not kept.any():
        return nothing, nothing
    outside = np.isin(pieces, border[border > 0])
    middle = _middle(~outside)
    columns = np.arange(hounsfield.shape[1])
    left = np.zeros(count + 1, bool)
    across = np.zeros(count + 1, bool)
    for label, box in enumerate(ndimage.find_objects(pieces), start=1):
        if kept[label]:
            inside = columns[box[1]][None] * (pieces[box] == label)
            left[label] = inside.sum() / sizes[label] < middle
            width = box[1].stop - box[1].start
            across[label] = box[1].start < middle < box[1].stop and width > 0.5 * (columns[-1] + 1)
    # Lungs that touch in front of the heart are one piece: cut at the middle.
    first = (kept & left & ~across)[pieces] | ((kept & across)[pieces] & (columns < middle)[None])
    second = (kept & ~left & ~across)[pieces] | ((kept & across)[pieces] & (columns >= middle)[None])
    return first, second


def _middle(body: np.ndarray) -> float:
    """The body's mean column."""
    weights = body.sum(axis=0)
    return float((weights * np.arange(body.shape[1])).sum() / max(weights.sum(), 1))


def convex_hull(mask: np.ndarray) -> np.ndarray:
    """bool [H, W], not empty -> the smallest convex set of pixels around it."""
    from scipy.spatial import ConvexHull, QhullError

    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    points = np.concatenate([np.stack([first, rows], axis=1), np.stack([last, rows], axis=1)])  # (x, y)
    try:
        corners = points[ConvexHull(points).vertices]
    except QhullError:  # all in one line
        return mask.copy()
    drawn = Image.new("1", (mask.shape[1], mask.shape[0]))
    ImageDraw.Draw(drawn).polygon([(int(x), int(y)) for x, y in corners], fill=1, outline=1)
    return np.asarray(drawn) | mask
