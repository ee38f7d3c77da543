"""CXAS (``cxas_segment``): 159 channels that overlap, in its COCO json, its folder of pictures or its array."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from medclm.organs.cxas_channels import CHANNELS
from medclm.organs.names import collect
from medclm.organs.placement import find, fit, resize
from medclm.organs.source import OrganError
from medclm.organs.xray_vision import read_channels
from medclm.problems import Reason

if TYPE_CHECKING:
    from medclm.cases import Case
    from medclm.images.picture import Picture

MODEL_GRID = (512, 512)  # of the network: the whole picture, stretched


@dataclass(frozen=True)
class Cxas:
    """The masks of ``<image>.png``: ``<image>.json``, the folder ``<image>/``, ``<image>.npy`` or ``<image>.npz``."""

    root: Path | None
    merge_lobes: bool = False
    name: str = "cxas"

    def masks(self, case: Case, picture: Picture) -> dict[str, np.ndarray]:
        path = find(case, self.root, (".json", "", ".npy", ".npz"))
        if path.is_dir():
            found = _pictures(path)
        elif path.suffix == ".json":
            found = _coco(path)
        else:
            found = dict(zip(CHANNELS, read_channels(path, len(CHANNELS)), strict=True))
        shape = picture.pixels.shape[:2]
        fitted = {
            name: resize(mask, shape) if mask.shape == MODEL_GRID else fit(mask, shape, path.name)
            for name, mask in found.items()
        }
        return collect(fitted, merge_lobes=self.merge_lobes)


def _coco(path: Path) -> dict[str, np.ndarray]:
    """Annotations with compressed run lengths; names by the file's own categories, else by channel number."""
    from pycocotools import mask as coco

    try:
        whole = json.loads(path.read_text())
        named = {each["id"]: each["name"] for each in whole.get("categories", ()) if each}
        found: dict[str, np.ndarray] = {}
        for each in whole["annotations"]:
            if each:  # CXAS starts its lists with an empty entry
                number = each["category_id"]
                found[named[number] if named else CHANNELS[number]] = coco.decode(each["segmentation"]) > 0
        return found
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise OrganError(Reason.MASK_UNREADABLE, f"{path.name}: {error!r}") from error


def _pictures(folder: Path) -> dict[str, np.ndarray]:
    """One picture of a channel, named after it."""
    found = {}
    for path in sorted((*folder.glob("*.png"), *folder.glob("*.jpg"), *folder.glob("*.npy"))):
        try:
            if path.suffix == ".npy":
                found[path.stem] = np.load(path, allow_pickle=False) != 0
            else:
                with Image.open(path) as image:
                    found[path.stem] = np.asarray(image.convert("L")) > 127
        except (OSError, ValueError, UnidentifiedImageError) as error:
            raise OrganError(Reason.MASK_UNREADABLE, f"{folder.name}/{path.name}: {error}") from error
    if not found:
        raise OrganError(Reason.MASK_MISSING, f"{folder.name}: no picture of a channel in the folder")
    return found
