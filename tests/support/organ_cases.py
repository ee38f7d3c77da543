"""Cases and pictures for tests of organ sources, and the public archives with real volumes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medclm.archives import Package
from medclm.cases import Case, ImageRef
from medclm.problems import DataError

PYRADIOMICS = Package(
    "pyradiomics==3.0.1",
    "pyradiomics-3.0.1.tar.gz",
    "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
    "BSD-3-Clause",
)
TOTALSEGMENTATOR = Package(
    "totalsegmentator==2.18.0",
    "totalsegmentator-2.18.0.tar.gz",
    "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
    "Apache-2.0",
)


def members(package: Package, *names: str) -> list[bytes]:
    """Skips, saying why, where the archive cannot be fetched."""
    try:
        package.path()
    except DataError as error:
        pytest.skip(str(error))
    top = package.file.removesuffix(".tar.gz")
    return [package.read(f"{top}/{name}") for name in names]


def picture(height: int, width: int, **other: object) -> SimpleNamespace:
    """What medclm.images gives, without a file."""
    fields = {"raw": None, "spacing": None, "laterality_verified": False, "modality": None}
    return SimpleNamespace(pixels=np.zeros((height, width), np.uint8), **(fields | other))


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
