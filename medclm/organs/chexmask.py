"""CheXmask: csv with lungs and heart of each film as run lengths, ``start length`` pairs, 1-based and row-major.

Only its files at the films' original resolution fit a film: those have the columns Height and Width.
"""

from __future__ import annotations

import csv
import hashlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from medclm.archives import cache_folder
from medclm.organs.names import collect
from medclm.organs.placement import fit
from medclm.organs.source import OrganError
from medclm.problems import DataError, Reason

if TYPE_CHECKING:
    from medclm.cases import Case
    from medclm.images.picture import Picture

ID_COLUMNS = ("dicom_id", "Image Index", "ImageID", "image_id", "Path")  # MIMIC; NIH; PadChest, CANDID; VinDr; CheXpert
ORGANS = ("Left Lung", "Right Lung", "Heart")
QUALITY = "Dice RCA (Mean)"
COLUMNS = (QUALITY, *ORGANS, "Height", "Width")
MINIMUM_DICE = 0.7  # the authors' own cut
_FIELD_LIMIT = (
    1 << 27
)  # characters; csv's own limit of 131,072 is less than the landmarks and run lengths of large films


@dataclass(frozen=True)
class CheXmask:
    """The file stays on the disk: memory holds 16 bytes a row, an index that is kept in the cache folder."""

    path: Path
    minimum_dice: float = MINIMUM_DICE
    name: str = "chexmask"
    _index: Index = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", open_index(self.path))

    def masks(self, case: Case, picture: Picture) -> dict[str, np.ndarray]:
        row = next((found for key in keys(case) if (found := self._index.row(self.path, key)) is not None), None)
        if row is None:
            raise OrganError(Reason.MASK_MISSING, f"not in {self.path.name}")
        try:
            quality, height, width = float(row[QUALITY]), int(float(row["Height"])), int(float(row["Width"]))
            if not quality >= self.minimum_dice:
                raise OrganError(Reason.NOISY, f"{self.path.name}: {QUALITY} {quality:.2f} < {self.minimum_dice}")
            what, shape = self.path.name, picture.pixels.shape[:2]
            return collect({organ: fit(decode(row[organ], height, width), shape, what) for organ in ORGANS})
        except ValueError as error:
            raise OrganError(Reason.MASK_UNREADABLE, f"{self.path.name}: {error}") from error


def decode(runs: str, height: int, width: int) -> np.ndarray:
    """``"3 2"`` -> bool [height, width] with the third and fourth pixel of the first row set."""
    numbers = np.array(runs.split(), dtype=np.int64)  # ValueError where one is no number
    if numbers.size % 2:
        raise ValueError(f"run lengths: expected pairs, got {numbers.size} numbers")
    starts, lengths = numbers[0::2] - 1, numbers[1::2]
    if numbers.size and (starts.min() < 0 or lengths.min() < 0 or (starts + lengths).max() > height * width):
        raise ValueError(f"run lengths: leave the {height} x {width} pixels")
    edges = np.zeros(height * width + 1, np.int32)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + lengths, -1)
    return (np.cumsum(edges[:-1]) > 0).reshape(height, width)


def keys(case: Case) -> Iterator[str]:
    """How the csv may name the case's film: by id, by file name, or (CheXpert) by the end of its path."""
    yield _key(case.id)
    parts = case.image_path().parts
    for count in range(1, min(len(parts), 6) + 1):
        yield _key("/".join(parts[-count:]))


@dataclass(frozen=True)
class Index:
    """hashes: uint64 [rows], sorted; offsets: int64 [rows], where each row starts, in bytes; header: its columns."""

    header: tuple[str, ...]
    id_column: str
    hashes: np.ndarray
    offsets: np.ndarray

    def row(self, path: Path, key: str) -> dict[str, str] | None:
        hashed = _hash(key)
        for at in range(int(np.searchsorted(self.hashes, hashed)), len(self.hashes)):
            if self.hashes[at] != hashed:
                return None
            with path.open("rb") as file:
                file.seek(int(self.offsets[at]))
                values = next(csv.reader(_Lines(file)))
            row = dict(zip(self.header, values, strict=False))
            if _key(row[self.id_column]) == key:
                return row
        return None


def open_index(path: Path) -> Index:
    """Read from the cache folder; made, in one pass over the file, where it is not there or the file has changed."""
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
    with path.open("rb") as file:
        reader = csv.reader(_Lines(file))
        try:
            header = tuple(next(reader, ()))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: expected a CheXmask csv, not compressed ({error})") from error
    id_column = next((name for name in ID_COLUMNS if name in header), None)
    if id_column is None or not set(COLUMNS) <= set(header):
        raise DataError(
            f"{path}: expected a CheXmask csv at original resolution, with one of the columns "
            f"{', '.join(ID_COLUMNS)} and all of {', '.join(COLUMNS)}; found {', '.join(header)}"
        )
    facts = path.stat()
    name = hashlib.sha256(f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:24]
    kept = cache_folder() / "chexmask" / f"{name}.npy"
    try:
        table = np.load(kept, allow_pickle=False)
    except (OSError, ValueError):
        table = _build(path, header.index(id_column))
        _save(kept, table)
    return Index(header, id_column, table[0], table[1].view(np.int64))


def _build(path: Path, id_at: int) -> np.ndarray:
    """uint64 [2, rows]: hashes, sorted, and offsets."""
    hashes, offsets = [], []
    with path.open("rb") as file:
        lines = _Lines(file)
        reader = csv.reader(lines)
        next(reader)
        start = lines.end
        for row in reader:  # a row may run over several lines: landmarks are printed arrays
            if len(row) > id_at:
                hashes.append(_hash(_key(row[id_at])))
                offsets.append(start)
            start = lines.end
    order = np.argsort(np.array(hashes, np.uint64), kind="stable")
    return np.stack([np.array(hashes, np.uint64)[order], np.array(offsets, np.uint64)[order]])


def _save(path: Path, table: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{uuid.uuid4().hex}.npy")
    try:
        np.save(fresh, table)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


class _Lines:
    """The lines of a file as text, and how many bytes they took: text files do not tell while they are iterated."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.end = file.tell()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.end += len(line)
        return line.decode("utf-8-sig" if self.end == len(line) else "utf-8")


def _key(name: str) -> str:
    """Without the suffix of an image file: sets name one film by ``x.jpg``, ``x.dcm`` and ``x``."""
    root, suffix = os.path.splitext(name.strip())
    return root if suffix.lower() in (".png", ".jpg", ".jpeg", ".dcm", ".dicom") else name.strip()


def _hash(key: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little"))
