"""Images of a set as files: named by their bytes, each written once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from medclm.problems import DataError


def image_bytes(row: Mapping) -> bytes:
    """The PNG of a row; raises DataError where the set was made without pixels."""
    found = (row["image"] or {}).get("bytes")
    if not found:
        raise DataError(
            f"row {row['id']}: expected an image, got none; a set without pixels has the format annotations"
        )
    return found


def write_image(row: Mapping, folder: Path) -> str:
    """Into ``folder/images``; gives the path relative to ``folder``, with / between its parts."""
    data = image_bytes(row)
    digest = hashlib.sha256(data).hexdigest()[:32]
    name = f"images/{digest[:2]}/{digest}.png"
    path = folder / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return name
