"""Images a second of a conversion, its processor time and peak memory, beside reading, resizing and encoding alone.

    python -m bench.medclm_convert [--images 2000] [--side 512]                 # made for it, two lesions each
    python -m bench.medclm_convert --phantoms FOLDER [--films]                  # of `medclm phantom-data`, with masks
                                   [--workers 2] [--max-side 512] [--ray] [--json FILE]

The pictures made for it are noise over smooth structures. Of phantoms half of the CT are slices of NIfTI volumes;
--films takes the radiographs alone: 8-bit PNG, and a PNG of masks beside each. The floor reads the same images, and the
masks of those that have lesions, resizes them, and encodes the pictures that are in the converted set: the plain ones,
and those in colour with their boxes drawn. An image counts once, however many questions show it. Memory is the
proportional set size of all processes together, sampled twice a second: to sample takes some milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from medclm import engines, png, sets
from medclm.allocation import keep_freed
from medclm.cases import Case, ImageRef, Lesion
from medclm.drawing import draw_boxes
from medclm.images import load
from medclm.pipeline import convert_cases
from medclm.privacy import hashed
from medclm.problems import Problems
from medclm.resizing import resize_picture, stored_size
from medclm.settings import Settings

SALT = "a salt for measurements"
LABELS = ("nodule", "mass", "pleural effusion", "consolidation")


@dataclass(frozen=True)
class Measured:
    name: str
    images: int
    seconds: float
    cpu_seconds: float  # of all processes; 0 where Ray started them
    peak_mib: float  # of all processes

    def line(self) -> str:
        rate = self.images / self.seconds
        each = f"{1e3 * self.seconds / self.images:.1f} | {1e3 * self.cpu_seconds / self.images:.1f}"
        return f"| {self.name} | {self.images:,} | {rate:.0f} | {each} | {self.peak_mib:.0f} |"


def write_image(folder: Path, number: int, side: int) -> None:
    """Smooth structures and noise of a film's strength: what compresses as films do."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(30, 200, (8, 8), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), np.float32)
    pixels = np.clip(smooth + rng.normal(0.0, 4.0, (side, side)), 0, 255).astype(np.uint8)
    (folder / f"{number:06d}.png").write_bytes(png.encode(pixels))


def made_cases(folder: Path, images: int, side: int) -> Iterator[Case]:
    for number in range(images):
        rng = np.random.default_rng(number)
        lesions = []
        for _ in range(2):
            x, y = (float(v) for v in rng.integers(side // 8, side // 2, 2))
            width, height = (float(v) for v in rng.integers(side // 20, side // 6, 2))
            lesions.append(Lesion(LABELS[rng.integers(4)], (x, y, x + width, y + height)))
        path = str(folder / f"{number:06d}.png")
        yield Case(
            f"{number}", "bench", f"p{number // 2}", "XR", ImageRef(path), tuple(lesions), width=side, height=side
        )


def phantoms(folder: Path, films: bool) -> list[Case]:
    from medclm import phantom

    found = phantom.cases(folder, Problems())
    return [case for case in found if not films or case.modality == "XR"]


@dataclass(frozen=True)
class Alone:
    """What the floor does about one image: plain and drawn are the numbers of its pictures in the set."""

    image: ImageRef
    mask: str | None
    max_side: int
    plain: int
    drawn: int

    def run(self) -> int:
        picture = load(self.image)
        height, width = picture.pixels.shape[:2]
        size = stored_size(width, height, self.max_side)
        pixels = resize_picture(picture, size).pixels
        if self.mask is not None:
            np.asarray(Image.open(self.mask).resize(size, Image.Resampling.NEAREST))
        written = sum(len(png.encode(pixels)) for _ in range(self.plain))
        return written + sum(len(png.encode(draw_boxes(pixels, []))) for _ in range(self.drawn))


def floor_of(cases: Sequence[Case], out: Path, max_side: int) -> list[Alone]:
    """By the set that was made of the cases."""
    pictures: dict[str, dict[int, bool]] = {}  # case -> hash of a picture -> is a box drawn
    for row in sets.rows(out, columns=("case", "image", "box_drawn")):
        pictures.setdefault(row["case"], {})[hash(row["image"]["bytes"])] = row["box_drawn"]
    work = []
    for case in cases:
        drawn = list(pictures.get(hashed("case", case.source, case.id, salt=SALT), {}).values())
        mask = case.organs if case.lesions else None
        work.append(Alone(case.image, mask, max_side, drawn.count(False), drawn.count(True)))
    return work


def run_floor(work: Sequence[Alone], workers: int) -> None:
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=keep_freed) as pool:
        sum(pool.map(Alone.run, work, chunksize=32))


def family_mib() -> float:
    """Proportional set sizes of this process and all below it."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        process = waiting.pop()
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
            for thread in Path(f"/proc/{process}/task").iterdir():
                waiting += [int(child) for child in (thread / "children").read_text().split()]
        except (OSError, StopIteration):
            continue  # ended meanwhile
    return total / 1024


def cpu_seconds() -> float:
    """Of this process and the children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(name: str, images: int, run: Callable[[], object]) -> Measured:
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            peak[0] = max(peak[0], family_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu = time.perf_counter(), cpu_seconds()
    try:
        run()
    finally:
        seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
        over.set()
        watcher.join()
    return Measured(name, images, seconds, cpu, peak[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=512, help="pixels of the source images")
    parser.add_argument("--max-side", type=int, default=512, help="pixels of the stored images")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--phantoms", type=Path, help="a folder of `medclm phantom-data`: with organ masks")
    parser.add_argument("--films", action="store_true", help="of the phantoms the radiographs alone")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if asked.phantoms is None:
            (folder / "images").mkdir()
            for number in range(asked.images):
                write_image(folder / "images", number, asked.side)
            cases = list(made_cases(folder / "images", asked.images, asked.side))
        else:
            cases = phantoms(asked.phantoms, asked.films)
        organs = "none" if asked.phantoms is None else f"phantom:{asked.phantoms}"
        settings = Settings(salt=SALT, organs=organs, max_side=asked.max_side)
        converted = [
            measure(
                f"convert ({engine})",
                len(cases),
                lambda engine=engine: convert_cases(
                    cases, folder / engine, settings, Problems(), engine=engine, workers=asked.workers
                ),
            )
            for engine in (engines.ENGINES if asked.ray else ("local",))
        ]
        work = floor_of(cases, folder / "local", asked.max_side)
        floor = measure("read, resize, encode", len(cases), lambda: run_floor(work, asked.workers))
    sizes = f"{asked.side} -> {asked.max_side} pixels"
    print(f"{asked.workers} processes, {os.cpu_count()} cores, {sizes}, organs: {organs.partition(':')[0]}\n")
    print("| what | images | images/s | ms/image | CPU ms/image | peak MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for each in (floor, *converted):
        print(each.line())
    local = converted[0]
    time_ratio, cpu_ratio = local.seconds / floor.seconds, local.cpu_seconds / floor.cpu_seconds
    pictures = sum(each.plain + each.drawn for each in work) / len(work)
    print(f"\n{pictures:.2f} pictures an image; {time_ratio:.2f} times the floor's time, {cpu_ratio:.2f} times its CPU")
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(each) for each in (floor, *converted)], indent=2) + "\n")


if __name__ == "__main__":
    main()
