"""Phantoms on disk.

FOLDER/images/<number>.png | .nii    a film, an 8-bit CT slice, or a CT volume in Hounsfield units
FOLDER/organs/<number>.png           medclm.organs.phantoms
FOLDER/cases-<first>-<end>.jsonl     a case a line, paths relative to FOLDER; written last
"""

from __future__ import annotations

import dataclasses
import io
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medclm import boxes
from medclm.cases import Case, ImageRef, Lesion
from medclm.organs.phantoms import NAMES_KEY, NAMES_SEPARATOR
from medclm.phantom import ct, lesions, noise, xray
from medclm.phantom.views import FIELD_MM, ORGANS, View
from medclm.problems import DataError, Problems, Reason
from medclm.regions import Region

SOURCE = "phantom"
LICENCE = "CC0-1.0"
SMALLEST = 64  # pixels an edge: below, ribs and nodules are less than a pixel
_PATIENTS = (0, 1, 1, 2, 2, 2)  # of six images
_KINDS: tuple[tuple[str, float], ...] = (("chest x-ray", 0.5), ("chest ct", 0.25), ("abdomen ct", 0.25))
_VOLUMES = 0.5  # of the CTs
_SLICES = 3  # 1 mm apart: they differ in noise only
_STORED_AS = ("RAS", "LPS", "LAS", "RPI", "ASL")  # axes of a volume's file, one of these


def generate(out: Path, *, count: int, seed: int, size: int = 512, first: int = 0, workers: int = 1) -> None:
    """Writes images ``first`` .. ``first + count - 1``, size x size pixels, into a folder.

    Image i depends on (seed, size, i) only, bit by bit: processes may share a folder, each with a range of its own, and
    ``workers`` processes write the same files as one. A killed run leaves no half file and no case without its image.
    """
    if size < SMALLEST:
        raise ValueError(f"size: expected at least {SMALLEST} pixels, got {size}")
    if count < 0 or first < 0 or workers < 1:
        raise ValueError(f"expected count >= 0, first >= 0, workers >= 1; got {count}, {first}, {workers}")
    out = Path(out)
    for name in ("images", "organs"):
        (out / name).mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + count)
    if workers == 1:
        lines = [_write(out, seed, size, number) for number in numbers]
    else:
        with ProcessPoolExecutor(workers) as pool:
            lines = list(pool.map(_write, *zip(*((out, seed, size, n) for n in numbers), strict=True), chunksize=16))
    _put(out / f"cases-{first:08d}-{first + count:08d}.jsonl", "".join(f"{line}\n" for line in lines).encode())


def cases(folder: Path, problems: Problems) -> Iterator[Case]:
    """In the order of their numbers; paths become absolute."""
    folder = Path(folder).resolve()
    files = sorted(folder.glob("cases-*.jsonl"))
    if not files:
        raise DataError(f"{folder}: expected phantoms (no cases-*.jsonl)")
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            try:
                case = Case.from_json(line)
            except (ValueError, KeyError, TypeError) as error:
                problems.add(Reason.ROW_MALFORMED, f"{file.name}, line {number}: {error!r}")
                continue
            image = dataclasses.replace(case.image, path=str(folder / case.image.path))
            yield dataclasses.replace(case, image=image, organs=str(folder / str(case.organs)))


def _write(out: Path, seed: int, size: int, number: int) -> str:
    """One image, its masks; gives its case as a line."""
    patient = 3 * (number // len(_PATIENTS)) + _PATIENTS[number % len(_PATIENTS)]
    anatomy, rng = np.random.default_rng([seed, 0, patient]), np.random.default_rng([seed, 1, number])
    kind = _KINDS[rng.choice(len(_KINDS), p=[share for _, share in _KINDS])][0]
    as_volume = kind != "chest x-ray" and rng.random() < _VOLUMES
    view = xray.draw(size, anatomy, rng) if kind == "chest x-ray" else ct.draw(size, kind, anatomy)
    found = lesions.paint(view, noise.cloud(seed, size, rng), rng)
    if as_volume:
        name, at = f"images/{number:08d}.nii", int(rng.integers(_SLICES))
        _put(out / name, _volume(view, seed, rng))
        image = ImageRef(name, slice=at, window=view.window)
    else:
        name = f"images/{number:08d}.png"
        (xray.expose if kind == "chest x-ray" else ct.scan)(view, seed, rng)
        _put(out / name, _png(Image.fromarray(_shown(view))))
        image = ImageRef(name)
    organs = f"organs/{number:08d}.png"
    _put(out / organs, _organ_bits(view))
    case = Case(
        id=f"{seed}-{number}",
        source=SOURCE,
        patient=f"{seed}-{patient}",
        modality="XR" if kind == "chest x-ray" else "CT",
        image=image,
        lesions=tuple(_lesion(each) for each in found),
        absent=tuple(label for label in view.findings if label not in {each.label for each in found}),
        width=size,
        height=size,
        organs=organs,
        licence=LICENCE,
    )
    return case.to_json()


def _lesion(painted: lesions.Painted) -> Lesion:
    attributes = {"organ": painted.organ, "side": painted.side}
    if painted.diameter_mm is not None:
        attributes["diameter_mm"] = f"{painted.diameter_mm:.1f}"
    return Lesion(painted.label, boxes.from_mask(painted.mask), Region.of(painted.mask), attributes)


def _shown(view: View) -> np.ndarray:
    """uint8 [H, W]"""
    low, high = view.window or (0.0, 255.0)
    return np.clip((view.pixels - np.float32(low)) * np.float32(255.0 / (high - low)), 0, 255).astype(np.uint8)


def _organ_bits(view: View) -> bytes:
    """PNG, 16 bits."""
    bits = np.zeros((view.size, view.size), np.uint16)
    for bit, name in enumerate(ORGANS):
        if name in view.masks:
            bits |= view.masks[name].astype(np.uint16) << np.uint16(bit)
    text = PngInfo()
    text.add_text(NAMES_KEY, NAMES_SEPARATOR.join(ORGANS))
    return _png(Image.fromarray(bits), text)


def _png(image: Image.Image, text: PngInfo | None = None) -> bytes:
    made = io.BytesIO()
    image.save(made, "PNG", compress_level=1, compress_type=zlib.Z_RLE, pnginfo=text)  # noise has no longer matches
    return made.getvalue()


def _volume(view: View, seed: int, rng: np.random.Generator) -> bytes:
    """NIfTI, int16 Hounsfield units, stored in one of several orders of its axes."""
    import nibabel
    from nibabel import orientations

    slices = []
    for _ in range(_SLICES):
        noisy = View(view.kind, view.pixels.copy(), view.masks)
        ct.scan(noisy, seed, rng)
        slices.append(np.rint(noisy.pixels).astype(np.int16))
    spacing = FIELD_MM / view.size
    # [z, y, x] with axes S, P, L -> [x, y, z]; the world of NIfTI is RAS, so x and y run against it.
    affine = np.diag([-spacing, -spacing, 1.0, 1.0])
    affine[:2, 3] = 0.5 * (FIELD_MM - spacing)
    image = nibabel.Nifti1Image(np.stack(slices).transpose(2, 1, 0), affine)
    stored = orientations.axcodes2ornt(_STORED_AS[rng.integers(len(_STORED_AS))])
    return image.as_reoriented(orientations.ornt_transform(orientations.io_orientation(affine), stored)).to_bytes()


def _put(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
