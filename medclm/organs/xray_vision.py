"""torchxrayvision's PSPNet: 14 channels on a grid of 512 x 512, saved as ``<image>.npy`` or ``.npz``."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medclm.organs.names import collect
from medclm.organs.placement import find, resize
from medclm.organs.source import OrganError
from medclm.problems import Reason

if TYPE_CHECKING:
    from medclm.cases import Case
    from medclm.images.picture import Picture

# In the order of ``torchxrayvision.baseline_models.chestx_det.PSPNet.targets``.
CHANNELS = (
    "left clavicle", "right clavicle", "left scapula", "right scapula", "left lung", "right lung", "left hilum",
    "right hilum", "heart", "aorta", "diaphragm", "mediastinum", "oesophagus", "spine",
)  # fmt: skip
FITS = ("stretch", "centre crop")


@dataclass(frozen=True)
class XrayVision:
    """fit: how the picture became the square that the network saw. "stretch": resized; "centre crop": the square in its
    middle (torchxrayvision's XRayCenterCrop), so nothing is known outside of it. Square pictures: the same."""

    root: Path | None
    fit: str = "stretch"
    name: str = "torchxrayvision"

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ValueError(f"fit: expected one of {', '.join(FITS)}; got {self.fit!r}")

    def masks(self, case: Case, picture: Picture) -> dict[str, np.ndarray]:
        path = find(case, self.root, (".npy", ".npz"))
        channels = read_channels(path, len(CHANNELS))
        height, width = picture.pixels.shape[:2]
        return collect({name: self._fitted(mask, height, width) for name, mask in zip(CHANNELS, channels, strict=True)})

    def _fitted(self, mask: np.ndarray, height: int, width: int) -> np.ndarray:
        if self.fit == "stretch":
            return resize(mask, (height, width))
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        whole = np.zeros((height, width), bool)
        whole[top : top + edge, left : left + edge] = resize(mask, (edge, edge))
        return whole


def read_channels(path: Path, count: int) -> np.ndarray:
    """``.npy``, or the first array of an ``.npz``: [count, H, W] or [1, count, H, W] -> bool. Set is: not 0 of
    integers; above 0.5 of probabilities; above 0 of logits (floats that leave [0, 1])."""
    try:
        loaded = np.load(path, allow_pickle=False)
        values = loaded[loaded.files[0]] if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except (OSError, ValueError, EOFError, IndexError, zipfile.BadZipFile) as error:
        raise OrganError(Reason.MASK_UNREADABLE, f"{path.name}: {error}") from error
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 3 or values.shape[0] != count:
        raise OrganError(Reason.MASK_GRID, f"{path.name}: expected [{count}, H, W], got {list(values.shape)}")
    if values.dtype.kind != "f":
        return values != 0
    logits = bool((values < 0).any() or (values > 1).any())
    return values > (0.0 if logits else 0.5)
