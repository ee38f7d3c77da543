"""BraTS: brain tumours in MR, one folder a patient and visit with four sequences and a segmentation.

    annotations   the folder of those folders
    2023 and later  BraTS-GLI-00005-100/BraTS-GLI-00005-100-{t1n,t1c,t2w,t2f,seg}.nii.gz
    before          BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii.gz

One id has two meanings: 4 is the enhancing tumour before 2023 and the resection cavity in the glioma task of 2024.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medclm.cases import Case
from medclm.problems import DataError, Problems
from medclm.readers.masks import Pair, pair_cases
from medclm.readers.sections import Policy

_PARTS_2023 = {
    1: "necrotic tumour core",
    2: "surrounding non-enhancing flair hyperintensity",
    3: "enhancing tumour",
}
PARTS = {
    "legacy": {1: "necrotic and non-enhancing tumour core", 2: "peritumoural oedema", 4: "enhancing tumour"},
    "2023": _PARTS_2023,
    "2024": _PARTS_2023 | {4: "resection cavity"},
}
_LEGACY_SEQUENCE = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
_SEGMENTATION = re.compile(r"(?P<stem>.+)(?P<mark>[-_])seg\.nii(\.gz)?")
_CAVITY = "resection cavity"


def read(
    annotations: Path,
    images: Path | None,
    problems: Problems,
    *,
    sequence: str = "t2f",
    edition: str = "auto",
    parts: bool = False,
    slices: str = "every:10",
    min_area: float = 25.0,
    empty_slices: int = 0,
    licence: str = "unknown",
) -> Iterator[Case]:
    """A case for each chosen slice. Every tumour is marked, so a slice without one says so.

    images    not needed: the sequences lie beside the segmentations
    sequence  which is shown: t1n, t1c, t2w, t2f (FLAIR)
    edition   legacy, 2023 or 2024; auto: legacy where the names have underscores, else 2023 (4 is then unknown)
    parts     False: the whole tumour as one label; True: each part
    """
    if sequence not in _LEGACY_SEQUENCE:
        raise ValueError(f"sequence: expected one of {', '.join(_LEGACY_SEQUENCE)}, got {sequence!r}")
    if edition != "auto" and edition not in PARTS:
        raise ValueError(f"edition: expected auto, {', '.join(PARTS)}, got {edition!r}")
    policy = Policy(slices, min_area, empty_slices)
    found = sorted(path for path in Path(annotations).rglob("*seg.nii*") if _SEGMENTATION.fullmatch(path.name))
    if not found:
        raise DataError(f"{annotations}: expected files named *-seg.nii.gz or *_seg.nii.gz, got none")
    for label in found:
        match = _SEGMENTATION.fullmatch(label.name)
        assert match is not None, "found by the same pattern"
        stem, mark = match["stem"], match["mark"]
        legacy = mark == "_"
        names = PARTS[("legacy" if legacy else "2023") if edition == "auto" else edition]
        image = label.with_name(f"{stem}{mark}{_LEGACY_SEQUENCE[sequence] if legacy else sequence}.nii.gz")
        if not image.exists():
            image = image.with_suffix("")  # .nii
        cavity = [value for value, name in names.items() if name == _CAVITY]
        yield from pair_cases(
            Pair(stem, image, label, _patient(stem), "MR"),
            names if parts else {value: "brain tumour" for value in names if value not in cavity},
            problems,
            policy,
            source="brats",
            licence=licence,
            exhaustive=True,
            others=cavity,
        )


def _patient(stem: str) -> str:
    """BraTS-GLI-00005-100 is visit 100 of patient 5: a patient's visits must not part in a split."""
    match = re.fullmatch(r"(BraTS-[A-Za-z]+-\d+)-\d+", stem)
    return match[1] if match else stem
