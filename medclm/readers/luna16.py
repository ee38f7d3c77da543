"""LUNA16: lung nodules as spheres, centre and diameter in world millimetres.

annotations   annotations.csv: seriesuid,coordX,coordY,coordZ,diameter_mm (LPS, as ITK has it)
images        the folder of subset0 .. subset9, or any folder of <seriesuid>.mhd
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medclm.boxes import Box
from medclm.cases import Case, ImageRef, Lesion
from medclm.images import volumes
from medclm.images.geometry import Grid
from medclm.images.picture import ImageError
from medclm.images.windows import PRESETS
from medclm.problems import DataError, Problems, Reason
from medclm.readers.sections import Policy, Section, cases

HEADER = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")


def read(
    annotations: Path,
    images: Path | None,
    problems: Problems,
    *,
    slices: str = "all",
    min_area: float = 9.0,
    licence: str = "CC-BY-4.0",
) -> Iterator[Case]:
    """A case for each chosen slice of each scan. The box is that of the sphere's section on the slice.

    The list holds what three of four radiologists marked: a slice without a nodule is not said to have none.
    """
    if images is None:
        raise DataError("images: expected the folder of the .mhd files (their headers place the nodules), got none")
    policy = Policy(slices, min_area)
    places = {path.stem: path for path in sorted(Path(images).rglob("*.mhd"))}
    for series, nodules in _by_series(Path(annotations), problems).items():
        if series not in places:
            problems.add(Reason.IMAGE_MISSING, f"{series}: no {series}.mhd")
            continue
        try:
            grid = volumes.read_grid(places[series])
        except ImageError as error:
            problems.add(error.reason, error.what)
            continue
        sections = []
        for number, (centre, diameter) in enumerate(nodules):
            found = list(sphere_sections(grid, number, centre, diameter))
            if not found:
                problems.add(Reason.BOX_OUTSIDE, f"{series}: nodule at {centre} mm")
            sections += found
        whole = Case(
            id=series,
            source="luna16",
            patient=series,
            modality="CT",
            image=ImageRef(str(places[series]), window=PRESETS["lung"]),
            width=grid.size[0],
            height=grid.size[1],
            licence=licence,
        )
        yield from cases(sections, whole, policy, depth=grid.size[2])


def sphere_sections(
    grid: Grid, finding: int, centre: tuple[float, float, float], diameter: float
) -> Iterator[Section]:  # centre: world LPS mm
    """On every slice whose plane meets the sphere and where the box's centre is inside the image."""
    x, y, z = grid.index(np.array(centre))
    across, down, up = grid.spacing
    radius = diameter / 2.0
    width, height, depth = grid.size
    if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
        return
    for k in range(max(math.ceil(z - radius / up), 0), min(math.floor(z + radius / up), depth - 1) + 1):
        section = math.sqrt(max(radius**2 - ((k - z) * up) ** 2, 0.0))  # mm
        rx, ry = section / across, section / down
        # Whole indices are voxels' centres; boxes count from the edge of the first pixel.
        box: Box = (float(x + 0.5 - rx), float(y + 0.5 - ry), float(x + 0.5 + rx), float(y + 0.5 + ry))
        lesion = Lesion("lung nodule", box, attributes={"diameter_mm": f"{diameter:.1f}"})
        yield Section(finding, k, math.pi * rx * ry, lesion)


def _by_series(path: Path, problems: Problems) -> dict[str, list[tuple[tuple[float, float, float], float]]]:
    found: dict[str, list] = {}
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != HEADER:
            raise DataError(f"{path}: expected the header {','.join(HEADER)}, got {','.join(table.fieldnames or ())}")
        for number, row in enumerate(table, start=2):
            try:
                x, y, z, diameter = (float(row[name]) for name in HEADER[1:])
            except (TypeError, ValueError):
                problems.add(Reason.ROW_MALFORMED, f"{path.name} line {number}")
                continue
            if not (math.isfinite(x + y + z) and 0.0 < diameter < math.inf):
                problems.add(Reason.ROW_MALFORMED, f"{path.name} line {number}: diameter {diameter}")
                continue
            found.setdefault(row["seriesuid"], []).append(((x, y, z), diameter))
    return found
