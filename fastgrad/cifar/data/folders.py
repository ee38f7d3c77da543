"""Image folders ``train/<class>/*.jpg|jpeg|png`` and ``test/<class>/...``, or a tar archive of such a folder.

Everything is decoded into uint8 arrays once and kept in the cache folder: 60,000 small files take ten seconds
to decode, their arrays a fifth of a second to read back. Hidden files and other kinds are passed over.
"""

import contextlib
import hashlib
import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from fastgrad.cifar.errors import UsageError

SPLITS = ("train", "test")
SUFFIXES = (".jpg", ".jpeg", ".png")
_CACHE_VERSION = 1  # part of the key: raise it when the decoded arrays change


def cache_folder() -> Path:
    """``$FASTGRAD_CACHE``, else ``fastgrad`` in the user's cache folder (XDG)."""
    if own := os.environ.get("FASTGRAD_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastgrad"


def read(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...], str]:
    """Arrays train_x, train_y, test_x, test_y, the class names, and the kind of files (JPEG, PNG or both).

    Images are ordered by class and then by file name, whatever the order in the archive.
    """
    cached = cache_folder() / f"images-{_key(path)}.npz"
    try:
        with np.load(cached) as stored:
            arrays = {name: stored[name] for name in ("train_x", "train_y", "test_x", "test_y")}
            return arrays, tuple(stored["classes"].tolist()), str(stored["kind"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass  # a damaged cache file is only a reason to decode again; it is overwritten below
    arrays, classes, kind = _decode_all(path)
    _store(cached, **arrays, classes=np.array(classes), kind=np.array(kind))
    return arrays, classes, kind


def _key(path: Path) -> str:
    """Changes when a file's name, size or time of change does."""
    digest = hashlib.blake2b(f"{_CACHE_VERSION}\n{path.resolve()}\n".encode(), digest_size=12)
    entries = [(path, path.name)] if path.is_file() else _folder_entries(path)
    for file, name in entries:
        status = file.stat()
        digest.update(f"{name}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _folder_entries(path: Path) -> list[tuple[Path, str]]:
    files = [file for split in SPLITS for file in sorted((path / split).glob("*/*"))]
    return [(file, file.relative_to(path).as_posix()) for file in files if file.is_file()]


def _store(target: Path, **arrays: np.ndarray) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes them for allow_pickle
        os.replace(temporary, target)
    except OSError as error:
        # A full or read-only disk costs the next run some seconds and this one nothing.
        print(f"note: the decoded images could not be kept in {target.parent} ({error.strerror})")
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file, in the order in which they lie (a tar is read front to back once)."""
    if path.is_dir():
        for file, name in _folder_entries(path):
            yield name, file.read_bytes()
        return
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                if member.isfile() and _place(member.name):
                    yield member.name, tar.extractfile(member).read()  # type: ignore[union-attr]  # None: no file
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UsageError(f"{path}: truncated or damaged archive ({error})") from error


def _place(name: str) -> tuple[str, str, str] | None:
    """(split, class, file) of ``.../train/cat/0001.jpg``; None for what is not an image of the data set."""
    parts = PurePosixPath(name).parts[-3:]
    if len(parts) < 3 or parts[0] not in SPLITS or parts[2].startswith("."):
        return None
    split, kind, file = parts
    return (split, kind, file) if file.lower().endswith(SUFFIXES) else None


def _decode_all(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...], str]:
    images: dict[tuple[str, str, str], np.ndarray] = {}
    first = ""
    for name, content in _contents(path):
        if (place := _place(name)) is None:
            continue
        image = _decode(content, f"{path}: {name}")
        first = first or name
        expected = next(iter(images.values()), image).shape
        if image.shape != expected:
            raise UsageError(
                f"{path}: {name} is {_size(image.shape)}, but {first} is {_size(expected)}; "
                "expected images of one size and kind"
            )
        if place in images:
            raise UsageError(f"{path}: {name} appears twice")
        images[place] = image
    found = {split: sorted({place[1] for place in images if place[0] == split}) for split in SPLITS}
    if not images or not found["train"]:
        raise UsageError(
            f"{path}: no images found; expected train/<class>/*.jpg or .png, and test/<class>/..."
        )
    if found["train"] != found["test"]:
        lacking = {split: sorted({*found["train"], *found["test"]} - {*found[split]}) for split in SPLITS}
        raise UsageError(
            f"{path}: expected the same classes in train and test; "
            + "; ".join(f"{split} lacks {', '.join(names)}" for split, names in lacking.items() if names)
        )
    arrays = {}
    for split in SPLITS:
        places = sorted(place for place in images if place[0] == split)
        arrays[f"{split}_x"] = np.stack([images[place] for place in places])
        arrays[f"{split}_y"] = np.array([found["train"].index(place[1]) for place in places], np.int64)
    kinds = {"PNG" if place[2].lower().endswith(".png") else "JPEG" for place in images}
    return arrays, tuple(found["train"]), " and ".join(sorted(kinds))


def _decode(content: bytes, source: str) -> np.ndarray:  # uint8 [1 or 3, H, W]
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            if image.mode not in ("L", "RGB", "RGBA", "P", "CMYK", "1", "LA"):
                raise UsageError(f"{source}: expected 8 bits a channel, got mode {image.mode}")
            pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except UsageError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise UsageError(f"{source}: not a readable JPEG or PNG image ({error})") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]} with {shape[0]} channel{'s' if shape[0] > 1 else ''}"
