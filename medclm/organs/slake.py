"""SLAKE's own masks: ``imgs/xmlab<n>/mask.png`` holds an id a pixel, ``mask.txt`` the name of each, ``id:name`` a line.

Every channel of a coloured mask holds the id, or nothing but the first does; 0 is no organ. Diseases among the names
are lesions and host nothing. This is how public code reads the set, which was not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from medclm.organs.names import collect
from medclm.organs.placement import find, fit
from medclm.organs.source import OrganError
from medclm.problems import Reason
from medclm.readers.slake import kind_of

if TYPE_CHECKING:
    from medclm.cases import Case
    from medclm.images.picture import Picture

NAMES = "mask.txt"


@dataclass(frozen=True)
class Slake:
    """root: SLAKE's folder; None where ``case.organs`` is a whole path, as the reader gives it."""

    root: Path | None = None
    name: str = "slake"

    def masks(self, case: Case, picture: Picture) -> dict[str, np.ndarray]:
        path = find(case, self.root, (".png",))
        named, ids = _names(path), _ids(path)
        present = np.unique(ids).tolist()
        if unknown := sorted(set(present) - {0, *named}):
            raise OrganError(Reason.LABEL_UNKNOWN, f"{path.parent.name}/{path.name}: ids {unknown[:5]} not in {NAMES}")
        what, shape = f"{path.parent.name}/{path.name}", picture.pixels.shape[:2]
        organs = {id: named[id] for id in present if id and kind_of(named[id]) != "disease"}
        return collect(_joined({id: fit(ids == id, shape, what) for id in organs}, organs))


def _joined(masks: dict[int, np.ndarray], names: dict[int, str]) -> dict[str, np.ndarray]:
    """Two ids may have one name."""
    found: dict[str, np.ndarray] = {}
    for id, mask in masks.items():
        found[names[id]] = found[names[id]] | mask if names[id] in found else mask
    return found


def _ids(path: Path) -> np.ndarray:  # uint8 [H, W]
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise OrganError(Reason.MASK_UNREADABLE, f"{path.parent.name}/{path.name}: {error}") from error
    if values.ndim == 2:
        return values
    first = values[..., 0]
    for other in (values[..., channel] for channel in range(1, min(values.shape[2], 3))):
        if other.any() and not np.array_equal(other, first):
            raise OrganError(
                Reason.MASK_UNREADABLE,
                f"{path.parent.name}/{path.name}: expected one id a pixel, got colours whose channels differ",
            )
    return first


def _names(mask: Path) -> dict[int, str]:
    """Of the nearest ``mask.txt`` above the mask."""
    for folder in list(mask.absolute().parents)[:3]:
        if (folder / NAMES).is_file():
            return _read_names(folder / NAMES)
    raise OrganError(Reason.MASK_UNREADABLE, f"{mask.parent.name}/{mask.name}: no {NAMES} that names its ids")


@lru_cache(maxsize=4)
def _read_names(path: Path) -> dict[int, str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OrganError(Reason.MASK_UNREADABLE, f"{path.name}: {error}") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        id, colon, name = line.partition(":")
        if not (colon and id.strip().isdigit() and name.strip()):
            raise OrganError(Reason.MASK_UNREADABLE, f"{path.name}, line {number}: expected id:name, got {line!r}")
        found[int(id)] = name.strip()
    return found
