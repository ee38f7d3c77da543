"""Readers of foreign bytes under a fuzzer: whatever they are given, they answer or refuse, and never end otherwise.

    pip install atheris                                           # guided by coverage; without it, by chance alone
    python -m tests.fuzz_parsers --seconds 60                     # each
    python -m tests.fuzz_parsers --only dicom --seconds 600 --seed 3
    python -m tests.fuzz_parsers --only dicom --file crash-1234   # one input again

An input at which a reader ends in another error is written to the present folder (atheris: crash-<digest>).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import math
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

try:
    import atheris
except ImportError:
    atheris = None

LONGEST = 1 << 16  # bytes of an input


@dataclass(frozen=True)
class Target:
    """read: raises what is no refusal. seeds: inputs to begin from."""

    read: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]


@cache
def _work() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-parsers-"))


def _file(data: bytes, name: str) -> Path:
    path = _work() / name
    path.write_bytes(data)
    return path


# Box codecs and replies -----------------------------------------------------------------------------------------------


def read_codecs(data: bytes) -> None:
    from medclm.codecs import CODECS

    text = data.decode("utf-8", "replace")
    for codec in CODECS.values():
        for _, box in codec.decode(text, (640, 480)):
            if len(box) != 4 or not all(map(math.isfinite, box)):
                raise AssertionError(f"{codec.name}: {box}")


def seeds_of_codecs() -> list[bytes]:
    from medclm.codecs import CODECS

    return [codec.encode((10.0, 20.0, 300.0, 400.0), (640, 480), "nodule").encode() for codec in CODECS.values()]


def read_reply(data: bytes) -> None:
    from medclm.evaluation.replies import answer_of
    from medclm.questions.reply import RationaleError, parse

    text = data.decode("utf-8", "replace")
    answer_of(text)
    try:
        parse(text)
    except RationaleError:
        pass


def seeds_of_replies() -> list[bytes]:
    return [b"Is there a nodule? | It is in the left lung, box [10, 20, 30, 40]. | Yes", b"Reasoning: a\n\nAnswer: b"]


# Tables ---------------------------------------------------------------------------------------------------------------

HEADERS = {
    "vindr": "image_id,rad_id,class_name,x_min,y_min,x_max,y_max",
    "nih": "Image Index,Finding Label,Bbox [x,y,w,h],,,",
    "rsna": "patientId,x,y,width,height,Target",
    "deeplesion": "File_name,Key_slice_index,Bounding_boxes,Coarse_lesion_type,Image_size,Spacing_mm_px_,DICOM_windows",
}


def read_tables(data: bytes) -> None:
    from medclm.problems import DataError, Problems
    from medclm.readers import tables

    path = _file(data, "table.csv")
    for header in HEADERS.values():
        columns = [name for name in header.split(",") if name]
        try:
            for _ in tables.rows(path, columns, Problems()):
                pass
        except DataError:
            pass


def read_vindr(data: bytes) -> None:
    from medclm.problems import DataError, Problems
    from medclm.readers import vindr

    try:
        for _ in vindr.read(_file(data, "annotations.csv"), _work(), Problems(), original_sizes="same"):
            pass
    except DataError:
        pass


def seeds_of_tables() -> list[bytes]:
    rows = {
        "vindr": "a,R1,Nodule,1,2,30,40\na,R2,No finding,,,,", "nih": "a.png,Mass,1.5,2,30,40", "rsna": "a,1,2,3,4,1",
    }  # fmt: skip
    return [f"{header}\n{rows.get(name, '')}\n".encode() for name, header in HEADERS.items()]


# Files of images and archives -----------------------------------------------------------------------------------------


def read_dicom(data: bytes) -> None:
    from medclm.cases import ImageRef
    from medclm.images import dicom
    from medclm.images.picture import ImageError

    try:
        dicom.load(ImageRef(str(_file(data, "image.dcm"))))
    except ImageError:
        pass


def seeds_of_dicom() -> list[bytes]:
    import numpy as np
    from image_files import dicom

    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    tags = ({}, {"WindowCenter": [40, 400], "WindowWidth": [80, 900]})
    return [dicom(_work() / "seed.dcm", pixels, **some).read_bytes() for some in tags]


def read_archive(data: bytes) -> None:
    from fastgrad.cifar.data import archives
    from fastgrad.cifar.errors import UsageError

    path = _file(data, "archive.tar")
    try:
        layout = archives.detect(path)
        if layout is not None:
            archives.read(path, layout, md5=None)
    except UsageError:
        pass


def seeds_of_archives() -> list[bytes]:
    import pickle

    from fastgrad.cifar.data.archives import LAYOUTS

    made = []
    for layout in LAYOUTS:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name in (*layout.train, layout.test, layout.names):
                content = pickle.dumps({"data": b"", "labels": [], "fine_labels": [], "label_names": ["a"]})
                entry = tarfile.TarInfo(f"{layout.folder}/{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        made.append(file.getvalue())
    return made


def read_pickle(data: bytes) -> None:
    from medclm.evaluation.benchmarks import path_vqa
    from medclm.problems import DataError, Problems

    folder = _work() / "path_vqa"
    (folder / "qas" / "test").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "test").mkdir(parents=True, exist_ok=True)
    (folder / "qas" / "test" / "test_qa.pkl").write_bytes(data)
    try:
        path_vqa.read(folder, Problems())
    except DataError:
        pass


def seeds_of_pickles() -> list[bytes]:
    import pickle

    return [pickle.dumps([{"question": "is it?", "answer": "yes", "image": "test_0001"}])]


TARGETS = {
    "codecs": Target(read_codecs, seeds_of_codecs),
    "reply": Target(read_reply, seeds_of_replies),
    "tables": Target(read_tables, seeds_of_tables),
    "vindr": Target(read_vindr, seeds_of_tables),
    "dicom": Target(read_dicom, seeds_of_dicom),
    "archive": Target(read_archive, seeds_of_archives),
    "pickle": Target(read_pickle, seeds_of_pickles),
}


# Engines --------------------------------------------------------------------------------------------------------------


def by_chance(target: Target, seconds: float, rng: random.Random, calls: int | None = None) -> tuple[int, str]:
    """(inputs tried, the error that one of them led to)."""
    seeds = list(target.seeds())
    deadline, tried = time.monotonic() + seconds, 0
    while time.monotonic() < deadline and (calls is None or tried < calls):
        data = mutated(rng, seeds)
        tried += 1
        try:
            target.read(data)
        except Exception as error:
            name = f"crash-{hashlib.sha256(data).hexdigest()[:16]}"
            Path(name).write_bytes(data)
            return tried, f"{type(error).__name__}: {error} ({name})"
    return tried, ""


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One to eight changes: bytes replaced, cut out, doubled, or taken from another seed."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 8)):
        begin = rng.randrange(len(data) + 1)
        end = min(len(data), begin + rng.choice((1, 1, 2, 4, 16, 256)))
        other = rng.choice(seeds)
        start = rng.randrange(len(other) + 1)
        choices = (rng.randbytes(end - begin), b"", bytes(data[begin:end]) * 2, other[start : start + end - begin])
        data[begin:end] = rng.choice(choices)
    return bytes(data[:LONGEST])


def guided(name: str, seconds: float, seed: int) -> str:
    """The end of what libFuzzer says, in a process of its own, which it ends itself; empty if it found nothing."""
    corpus = _work() / f"corpus-{name}"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed{number}").write_bytes(data)
    command = [
        sys.executable, "-m", "tests.fuzz_parsers", "--under-atheris", name, str(corpus), f"-seed={seed}",
        f"-max_total_time={seconds:.0f}", f"-max_len={LONGEST}", "-timeout=20", "-rss_limit_mb=4096",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    tried = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
    print(f"{name}: {tried[-1] if tried else 'stopped'}", flush=True)
    return "" if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-2000:]


def under_atheris(name: str, arguments: Sequence[str]) -> None:
    with atheris.instrument_imports(include=["medclm", "fastgrad.cifar", "pydicom"]):
        TARGETS[name].read(b"")  # imports what it needs
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name].read)
    atheris.Fuzz()


def main(arguments: Sequence[str] | None = None) -> int:
    warnings.filterwarnings("ignore", module="pydicom")  # of what was damaged, thousands
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--under-atheris"]:
        under_atheris(words[1], words[2:])
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_parsers", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seconds", type=float, default=60.0, help="each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", type=Path, help="this input alone")
    options = parser.parse_args(words)
    if options.file is not None:
        for name in options.only:
            TARGETS[name].read(options.file.read_bytes())
        return 0
    failed = False
    for name in options.only:
        if atheris is not None:
            error = guided(name, options.seconds, options.seed)
        else:
            tried, error = by_chance(TARGETS[name], options.seconds, random.Random(f"{options.seed} {name}"))
            print(f"{name}: {tried:,} inputs by chance", flush=True)
        if error:
            print(f"{name}: {error}", flush=True)
        failed |= bool(error)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
