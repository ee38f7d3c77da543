"""How far perceptual hashes of copies lie from their originals, and those of other pictures from one another.

    python -m bench.medclm_near SET [SET ..]

Of every picture of a converted set without a box drawn into it; distances in bits of 256. The leakage check calls
pictures near where at most ``medclm.evaluation.leakage.NEAR`` bits differ.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageEnhance

from medclm import sets
from medclm.evaluation.leakage import NEAR, distance, perceptual_hash
from medclm.evaluation.questions import decoded


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def copy(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return copy


def scaled(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize(
        (max(16, round(image.width * factor)), max(16, round(image.height * factor))), Image.Resampling.BILINEAR
    )


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 90": jpeg(90),
    "JPEG of quality 60": jpeg(60),
    "JPEG of quality 30": jpeg(30),
    "half the size": scaled(0.5),
    "1.5 times the size": scaled(1.5),
    "15 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "20 % more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "2 % cut off": lambda image: image.crop((image.width // 50, image.height // 50, image.width, image.height)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET")
    for folder in parser.parse_args().sets:
        pictures: dict[str, tuple[Image.Image, str]] = {}
        for row in sets.rows(folder, columns=["case", "patient", "box_drawn", "image"]):
            if not row["box_drawn"]:
                pictures.setdefault(row["case"], (decoded(row["image"]["bytes"], row["id"]), row["patient"]))
        hashes = {case: perceptual_hash(image) for case, (image, _) in pictures.items()}
        print(f"{folder}: {len(pictures)} pictures; near is {NEAR} bits")
        for name, copy in COPIES.items():
            found = [int(distance(hashes[case], perceptual_hash(copy(image)))) for case, (image, _) in pictures.items()]
            print(f"  {name:20} median {statistics.median(found):5.1f}  most {max(found):3}")
        for name, same in (("same patient", True), ("other patients", False)):
            found = [
                int(distance(hashes[a], hashes[b]))
                for a, b in itertools.combinations(pictures, 2)
                if (pictures[a][1] == pictures[b][1]) == same
            ]
            if found:
                print(
                    f"  {name:20} median {statistics.median(found):5.1f}  least {min(found):3}  ({len(found):,} pairs)"
                )


if __name__ == "__main__":
    main()
