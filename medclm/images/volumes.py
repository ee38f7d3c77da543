"""Volumes (NIfTI, NRRD, MetaImage, a folder of DICOM slices), in the one orientation of medclm.images.geometry."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medclm.cases import ImageRef
from medclm.images import geometry, series, windows
from medclm.images.geometry import Grid
from medclm.images.picture import ImageError, Picture
from medclm.problems import Reason

NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
CACHE_BYTES = 96 << 20  # of each process; a larger volume is kept alone


@dataclass(frozen=True, eq=False)
class Volume:
    """array [z, y, x] in stored units (Hounsfield for CT), not to be written; burned_in: a slice that says it names
    somebody."""

    array: np.ndarray
    grid: Grid
    modality: str | None = None
    burned_in: Path | None = None

    @cached_property
    def span(self) -> windows.Window:
        """Percentiles of the whole volume (a sample of it), so that its slices are equally bright."""
        return windows.percentiles(self.array[:, ::3, ::3])

    @cached_property
    def hounsfield(self) -> bool:
        return self.modality == "CT" or (self.modality is None and bool(self.array.min() <= windows.AIR))


def suffix(path: Path) -> str:
    """In lower case; ".nii.gz" is one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def is_volume(path: Path) -> bool:
    return path.is_dir() or suffix(path) in (*NIFTI, *ITK)


def read_grid(path: Path) -> Grid:
    """From the header alone. Raises ImageError."""
    return _header(path)[0]


def read(path: Path) -> Volume:
    """Raises ImageError: missing, damaged, not three-dimensional, more than one value a voxel."""
    path = Path(path)
    grid, change, source = _header(path)
    try:
        if isinstance(source, series.Series):
            stored = _dicom_array(source)
        elif suffix(path) in NIFTI:
            stored = np.asanyarray(source.dataobj).reshape(source.shape[:3])
        else:
            stored = _itk_array(path)
    except Exception as error:  # nibabel and SimpleITK raise whatever their decoders do
        raise ImageError(Reason.IMAGE_UNREADABLE, f"{path}: {error}") from error
    array = np.ascontiguousarray(geometry.turned(_smaller(stored), change))
    array.setflags(write=False)
    if isinstance(source, series.Series):
        return Volume(array, grid, source.modality, source.burned_in)
    return Volume(array, grid)


class Cache:
    """The volumes read last, within a number of bytes; the last one always stays. Safe between threads."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple, Volume] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> Volume:
        """A file that was written anew is read anew."""
        try:
            status = Path(path).stat()
        except FileNotFoundError:
            raise ImageError(Reason.IMAGE_MISSING, str(path)) from None
        key = (str(path), status.st_mtime_ns, status.st_size)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = read(path)
                while len(self._kept) > 1 and self.bytes() > self._limit:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def bytes(self) -> int:
        return sum(volume.array.nbytes for volume in self._kept.values())


cache = Cache()


def load(ref: ImageRef, window: str | windows.Window = "auto", allow_burned_in: bool = False) -> Picture:
    """One slice, by its index from the feet. Raises ImageError."""
    volume = cache.get(Path(ref.path))
    if volume.burned_in is not None and not allow_burned_in:
        raise ImageError(Reason.BURNED_IN, f"{volume.burned_in}: BurnedInAnnotation is YES")
    if ref.slice is None or not 0 <= ref.slice < len(volume.array):
        raise ImageError(
            Reason.IMAGE_UNREADABLE, f"{ref.path}: expected a slice of 0 to {len(volume.array) - 1}, got {ref.slice}"
        )
    raw = volume.array[ref.slice].astype(np.float32) + np.float32(ref.offset)
    pixels = windows.shown(
        raw,
        window,
        source=ref.window,
        hounsfield=volume.hounsfield,
        automatic=lambda: (volume.span[0] + ref.offset, volume.span[1] + ref.offset),
    )
    x, y, _ = volume.grid.spacing
    return Picture(pixels, raw, (x, y), volume.grid.world_known, volume.modality)


def _header(path: Path) -> tuple[Grid, np.ndarray, Any]:
    """Grid, what turns the stored array into it, and the header's object."""
    if not path.exists():
        raise ImageError(Reason.IMAGE_MISSING, str(path))
    try:
        if path.is_dir():
            found = series.read(path)
            return *geometry.reoriented(found.size, found.affine, True), found
        size, affine, known, source = _nifti_header(path) if suffix(path) in NIFTI else _itk_header(path)
        return *geometry.reoriented(size, affine, known), source
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(Reason.IMAGE_UNREADABLE, f"{path}: {error}") from error


def _nifti_header(path: Path) -> tuple[tuple[int, int, int], np.ndarray, bool, Any]:
    import nibabel

    image = nibabel.load(path)
    size = image.shape
    if len(size) > 3 and all(n == 1 for n in size[3:]):
        size = size[:3]
    if len(size) != 3 or image.get_data_dtype().fields:
        raise ValueError(f"expected one value a voxel in three dimensions, got shape {image.shape}")
    # With both codes 0 nibabel makes an affine up: its axes are a guess.
    known = bool(image.header["sform_code"] > 0 or image.header["qform_code"] > 0)
    return size, np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine, known, image


def _itk_header(path: Path) -> tuple[tuple[int, int, int], np.ndarray, bool, Any]:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    values, dimensions = reader.GetNumberOfComponents(), reader.GetDimension()
    if (values, dimensions) != (1, 3):
        raise ValueError(f"expected one value a voxel in three dimensions, got {values} in {dimensions}")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * np.asarray(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()
    if suffix(path) in (".nrrd", ".nhdr"):
        known = reader.HasMetaDataKey("NRRD_space") and "scanner" not in reader.GetMetaData("NRRD_space")
    else:
        with path.open("rb") as file:
            text = file.read(4096).partition(b"ElementDataFile")[0]
        known = any(word in text for word in (b"TransformMatrix", b"Rotation", b"Orientation"))
    return reader.GetSize(), affine, known, reader


def _itk_array(path: Path) -> np.ndarray:  # [i, j, k]
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0)


def _dicom_array(found: series.Series) -> np.ndarray:  # [i, j, k]
    """GDCM applies each file's rescale. float32: PET has another factor in each slice."""
    import SimpleITK as sitk

    image = sitk.ReadImage([str(path) for path in found.files], sitk.sitkFloat32)
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0)


def _smaller(array: np.ndarray) -> np.ndarray:
    """Floats as int16 where that loses nothing, else as float32."""
    if array.dtype.kind != "f":
        return array
    small = array.astype(np.float32)
    if np.isfinite(small).all() and np.abs(small).max(initial=0.0) < 32767.0:
        whole = small.astype(np.int16)
        if np.array_equal(whole, small):
            return whole
    return small
