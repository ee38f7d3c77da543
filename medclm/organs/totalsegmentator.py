"""TotalSegmentator: a folder of one NIfTI file a class, or one multilabel file.

The names of a multilabel file stand in it, in the Caret XML of its NIfTI extension; ids are only trusted with a
version, because v1, v2 and MR number their organs differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from medclm.images import volumes
from medclm.images.geometry import Grid
from medclm.images.picture import ImageError
from medclm.organs.names import canonical, collect
from medclm.organs.placement import find, fit, stem
from medclm.organs.source import OrganError
from medclm.organs.totalsegmentator_labels import LABELS
from medclm.problems import Reason

if TYPE_CHECKING:
    from medclm.cases import Case
    from medclm.images.picture import Picture

_FILES = (".nii.gz", ".nii")
_CLASSES = frozenset(canonical(name) for table in LABELS.values() for name in table.values())
Corner = tuple[int, int, int]  # (z, y, x)


@dataclass(frozen=True)
class Segmentation:
    """One volume's organs, arrays [z, y, x] in the one orientation of :mod:`medclm.images.geometry`.

    Of a multilabel file: ``labels`` (id -> name) and ``volume``. Of a folder, whose classes may overlap: ``crops``,
    name -> (corner, bool array around the organ): a hundred whole volumes would not fit into memory.
    """

    grid: Grid
    labels: dict[int, str]
    volume: np.ndarray | None
    crops: dict[str, tuple[Corner, np.ndarray]]

    def at(self, z: int) -> dict[str, np.ndarray]:
        """name -> bool [H, W]; the organs in one slice."""
        if self.volume is not None:
            plane = self.volume[z]
            return {self.labels[each]: plane == each for each in np.unique(plane).tolist() if each in self.labels}
        found = {}
        for name, ((top, y, x), crop) in self.crops.items():
            if 0 <= z - top < crop.shape[0]:
                found[name] = np.zeros((self.grid.size[1], self.grid.size[0]), bool)
                found[name][y : y + crop.shape[1], x : x + crop.shape[2]] = crop[z - top]
        return found


@dataclass(frozen=True)
class TotalSegmentator:
    """root: a folder with ``<volume>/`` or ``<volume>.nii.gz`` for each volume; or one such folder or file, for one
    volume. version: "v1", "v2" or "mr", for multilabel files without names."""

    root: Path | None
    version: str | None = None
    merge_lobes: bool = False
    name: str = "totalsegmentator"

    def __post_init__(self) -> None:
        if self.version is not None and self.version not in LABELS:
            raise ValueError(f"version: expected one of {', '.join(LABELS)}; got {self.version!r}")

    def masks(self, case: Case, picture: Picture) -> dict[str, np.ndarray]:
        path = self._path(case)
        found = read(path, self.version)
        what, depth = path.name, found.grid.size[2]
        z = 0 if case.image.slice is None and depth == 1 else case.image.slice
        if z is None or not 0 <= z < depth:
            raise OrganError(Reason.MASK_GRID, f"{what}: no slice {z} in masks of {depth} slices")
        image = _image_grid(case.image_path())
        if image is not None and (apart := found.grid.difference(image)):
            raise OrganError(Reason.MASK_GRID, f"{what}: on another grid than its image: {apart}")
        shape = picture.pixels.shape[:2]
        return collect({n: fit(mask, shape, what) for n, mask in found.at(z).items()}, merge_lobes=self.merge_lobes)

    def _path(self, case: Case) -> Path:
        try:
            return find(case, self.root, ("", *_FILES))
        except OrganError:
            one_volume = self.root is not None and (self.root.is_file() or any(_class_files(self.root)))
            if case.organs is not None or not one_volume:
                raise
            return self.root


@lru_cache(maxsize=2)  # a few slices of one volume come after one another
def read(path: Path, version: str | None = None) -> Segmentation:
    """Raises OrganError where a file cannot be read, where grids differ within a folder, or where a multilabel file
    has neither names nor a version. Remembered by path: files do not change while they are converted."""
    return _folder(path) if path.is_dir() else _multilabel(path, version)


def label_table(path: Path) -> dict[int, str]:
    """id -> name out of the file's Caret extension; empty where it has none."""
    import nibabel

    if volumes.suffix(path) not in volumes.NIFTI:
        return {}
    for extension in nibabel.load(path).header.extensions:
        content = extension.get_content()
        text = content if isinstance(content, bytes) else str(content).encode()
        if b"<LabelTable" not in text:
            continue
        try:
            labels = ElementTree.fromstring(text.strip(b"\x00 \n\r\t")).iter("Label")
            return {int(label.attrib["Key"]): (label.text or "").strip() for label in labels}
        except (ElementTree.ParseError, KeyError, ValueError) as error:
            raise OrganError(Reason.MASK_UNREADABLE, f"{path.name}: label table: {error}") from error
    return {}


def _multilabel(path: Path, version: str | None) -> Segmentation:
    volume, grid = _labels(path)
    labels = label_table(path) or LABELS.get(version or "", {})
    if not labels:
        raise OrganError(
            Reason.LABEL_UNKNOWN,
            f"{path.name}: no label table in the file, and one number is another organ in each version; "
            f"expected version {', '.join(LABELS)}",
        )
    if unknown := sorted(set(np.unique(volume).tolist()) - {0, *labels}):
        raise OrganError(Reason.LABEL_UNKNOWN, f"{path.name}: ids {unknown[:5]} are not in the label table")
    return Segmentation(grid, labels, volume, {})


def _folder(folder: Path) -> Segmentation:
    grid, crops = None, {}
    for path in _class_files(folder):
        volume, own = _labels(path)
        if grid is not None and (apart := own.difference(grid)):
            raise OrganError(Reason.MASK_GRID, f"{folder.name}/{path.name}: on another grid than the rest: {apart}")
        grid = own
        mask = volume != 0
        if mask.any():
            spans = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
            (z, y, x), inside = (int(span[0]) for span in spans), tuple(slice(s[0], s[-1] + 1) for s in spans)
            crops[stem(path)] = ((z, y, x), mask[inside].copy())
    if grid is None:
        raise OrganError(Reason.MASK_MISSING, f"{folder.name}: no NIfTI file of a class in the folder")
    return Segmentation(grid, {}, None, crops)


def _class_files(folder: Path) -> Iterator[Path]:
    """Named after a class of TotalSegmentator; a statistics file or the volume itself beside them is none."""
    return (path for path in sorted(folder.glob("*.nii*")) if canonical(stem(path)) in _CLASSES)


def _labels(path: Path) -> tuple[np.ndarray, Grid]:
    try:
        volume = volumes.read(path)
    except ImageError as error:
        raise OrganError(Reason.MASK_UNREADABLE, error.what) from error
    array = volume.array
    return (array if array.dtype.kind in "iub" else np.rint(array).astype(np.int32)), volume.grid


@lru_cache(maxsize=4)
def _image_grid(path: Path) -> Grid | None:
    """None where the image is no volume, or cannot be read: that is not the masks' fault."""
    try:
        return volumes.read_grid(path) if volumes.is_volume(path) else None
    except ImageError:
        return None
