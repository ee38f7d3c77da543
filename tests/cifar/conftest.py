"""Fixtures: one CPU thread, and miniature data in the layouts of the real files."""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgrad.cifar.data.archives import LAYOUTS, PIXELS, Layout

COUNTS = {"train": 20, "test": 10}


@pytest.fixture(autouse=True)
def one_thread_and_own_cache(monkeypatch, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("FASTGRAD_CACHE", str(tmp_path / "cache"))
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def layouts() -> dict[str, Layout]:
    return {layout.folder: layout for layout in LAYOUTS}


def _pickled_by_python2(value: object) -> bytes:
    """Protocol 2 as Python 2 writes it: text is bytes, numpy has its old module name."""
    out = io.BytesIO()
    out.write(b"\x80\x02")
    _write_python2(value, out)
    out.write(b".")
    return out.getvalue()


def _write_python2(value: object, out: io.BytesIO) -> None:
    if isinstance(value, dict):
        out.write(b"}(")
        for key, item in value.items():
            _write_python2(key, out)
            _write_python2(item, out)
        out.write(b"u")
    elif isinstance(value, list):
        out.write(b"](")
        for item in value:
            _write_python2(item, out)
        out.write(b"e")
    elif isinstance(value, bytes):
        out.write(
            (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + len(value).to_bytes(4, "little"))
            + value
        )
    elif isinstance(value, int):
        out.write(b"J" + value.to_bytes(4, "little", signed=True))
    else:
        out.write(
            b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85U\x01b\x87R(K\x01"
        )
        rows, columns = value.shape
        out.write(b"J" + rows.to_bytes(4, "little") + b"J" + columns.to_bytes(4, "little") + b"\x86")
        out.write(
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        )
        _write_python2(value.tobytes(), out)
        out.write(b"tb")


@pytest.fixture
def official(tmp_path) -> Callable[..., tuple[Path, dict[str, np.ndarray]]]:
    """official(layout, kind="folder" or "tar", replace={name: bytes or None}) -> (path, the arrays in it)."""

    def make(layout: Layout, kind: str = "folder", replace: dict[str, bytes | None] | None = None):
        files, arrays = _official_files(layout)
        files = {
            name: content for name, content in {**files, **(replace or {})}.items() if content is not None
        }
        folder = tmp_path / layout.folder
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if kind == "folder":
            return folder, arrays
        path = tmp_path / layout.archive
        with tarfile.open(path, "w:gz") as tar:
            tar.add(folder, layout.folder)
        return path, arrays

    return make


def _official_files(layout: Layout) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    classes = 10 if layout.name == "CIFAR-10" else 100
    names = [f"class{i}".encode() for i in range(classes)]
    files: dict[str, bytes] = {"readme.html": b"<html>"}
    arrays: dict[str, np.ndarray] = {}
    for split, places in (("train", layout.train), ("test", (layout.test,))):
        # Every class must have a training image, so a miniature of CIFAR-100 needs a hundred.
        count = max(COUNTS[split], classes if split == "train" else 0)
        x = random.integers(0, 256, (count, PIXELS), np.uint8)
        y = np.arange(count) % classes
        arrays[f"{split}_x"], arrays[f"{split}_y"] = x.reshape(-1, 3, 32, 32), y
        for place, rows, labels in zip(
            places, np.split(x, len(places)), np.split(y, len(places)), strict=True
        ):
            if layout.labels_key:
                coarse = {b"coarse_labels": (labels // 5).tolist()} if classes == 100 else {}
                files[place] = _pickled_by_python2(
                    {b"batch_label": b"some", layout.labels_key: labels.tolist(), **coarse, b"data": rows}
                )
            else:
                head = (
                    [(labels // 5)[:, None], labels[:, None]]
                    if layout.label_bytes == 2
                    else [labels[:, None]]
                )
                files[place] = np.concatenate([*head, rows], 1).astype(np.uint8).tobytes()
    if layout.names_key:
        files[layout.names] = _pickled_by_python2({layout.names_key: names, b"num_vis": 3072})
    else:
        files[layout.names] = b"\n".join(names) + b"\n\n"
    return files, arrays


@pytest.fixture
def malicious() -> bytes:
    class Bomb:
        def __reduce__(self):
            import os

            return os.system, ("echo a pickle ran code >&2",)

    return pickle.dumps({b"data": Bomb(), b"labels": []}, protocol=2)


@pytest.fixture
def image_folder(tmp_path) -> Callable[..., Path]:
    """image_folder(classes, suffix, per_class) -> a folder of train/<class>/*, test/<class>/*, 32x32 RGB."""

    def make(classes=("cat", "dog"), suffix=".png", per_class=3, name="pictures") -> Path:
        from PIL import Image

        random = np.random.default_rng(1)
        for split in ("train", "test"):
            for kind in classes:
                folder = tmp_path / name / split / kind
                folder.mkdir(parents=True)
                for i in range(per_class):
                    pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i:04d}{suffix}")
        return tmp_path / name

    return make
