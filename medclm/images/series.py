"""The headers of a folder of DICOM slices: their order along the patient, their geometry, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medclm.images import dicom
from medclm.images.picture import ImageError
from medclm.problems import Reason

if TYPE_CHECKING:
    from pydicom import Dataset

_TAGS = [
    "BurnedInAnnotation",
    "Columns",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "Modality",
    "NumberOfFrames",
    "PixelSpacing",
    "Rows",
    "SeriesInstanceUID",
    "SliceThickness",
]
_NO_SLICES = ("KO", "PR", "REG", "RTDOSE", "RTPLAN", "RTSTRUCT", "SEG", "SR")  # modalities that lie beside slices
_UNEVEN = 0.25  # of the usual gap: positions are rounded, a missing slice is a whole gap


@dataclass(frozen=True, eq=False)
class Series:
    """files in order along the slices' normal; affine [4, 4]: index (column, row, file) to world LPS mm."""

    files: tuple[Path, ...]
    size: tuple[int, int, int]
    affine: np.ndarray
    modality: str | None
    burned_in: Path | None  # a file that says so


def headers(folder: Path) -> Iterator[tuple[Path, Dataset]]:
    """Of every DICOM file that is directly in the folder, without pixels, in the order of the names."""
    import pydicom

    for path in sorted(folder.iterdir()):
        if not (path.is_file() and dicom.is_dicom(path)):
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        except Exception as error:  # what pydicom raises for a damaged file is not one class
            raise ImageError(Reason.IMAGE_UNREADABLE, f"{path}: {error}") from error
        yield path, header


def read(folder: Path) -> Series:
    """What is no image (RTSTRUCT, SR, SEG ...) is passed over. Raises ImageError where the rest is not one evenly
    spaced stack."""
    found = [(path, header) for path, header in headers(folder) if _is_slice(header)]
    if not found:
        raise ImageError(Reason.IMAGE_UNREADABLE, f"{folder}: expected DICOM slices, got none")
    for path, header in found:
        if not (header.get("Modality") and header.get("ImagePositionPatient")):
            raise ImageError(Reason.IMAGE_UNREADABLE, f"{path}: expected a slice with a position; is the file cut off?")
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise ImageError(
                Reason.IMAGE_UNREADABLE, f"{path}: expected a slice a file, got {header.NumberOfFrames} frames in one"
            )
    uids = {str(header.get("SeriesInstanceUID")) for _, header in found}
    if len(uids) > 1:
        raise ImageError(
            Reason.IMAGE_UNREADABLE, f"{folder}: expected the slices of one series, got {len(uids)} series"
        )
    first = found[0][1]
    try:
        direction = np.asarray(first.ImageOrientationPatient, float)  # along a row, then down a column
        between_rows, between_columns = map(float, first.PixelSpacing)
        rows, columns = int(first.Rows), int(first.Columns)
        for path, header in found:
            _same(path, header, first)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ImageError(Reason.IMAGE_UNREADABLE, f"{folder}: slices without geometry ({error})") from error
    normal = np.cross(direction[:3], direction[3:])
    positions = np.array([header.ImagePositionPatient for _, header in found], float)  # [N, 3]
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    step = _step(folder, positions, normal, first)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = direction[:3] * between_columns, direction[3:] * between_rows
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    burned = (path for path, header in found if str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES")
    return Series(
        tuple(found[k][0] for k in order),
        (columns, rows, len(found)),
        affine,
        dicom.modality(first),
        next(burned, None),
    )


def folders(root: Path) -> dict[str, Path]:
    """SeriesInstanceUID -> its folder, of every folder of DICOM slices under the root: by the first slice in it. A
    folder whose first file is damaged is passed over: its series is then missing to whoever asks for it."""
    found: dict[str, Path] = {}
    for folder in sorted({root, *(path for path in root.rglob("*") if path.is_dir())}):
        try:
            slices = (header for _, header in headers(folder) if _is_slice(header))
            first = next(slices, None)
        except ImageError:
            continue
        if first is not None:
            found.setdefault(str(first.get("SeriesInstanceUID")), folder)
    return found


def _is_slice(header: Dataset) -> bool:
    return str(header.get("Modality")) not in _NO_SLICES


def _same(path: Path, header: Dataset, first: Dataset) -> None:
    for name in ("Rows", "Columns", "ImageOrientationPatient", "PixelSpacing"):
        mine, theirs = np.asarray(header[name].value, float), np.asarray(first[name].value, float)
        if not np.allclose(mine, theirs, atol=1e-3):
            raise ValueError(f"{name} of {path.name} is {mine.tolist()}, of the first slice {theirs.tolist()}")


def _step(folder: Path, positions: np.ndarray, normal: np.ndarray, first: Dataset) -> np.ndarray:  # [3] mm
    if len(positions) == 1:
        return normal * float(first.get("SliceThickness") or 1.0)
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    odd = np.abs(gaps - usual) > _UNEVEN * usual
    if usual <= 0.0 or odd.any():
        raise ImageError(
            Reason.IMAGE_UNREADABLE,
            f"{folder}: expected evenly spaced slices, got gaps of {gaps.min():.3f} to {gaps.max():.3f} mm",
        )
    return (positions[-1] - positions[0]) / (len(positions) - 1)
