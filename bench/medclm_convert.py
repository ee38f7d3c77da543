"""Images a second of a conversion, and its peak memory, beside what reading, resizing and encoding alone cost.

    python -m bench.medclm_convert [--images 2000] [--side 512] [--workers 2] [--phantoms FOLDER] [--ray]

The floor reads pictures made for it (noise over smooth structures) and encodes each twice, once in colour. A conversion
is of the same pictures with two lesions each, or of phantoms with their organ masks; an image counts once, however many
questions show it. Memory is the proportional set size of all processes together, sampled ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from medclm import engines, png
from medclm.cases import Case, ImageRef, Lesion
from medclm.pipeline import convert_cases
from medclm.problems import Problems
from medclm.resizing import stored_size
from medclm.settings import Settings

SALT = "a salt for measurements"
LABELS = ("nodule", "mass", "pleural effusion", "consolidation")


@dataclass(frozen=True)
class Measured:
    name: str
    images: int
    seconds: float
    peak_mib: float  # of all processes

    def line(self) -> str:
        rate = self.images / self.seconds
        return f"| {self.name} | {self.images:,} | {rate:.0f} | {1e3 / rate:.1f} | {self.peak_mib:.0f} |"


def write_image(folder: Path, number: int, side: int) -> None:
    """Smooth structures and noise of a film's strength: what compresses as films do."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(30, 200, (8, 8), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), np.float32)
    pixels = np.clip(smooth + rng.normal(0.0, 4.0, (side, side)), 0, 255).astype(np.uint8)
    (folder / f"{number:06d}.png").write_bytes(png.encode(pixels))


def cases(folder: Path, images: int, side: int) -> Iterator[Case]:
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


def plain(path: str, max_side: int) -> int:
    """The floor: read, resize, encode twice (the plain image, and one in colour for the drawn box)."""
    image = Image.open(path)
    pixels = np.asarray(image.resize(stored_size(*image.size, max_side), Image.Resampling.BILINEAR))
    return len(png.encode(pixels)) + len(png.encode(np.repeat(pixels[:, :, None], 3, axis=2)))


def run_plain(folder: Path, images: int, workers: int, max_side: int) -> None:
    paths = [str(folder / f"{number:06d}.png") for number in range(images)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        sum(pool.map(plain, paths, [max_side] * images, chunksize=64))


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


def measure(name: str, images: int, run: Callable[[], object]) -> Measured:
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            peak[0] = max(peak[0], family_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        run()
    finally:
        seconds = time.perf_counter() - start
        over.set()
        watcher.join()
    return Measured(name, images, seconds, peak[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=512, help="pixels of the source images")
    parser.add_argument("--max-side", type=int, default=512, help="pixels of the stored images")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--phantoms", type=Path, help="a folder of `medclm phantom-data`: with organ masks")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "images").mkdir()
        for number in range(asked.images):
            write_image(folder / "images", number, asked.side)

        def source() -> Iterator[Case]:
            if asked.phantoms is None:
                return cases(folder / "images", asked.images, asked.side)
            from medclm import phantom

            return phantom.cases(asked.phantoms, Problems())

        count = sum(1 for _ in source())
        organs = "none" if asked.phantoms is None else f"phantom:{asked.phantoms}"
        settings = Settings(salt=SALT, organs=organs, max_side=asked.max_side)
        results = [
            measure(
                "read, resize, encode",
                asked.images,
                lambda: run_plain(folder / "images", asked.images, asked.workers, asked.max_side),
            )
        ]
        for engine in engines.ENGINES if asked.ray else ("local",):
            out = folder / engine
            found = measure(
                f"convert ({engine})",
                count,
                lambda out=out, engine=engine: convert_cases(
                    source(), out, settings, Problems(), engine=engine, workers=asked.workers
                ),
            )
            results.append(found)
    sizes = f"{asked.side} -> {asked.max_side} pixels"
    print(f"{asked.workers} processes, {os.cpu_count()} cores, {sizes}, organs: {organs.partition(':')[0]}\n")
    print("| what | images | images/s | ms/image | peak MiB |\n| --- | ---: | ---: | ---: | ---: |")
    for each in results:
        print(each.line())
    if asked.json is not None:
        asked.json.write_text(json.dumps([vars(each) for each in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
