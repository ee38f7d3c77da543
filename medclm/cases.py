"""What readers yield: one image, by reference, with what somebody marked on it. No pixels, so a million fit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from medclm.boxes import Box
from medclm.regions import Region

MODALITIES = ("CT", "MR", "XR", "US", "PET", "dermoscopy", "fundus", "pathology", "other")


@dataclass(frozen=True)
class ImageRef:
    """Where an image is.

    path        a file (PNG, JPEG, DICOM, NIfTI, NRRD, MetaImage) or a folder of DICOM slices
    slice       of a volume: the index along the axis from feet to head, in the one orientation of
                :mod:`medclm.images.volumes`; of a DICOM file with several frames: the frame's number, from 0
    window      (lowest, highest) stored value, Hounsfield units for CT, where the source says how to look at it
    offset      added to the file's values (DeepLesion: -32768)
    """

    path: str
    slice: int | None = None
    window: tuple[float, float] | None = None
    offset: float = 0.0


@dataclass(frozen=True)
class Lesion:
    """One finding.

    label       in lower case words: "pleural effusion"
    box         in pixels of the original image
    region      the mask where the source has one, on the original image's grid
    attributes  what the source says beside the label, by its own names
    readers     ids of those who marked it; more than one after a merge
    """

    label: str
    box: Box
    region: Region | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    readers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One image.

    id          unique in its source and stable: everything random about the case derives from it
    patient     the source's own id of the patient (or what stands for one: a study, a file); never leaves the machine
                unhashed
    modality    one of MODALITIES
    width, height  of the original image, where the annotations say; None: known when the image is read
    absent      labels that were looked for here and not found: what a truthful "no" needs
    organs      masks that belong to this case, as the organ source given to ``convert`` understands them: a path
    split       train, val or test where the source prescribes one
    licence     SPDX id or the name of the terms
    """

    id: str
    source: str
    patient: str
    modality: str
    image: ImageRef
    lesions: tuple[Lesion, ...] = ()
    absent: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    organs: str | None = None
    split: str | None = None
    licence: str = "unknown"

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ValueError(f"modality: expected one of {', '.join(MODALITIES)}, got {self.modality!r}")

    def to_json(self) -> str:
        """One line; :meth:`from_json` gives the case back."""
        lesions = [
            vars(lesion) | {"region": None if lesion.region is None else vars(lesion.region)} for lesion in self.lesions
        ]
        # Not dataclasses.asdict: its deep copies take ten times as long, most of it for the runs of the masks.
        return json.dumps(vars(self) | {"image": vars(self.image), "lesions": lesions}, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Case:
        return cls.from_dict(json.loads(line))

    @classmethod
    def from_dict(cls, raw: dict) -> Case:
        """Of what :meth:`to_json` wrote, parsed; ``raw`` stays as it is."""
        image, window = raw["image"], raw["image"]["window"]
        return cls(
            **raw
            | {
                "image": ImageRef(**image | {"window": None if window is None else (window[0], window[1])}),
                "lesions": tuple(_lesion(each) for each in raw["lesions"]),
                "absent": tuple(raw["absent"]),
            }
        )

    def image_path(self) -> Path:
        return Path(self.image.path)


def _lesion(raw: dict) -> Lesion:
    region = raw["region"]
    if region is not None:
        region = Region(region["width"], region["height"], tuple(region["runs"]))
    x1, y1, x2, y2 = raw["box"]
    return Lesion(**raw | {"box": (x1, y1, x2, y2), "region": region, "readers": tuple(raw["readers"])})
