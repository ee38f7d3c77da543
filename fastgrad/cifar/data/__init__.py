"""Data sets, whole and in memory: ``load(spec)`` gives uint8 images and int64 labels.

``spec`` is ``digits`` (embedded), ``cifar10`` or ``cifar100`` (the official archive in the cache folder,
fetched if ``download`` is set), or a path: an official archive or folder, or images in ``train/<class>/`` and
``test/<class>/``, as a folder or in a tar file.
"""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastgrad.cifar.data import archives, digits, folders
from fastgrad.cifar.errors import UsageError

_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_NAMED = {"cifar10": archives.LAYOUTS[0], "cifar100": archives.LAYOUTS[2]}


@dataclass(frozen=True)
class Dataset:
    """Images, labels and what is to be said about them."""

    train_x: Tensor  # uint8 [N, C, H, W]
    train_y: Tensor  # int64 [N]
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]
    name: str  # as reports show it
    mean: tuple[float, ...]  # per channel of the whole training set, pixels in [0, 1]
    std: tuple[float, ...]
    flip: bool  # whether a mirrored image is still one of its class

    def fingerprint(self) -> str:
        """Changes with any pixel, label or their order; used to notice that a resumed run sees other data."""
        crc = 0
        for tensor in (self.train_x, self.train_y, self.test_x, self.test_y):
            crc = zlib.crc32(tensor.numpy().data, crc)
        return f"{len(self.train_x)}+{len(self.test_x)}-{crc:08x}"


def load(
    spec: str, *, download: bool = False, limit_train: int | None = None, md5: str | None = "official"
) -> Dataset:
    """Read the data set ``spec``.

    limit_train  keep only the first images of each class in turn, so many in all; the name says so
    md5          "official": archives must have the published checksum; None: any content (for tests)
    """
    arrays, classes, name, flip = _read(spec, download, md5)
    shape = arrays["train_x"].shape
    if shape[2] != shape[3] or arrays["test_x"].shape[1:] != shape[1:]:
        raise UsageError(f"{spec}: expected square images of one size, got {shape[2]}x{shape[3]}")
    counts = np.bincount(arrays["train_y"], minlength=len(classes))
    if not counts.all():
        raise UsageError(f"{spec}: no training image of class {classes[int(counts.argmin())]!r}")
    mean, std = _channel_statistics(arrays["train_x"])
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}
    data = Dataset(**tensors, classes=classes, name=name, mean=mean, std=std, flip=flip)
    return data if limit_train is None else _limited(data, limit_train)


def _read(
    spec: str, download: bool, md5: str | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...], str, bool]:
    if spec == "digits":
        return *digits.read(), "digits", False  # a mirrored 2 is not a 2
    path = _named(spec, download) if spec in _NAMED else Path(spec).expanduser()
    if not path.exists():
        raise UsageError(f"data: {spec!r} does not exist; expected digits, {', '.join(_NAMED)}, or a path")
    if layout := archives.detect(path):
        arrays, classes = archives.read(path, layout, md5)
        return arrays, classes, layout.name + _odd_size(arrays), True
    arrays, classes, kind = folders.read(path)
    known = classes == _CIFAR10_CLASSES and arrays["train_x"].shape[1:] == (3, 32, 32)
    name = f"CIFAR-10 ({kind} copy){_odd_size(arrays)}" if known else f"{path.name} ({kind} images)"
    return arrays, classes, name, True


def _named(spec: str, download: bool) -> Path:
    archive = _NAMED[spec].archive
    path = folders.cache_folder() / archive
    if path.exists():
        return path
    address = archives.ADDRESS + archive
    if not download:
        raise UsageError(
            f"data: {spec} is not in {path.parent}; add --download to fetch {address}, or give a path"
        )
    import pooch

    try:
        pooch.retrieve(address, known_hash=f"md5:{_NAMED[spec].md5}", fname=archive, path=path.parent)
    except Exception as error:  # whatever the network layer raises, and ValueError for a wrong checksum
        raise UsageError(f"{address}: the download failed ({error})") from error
    return path


def _odd_size(arrays: dict[str, np.ndarray]) -> str:
    """Nothing for the 50,000 + 10,000 images of the real thing, else their numbers."""
    train, test = len(arrays["train_y"]), len(arrays["test_y"])
    return "" if (train, test) == (50_000, 10_000) else f", {train:,} + {test:,} images"


def _channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, pixels in [0, 1]; from exact integer sums."""
    total = np.zeros(images.shape[1], np.int64)
    squares = np.zeros(images.shape[1], np.int64)
    for start in range(0, len(images), 2048):  # int32 of everything at once would be four times the memory
        part = images[start : start + 2048].astype(np.int32)
        total += part.sum((0, 2, 3), dtype=np.int64)
        squares += (part * part).sum((0, 2, 3), dtype=np.int64)
    pixels = images.size // images.shape[1]
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean * mean, 1.0))  # a constant image must not divide by zero
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _limited(data: Dataset, limit: int) -> Dataset:
    if not len(data.classes) <= limit <= len(data.train_y):
        raise UsageError(
            f"limit_train: expected {len(data.classes)} to {len(data.train_y)} "
            f"(one image a class, all images); got {limit}"
        )
    labels = data.train_y.numpy()
    order = np.lexsort((labels, digits.rank_in_class(labels)))[:limit]
    kept = torch.from_numpy(np.sort(order))
    return replace(
        data,
        train_x=data.train_x[kept],
        train_y=data.train_y[kept],
        name=f"{data.name}, first {limit:,} training images",
    )
