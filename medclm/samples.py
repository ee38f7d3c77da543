"""Real volumes to try everything on, out of two packages that carry them for their own tests.

    pyradiomics 3.0.1       five volumes, each with the mask of one lesion: two of the lung (CT), two of the brain and
                            one of the breast (MR)
    totalsegmentator 2.18.0 CT and MR with organ masks, which are that tool's own output, and no lesions

The packages' licences are those of the code; neither says anything about the images. They are fetched on the user's
machine, and this project ships none.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medclm.archives import Package
from medclm.cases import Case, ImageRef
from medclm.images import volumes
from medclm.images.picture import ImageError
from medclm.images.windows import PRESETS, Window
from medclm.problems import DataError, Problems
from medclm.readers.masks import Pair, pair_cases
from medclm.readers.sections import Policy

PYRADIOMICS = Package(
    requirement="pyradiomics==3.0.1",
    file="pyradiomics-3.0.1.tar.gz",
    sha256="47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
    licence="BSD-3-Clause (package)",
)
TOTALSEGMENTATOR = Package(
    requirement="totalsegmentator==2.18.0",
    file="totalsegmentator-2.18.0.tar.gz",
    sha256="5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
    licence="Apache-2.0 (package)",
)
MANIFEST = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class LesionVolume:
    """In pyradiomics' data folder: ``<name>_image.nrrd`` and ``<name>_label.nrrd``, where 1 is the lesion."""

    name: str
    modality: str
    window: Window | None = None


@dataclass(frozen=True)
class OrganVolume:
    """In totalsegmentator's reference files: an image (a file or a folder of DICOM slices) and its organ labels."""

    name: str
    modality: str
    image: str
    organs: str


LESIONS = (
    LesionVolume("lung1", "CT", PRESETS["lung"]),
    LesionVolume("lung2", "CT", PRESETS["lung"]),
    LesionVolume("brain1", "MR"),
    LesionVolume("brain2", "MR"),
    LesionVolume("breast1", "MR"),
)
ORGANS = (
    OrganVolume("ct", "CT", "example_ct.nii.gz", "example_seg_fast_force_split.nii.gz"),
    OrganVolume("ct_dicom", "CT", "example_ct_dicom", "example_seg_dicom.nii.gz"),
    OrganVolume("mr", "MR", "example_mr_sm.nii.gz", "example_seg_mr.nii.gz"),
)
LABEL = "tumour"  # no more than that is known of them
_DATA = "pyradiomics-3.0.1/data/"
_REFERENCE = "totalsegmentator-2.18.0/tests/reference_files/"


def fetch(out: Path) -> Path:
    """The folder with the volumes and ``manifest.json`` (the SHA-256 of each file and where it is from).

    The folder appears whole or not at all; where it is there already nothing is done. Raises DataError where it holds
    something else, or the packages cannot be fetched.
    """
    out = Path(out)
    if out.exists():
        _manifest(out)
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        files = _extract(PYRADIOMICS, _DATA, _pyradiomics_names(), made / "pyradiomics")
        files |= _extract(TOTALSEGMENTATOR, _REFERENCE, _totalsegmentator_names(), made / "totalsegmentator")
        entries = {str(path.relative_to(made)): entry for path, entry in sorted(files.items())}
        (made / MANIFEST).write_text(json.dumps({"version": VERSION, "files": entries}, indent=1) + "\n")
        made.chmod(0o755)
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return out


def cases(folder: Path, problems: Problems, *, organ_slices: int = 5) -> Iterator[Case]:
    """Every slice with a lesion, then each ``organ_slices``-th slice of the volumes with organ masks.

    Each volume stands for a patient. No label is said to be absent anywhere: nobody looked for lesions in the organ
    volumes, and the lesion masks may hold one of several.
    """
    folder = Path(folder)
    _manifest(folder)
    for volume in LESIONS:
        place = folder / "pyradiomics"
        pair = Pair(
            id=volume.name,
            image=place / f"{volume.name}_image.nrrd",
            label=place / f"{volume.name}_label.nrrd",
            patient=volume.name,
            modality=volume.modality,
        )
        policy = Policy("all", min_area=1.0)
        licence = PYRADIOMICS.licence
        yield from pair_cases(
            pair, {1: LABEL}, problems, policy, source="pyradiomics", licence=licence, window=volume.window
        )
    for organ_volume in ORGANS:
        yield from _organ_cases(folder / "totalsegmentator", organ_volume, problems, organ_slices)


def _organ_cases(place: Path, volume: OrganVolume, problems: Problems, each: int) -> Iterator[Case]:
    image = place / volume.image
    try:
        grid = volumes.read_grid(image)
    except ImageError as error:
        problems.add(error.reason, error.what)
        return
    for z in range(0, grid.size[2], each):
        yield Case(
            id=f"{volume.name}:{z:04d}",
            source="totalsegmentator",
            patient=volume.name,
            modality=volume.modality,
            image=ImageRef(str(image), slice=z),
            width=grid.size[0],
            height=grid.size[1],
            organs=str(place / volume.organs),
            licence=TOTALSEGMENTATOR.licence,
        )


def _pyradiomics_names() -> list[str]:
    return [f"{volume.name}_{part}.nrrd" for volume in LESIONS for part in ("image", "label")]


def _totalsegmentator_names() -> list[str]:
    return [name for volume in ORGANS for name in (volume.image, volume.organs)]


def _extract(package: Package, root: str, names: list[str], to: Path) -> dict[Path, dict]:
    """The named files, and what is in the named folders."""
    to.mkdir()
    found: dict[Path, dict] = {}
    with tarfile.open(package.path()) as archive:
        for member in archive:
            name = member.name.removeprefix(root)
            if not member.isfile() or member.name == name or not {name, name.partition("/")[0]} & set(names):
                continue
            raw = archive.extractfile(member).read()  # type: ignore[union-attr]  # None only of what is no file
            (to / name).parent.mkdir(exist_ok=True)
            (to / name).write_bytes(raw)
            found[to / name] = {"sha256": hashlib.sha256(raw).hexdigest(), "from": package.requirement}
    missing = [name for name in names if not (to / name).exists()]
    if missing:
        raise DataError(f"{package.file}: expected {', '.join(missing)} in {root}")
    return found


def _manifest(folder: Path) -> dict:
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        raise DataError(f"{folder}: expected the sample volumes ({MANIFEST} is missing or damaged)") from None
    if found.get("version") != VERSION:
        raise DataError(f"{folder}: samples of version {found.get('version')}, this is version {VERSION}; delete it")
    return found
