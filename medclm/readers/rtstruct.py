"""Contours of radiotherapy plans (DICOM RTSTRUCT) on the series that they were drawn on.

annotations   an RTSTRUCT file, or a folder with them anywhere below
images        the folder with the series anywhere below; None: the same folder
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medclm.cases import Case, ImageRef
from medclm.images import dicom, series, volumes
from medclm.images.geometry import Grid
from medclm.images.picture import ImageError
from medclm.images.windows import Window
from medclm.problems import DataError, Problems, Reason
from medclm.readers.sections import Policy, Section, cases, masked

if TYPE_CHECKING:
    from pydicom import Dataset

ROIS = {"GTV*": "tumour"}  # gross tumour volume; CTV and PTV are margins around it, not what is seen
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_OFF_SLICE = 0.1  # of the slice distance, within one contour


def read(
    annotations: Path,
    images: Path | None,
    problems: Problems,
    *,
    rois: Mapping[str, str] | None = None,
    source: str = "rtstruct",
    window: Window | None = None,
    slices: str = "all",
    min_area: float = 9.0,
    licence: str = "unknown",
) -> Iterator[Case]:
    """A case for each chosen slice of each structure set.

    rois   pattern of a region's name (case does not count) -> label; the first that matches decides, others are left

    Contours of a region on one slice are combined by even-odd: one inside another is a hole. No label is said to be
    absent: a plan outlines what is treated.
    """
    policy = Policy(slices, min_area)
    wanted = dict(ROIS if rois is None else rois)
    annotations = Path(annotations)
    found = list(_structure_sets(annotations, problems))
    if not found:
        raise DataError(f"{annotations}: expected DICOM files of modality RTSTRUCT, got none that can be read")
    places = series.folders(Path(images) if images else annotations if annotations.is_dir() else annotations.parent)
    for path, plan in found:
        uid = _series_uid(plan)
        if uid not in places:
            problems.add(Reason.IMAGE_MISSING, f"{path.name}: series {uid}")
            continue
        try:
            grid = volumes.read_grid(places[uid])
            modality = series.read(places[uid]).modality
        except ImageError as error:
            problems.add(error.reason, error.what)
            continue
        sections = list(_sections(plan, grid, wanted, path.name, problems))
        whole = Case(
            id=str(plan.SOPInstanceUID),
            source=source,
            patient=str(plan.get("PatientID") or uid),
            modality=modality or "other",
            image=ImageRef(str(places[uid]), window=window),
            width=grid.size[0],
            height=grid.size[1],
            licence=licence,
        )
        yield from cases(sections, whole, policy, depth=grid.size[2])


def _structure_sets(annotations: Path, problems: Problems) -> Iterator[tuple[Path, Dataset]]:
    import pydicom

    paths = [annotations] if annotations.is_file() else sorted(annotations.rglob("*"))
    for path in paths:
        if not (path.is_file() and dicom.is_dicom(path)):
            continue
        try:
            kind = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality")
            if not kind:
                raise ValueError("no Modality: is the file cut off?")
            plan = pydicom.dcmread(path) if kind == "RTSTRUCT" else None
        except Exception as error:  # what pydicom raises for a damaged file is not one class
            problems.add(Reason.ROW_MALFORMED, f"{path.name}: {error}")
            continue
        if plan is not None:
            yield path, plan


def _series_uid(plan: Dataset) -> str | None:
    for frame in plan.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for referenced in study.get("RTReferencedSeriesSequence") or ():
                return str(referenced.SeriesInstanceUID)
    return None


def _sections(plan: Dataset, grid: Grid, wanted: Mapping[str, str], name: str, problems: Problems) -> Iterator[Section]:
    names = {int(roi.ROINumber): str(roi.get("ROIName", "")) for roi in plan.get("StructureSetROISequence") or ()}
    for finding, roi in enumerate(plan.get("ROIContourSequence") or ()):
        roi_name = names.get(int(roi.ReferencedROINumber), "")
        label = next((to for like, to in wanted.items() if fnmatch.fnmatch(roi_name.lower(), like.lower())), None)
        if label is None:
            continue
        for z, mask in sorted(_masks(roi, grid, f"{name}: {roi_name}", problems).items()):
            if mask.any():
                yield masked(mask, finding, z, label, {"roi": roi_name})


def _masks(roi: Dataset, grid: Grid, what: str, problems: Problems) -> dict[int, np.ndarray]:
    width, height, depth = grid.size
    found: dict[int, np.ndarray] = defaultdict(lambda: np.zeros((height, width), bool))
    for contour in roi.get("ContourSequence") or ():
        if contour.get("ContourGeometricType") not in _CLOSED:
            continue
        world = np.asarray(contour.ContourData, float)
        if world.size < 9 or world.size % 3:
            problems.add(Reason.ROW_MALFORMED, f"{what}: a contour of {world.size} numbers")
            continue
        points = grid.index(world.reshape(-1, 3))  # [N, 3]
        z = int(np.rint(points[:, 2].mean()))
        if np.ptp(points[:, 2]) > 2 * _OFF_SLICE or abs(points[:, 2].mean() - z) > 0.5 - _OFF_SLICE:
            problems.add(Reason.ROW_MALFORMED, f"{what}: a contour that does not lie on an axial slice of its series")
        elif not 0 <= z < depth:
            problems.add(Reason.BOX_OUTSIDE, f"{what}: slice {z} of {depth}")
        else:
            found[z] ^= _filled(points[:, :2] + 0.5, width, height)  # indices are centres, pixels count from edges
    return found


def _filled(points: np.ndarray, width: int, height: int) -> np.ndarray:  # [N, 2] pixels -> bool [H, W]
    from pycocotools import mask

    runs = mask.frPyObjects([points.ravel().tolist()], height, width)
    return mask.decode(mask.merge(runs)).astype(bool)
