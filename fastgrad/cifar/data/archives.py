"""The official CIFAR-10 and CIFAR-100 files: Python and binary layout, as a folder or as the ``.tar.gz``.

Images come out as uint8 [N, 3, 32, 32], labels (CIFAR-100: the fine ones) as int64 [N].
"""

import hashlib
import importlib
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastgrad import plain_pickle
from fastgrad.cifar.errors import UsageError

ADDRESS = "https://www.cs.toronto.edu/~kriz/"
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """One of the four published forms of the data."""

    name: str  # of the data set
    archive: str
    md5: str  # of the archive
    folder: str
    train: tuple[str, ...]
    test: str
    names: str  # the file with the class names
    names_key: bytes | None  # in a pickle; None: one name a line
    labels_key: bytes | None  # in a pickle; None: label bytes stand before the pixels of each record
    label_bytes: int = 0  # per record; the last one is the class
    # What is known of the extracted files: MD5 in the Python layout, size in bytes in the binary one.
    extracted: tuple[tuple[str, str | int], ...] = ()


LAYOUTS = (
    Layout(
        "CIFAR-10", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta",
        b"label_names", b"labels",
        extracted=(
            ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
            ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
            ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
            ("data_batch_4", "634d18415352ddfa80567beed471001a"),
            ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            ("test_batch", "40351d587109b95175f43aff81a1287e"),
            ("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
        ),
    ),
    Layout(
        "CIFAR-10", "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt",
        None, None, 1,
        extracted=tuple((f"{name}.bin", 10_000 * (1 + PIXELS))
                        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")),
    ),
    Layout(
        "CIFAR-100", "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python",
        ("train",), "test", "meta", b"fine_label_names", b"fine_labels",
        extracted=(
            ("train", "16019d7e3df5f24257cddd939b257f8d"),
            ("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
            ("meta", "7973b15100ade9c7d40fb424638fde48"),
        ),
    ),
    Layout(
        "CIFAR-100", "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary",
        ("train.bin",), "test.bin", "fine_label_names.txt", None, None, 2,
        extracted=(("train.bin", 50_000 * (2 + PIXELS)), ("test.bin", 10_000 * (2 + PIXELS))),
    ),
)  # fmt: skip

_ALLOWED_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
# Its module was renamed in numpy 2; an array always knows it.
_RECONSTRUCT = np.empty(0).__reduce__()[0]


def _allowed(source: str) -> Callable[[str, str], Any]:
    """What a pickle may ask for: numpy arrays. One that names anything else could run code: refused."""

    def find_class(module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED_GLOBALS:
            raise UsageError(
                f"{source}: refused, the pickle asks for {module}.{name}; "
                "expected numpy arrays, lists, dicts, numbers and strings only"
            )
        return _RECONSTRUCT if name == "_reconstruct" else getattr(importlib.import_module(module), name)

    return find_class


def detect(path: Path) -> Layout | None:
    """The published layout that ``path`` (a folder or a tar file) holds, by the names in it; else None."""
    if path.is_dir():
        for layout in LAYOUTS:
            if any((folder / layout.train[0]).is_file() for folder in (path, path / layout.folder)):
                return layout
        return None
    try:
        with tarfile.open(path, "r:*") as tar:
            first = tar.next()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UsageError(f"{path}: expected a tar archive, but it cannot be read ({error})") from error
    top = first.name.removeprefix("./").split("/")[0] if first else ""
    return next((layout for layout in LAYOUTS if layout.folder == top), None)


def read(
    path: Path, layout: Layout, md5: str | None = "official"
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Arrays train_x, train_y, test_x, test_y and the class names. ``md5=None``: any content is accepted."""
    if path.is_dir():
        files = _folder_files(path, layout, check=md5 is not None)
    else:
        files = _tar_files(path, layout, layout.md5 if md5 == "official" else md5)
    source = {name: f"{path}: {name}" for name in files}
    classes = _class_names(files[layout.names], layout, source[layout.names])
    decode = _decode_pickle if layout.labels_key else _decode_binary
    train = [decode(files[name], layout, len(classes), source[name]) for name in layout.train]
    test_x, test_y = decode(files[layout.test], layout, len(classes), source[layout.test])
    arrays = dict(
        train_x=np.concatenate([x for x, _ in train]),
        train_y=np.concatenate([y for _, y in train]),
        test_x=test_x,
        test_y=test_y,
    )
    return arrays, classes


def _needed(layout: Layout) -> tuple[str, ...]:
    return (*layout.train, layout.test, layout.names)


def _folder_files(path: Path, layout: Layout, check: bool) -> dict[str, bytes]:
    folder = path / layout.folder if (path / layout.folder).is_dir() else path
    files = {}
    for name in _needed(layout):
        if not (folder / name).is_file():
            raise UsageError(f"{folder / name}: missing; expected all of {', '.join(_needed(layout))}")
        files[name] = (folder / name).read_bytes()
    for name, expected in layout.extracted if check else ():
        found = len(files[name]) if isinstance(expected, int) else hashlib.md5(files[name]).hexdigest()
        if found != expected:
            what = "size" if isinstance(expected, int) else "MD5"
            raise UsageError(f"{folder / name}: expected {what} {expected} of the official file, got {found}")
    return files


def _tar_files(path: Path, layout: Layout, md5: str | None) -> dict[str, bytes]:
    if md5 is not None:
        digest = hashlib.md5()
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
        found = digest.hexdigest()
        if found != md5:
            raise UsageError(
                f"{path}: expected MD5 {md5} of the official {layout.archive}, got {found}; "
                "the download is damaged or the file was changed"
            )
    wanted = {f"{layout.folder}/{name}": name for name in _needed(layout)}
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                name = wanted.get(member.name.removeprefix("./"))
                if name is not None and member.isfile():
                    with tar.extractfile(member) as file:  # type: ignore[union-attr]  # None only of what is no file
                        files[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UsageError(f"{path}: truncated or damaged archive ({error})") from error
    missing = [name for name in _needed(layout) if name not in files]
    if missing:
        raise UsageError(
            f"{path}: {', '.join(missing)} missing; expected all of {', '.join(_needed(layout))}"
        )
    return files


def _unpickle(content: bytes, source: str) -> dict:
    try:
        value = plain_pickle.load(content, _allowed(source), encoding="bytes")
    except UsageError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        raise UsageError(
            f"{source}: truncated or damaged pickle ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(value, dict):
        raise UsageError(f"{source}: expected a pickled dict, got {type(value).__name__}")
    return value


def _class_names(content: bytes, layout: Layout, source: str) -> tuple[str, ...]:
    if layout.names_key is None:
        names = content.decode("utf-8", "replace").split()
    else:
        names = [
            bytes(name).decode() if isinstance(name, bytes) else str(name)
            for name in _unpickle(content, source).get(layout.names_key, [])
        ]
    expected = int(layout.name.split("-")[1])
    if len(names) != expected:
        raise UsageError(f"{source}: expected {expected} class names, got {len(names)}")
    return tuple(names)


def _decode_pickle(
    content: bytes, layout: Layout, classes: int, source: str
) -> tuple[np.ndarray, np.ndarray]:
    batch = _unpickle(content, source)
    data, labels = batch.get(b"data"), batch.get(layout.labels_key)
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.ndim != 2
        or data.shape[1] != PIXELS
    ):
        raise UsageError(
            f"{source}: expected b'data' as uint8 [N, {PIXELS}], got "
            f"{(data.dtype, data.shape) if isinstance(data, np.ndarray) else type(data).__name__}"
        )
    if not isinstance(labels, list) or len(labels) != len(data):
        raise UsageError(
            f"{source}: expected {layout.labels_key!r} as a list of {len(data)} labels, got "
            f"{len(labels) if isinstance(labels, list) else type(labels).__name__}"
        )
    return data.reshape(-1, 3, 32, 32), _checked_labels(labels, classes, source)


def _decode_binary(
    content: bytes, layout: Layout, classes: int, source: str
) -> tuple[np.ndarray, np.ndarray]:
    record = layout.label_bytes + PIXELS
    if not content or len(content) % record:
        raise UsageError(
            f"{source}: expected whole records of {record} bytes, got {len(content)} bytes; truncated?"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    images = records[:, layout.label_bytes :].reshape(-1, 3, 32, 32)
    return images, _checked_labels(records[:, layout.label_bytes - 1], classes, source)


def _checked_labels(labels: list | np.ndarray, classes: int, source: str) -> np.ndarray:
    try:
        array = np.asarray(labels).astype(np.int64, casting="safe")
    except (TypeError, ValueError) as error:
        raise UsageError(f"{source}: expected integer labels ({error})") from error
    if array.size and not 0 <= array.min() <= array.max() < classes:
        raise UsageError(f"{source}: expected labels 0 to {classes - 1}, got {array.min()} to {array.max()}")
    return array
