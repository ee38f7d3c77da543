"""One DICOM image, or one frame of a file of several. No tag leaves this file but the modality, the pixel spacing and
which way the columns run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medclm.cases import ImageRef
from medclm.images import windows
from medclm.images.picture import ImageError, Picture
from medclm.problems import Reason

if TYPE_CHECKING:
    from pydicom import Dataset

_MODALITIES = {
    "CT": "CT",
    "MR": "MR",
    "CR": "XR",
    "DX": "XR",
    "RG": "XR",
    "RF": "XR",
    "XA": "XR",
    "MG": "XR",
    "US": "US",
    "PT": "PET",
    "OP": "fundus",
    "SM": "pathology",
    "DMS": "dermoscopy",
}
# Enhanced files (PS3.3 C.7.6.16): what a plain file says at its top stands in these groups, for all frames or for one.
_OF_FRAMES = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
}


def is_dicom(path: Path) -> bool:
    """By the magic word behind the preamble, or by the name."""
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def modality(dataset: Dataset) -> str | None:
    """One of medclm.cases.MODALITIES; None where the file has no Modality."""
    found = dataset.get("Modality")
    return None if not found else _MODALITIES.get(str(found), "other")


def refuse_burned_in(dataset: Dataset, path: Path, allowed: bool) -> None:
    """(0028,0301): the file says that its pixels name somebody."""
    if not allowed and str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        raise ImageError(Reason.BURNED_IN, f"{path}: BurnedInAnnotation is YES")


def load(ref: ImageRef, window: str | windows.Window = "auto", allow_burned_in: bool = False) -> Picture:
    """Modality LUT, then VOI LUT (the first window of several) scaled to 0..255, then MONOCHROME1 inverted.

    Of a file with several frames that of ``ref.slice``, in the file's order. Colour is not windowed: a secondary
    capture often keeps the window of the image it was made of. Raises ImageError.
    """
    import pydicom
    from pydicom.pixels import apply_modality_lut, pixel_array

    path = Path(ref.path)
    try:
        dataset = pydicom.dcmread(path)
    except FileNotFoundError:
        raise ImageError(Reason.IMAGE_MISSING, str(path)) from None
    except Exception as error:  # what pydicom raises for a damaged file is not one class
        raise ImageError(Reason.IMAGE_UNREADABLE, f"{path}: {error}") from error
    try:
        refuse_burned_in(dataset, path, allow_burned_in)
        frame = _frame(dataset, ref.slice, path)
        _take(dataset, frame)
        stored = pixel_array(dataset, index=frame)  # [H, W] or [H, W, 3]
        if dataset.PhotometricInterpretation == "PALETTE COLOR" or dataset.SamplesPerPixel > 1:
            return Picture(_colour(dataset, stored), None, None, _right_to_left(dataset), modality(dataset))
        raw = apply_modality_lut(stored, dataset).astype(np.float32) + np.float32(ref.offset)
        pixels = _grey(dataset, raw, window, ref.window)
        return Picture(pixels, raw, _spacing(dataset), _right_to_left(dataset), modality(dataset))
    except ImageError:
        raise
    except Exception as error:  # values that do not fit are found where they are used
        raise ImageError(Reason.IMAGE_UNREADABLE, f"{path}: {_explained(dataset, error)}") from error


def _frame(dataset: Dataset, asked: int | None, path: Path) -> int:
    frames = int(dataset.get("NumberOfFrames") or 1)
    if asked is None and frames > 1:
        raise ImageError(Reason.IMAGE_UNREADABLE, f"{path}: {frames} frames, and its annotation does not say which one")
    if not 0 <= (asked or 0) < frames:
        raise ImageError(Reason.IMAGE_UNREADABLE, f"{path}: expected a frame of 0 .. {frames - 1}, got {asked}")
    return asked or 0


def _take(dataset: Dataset, frame: int) -> None:
    """What an enhanced file says of the frame, moved to where a file of that frame alone has it."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in (*shared[:1], *own[frame : frame + 1]):
        for sequence, names in _OF_FRAMES.items():
            for item in (group.get(sequence) or [])[:1]:
                for name in names:
                    if name in item:
                        dataset[name] = item[name]


def _grey(dataset: Dataset, raw: np.ndarray, asked: str | windows.Window, source: windows.Window | None) -> np.ndarray:
    hounsfield = modality(dataset) == "CT"
    by_the_file = asked == "auto" or (isinstance(asked, str) and asked != "percentile" and not hounsfield)
    if by_the_file and source is None:
        pixels = _voi(dataset, raw)
    else:
        pixels = windows.shown(
            raw, asked, source=source, hounsfield=hounsfield, automatic=lambda: windows.percentiles(raw)
        )
    # apply_presentation_lut leaves MONOCHROME1 as it is where there is no Presentation LUT; and not before the VOI LUT,
    # whose window counts stored values.
    return 255 - pixels if dataset.PhotometricInterpretation == "MONOCHROME1" else pixels


def _voi(dataset: Dataset, raw: np.ndarray) -> np.ndarray:
    """By the file's first VOI LUT or window. pydicom's result spans the stored range, not 0..255."""
    from pydicom.pixels import apply_voi, apply_windowing

    if dataset.get("VOILUTSequence"):
        entries, first, _ = dataset.VOILUTSequence[0].LUTDescriptor
        table = apply_voi(np.arange(first, first + (entries or 1 << 16)), dataset, index=0)
        looked_up = apply_voi(np.rint(raw).astype(np.int32), dataset, index=0)
        return windows.scaled(looked_up, (table.min(), table.max()))
    if dataset.get("WindowCenter") is not None and _width(dataset) >= 1.0:
        with np.errstate(over="ignore"):  # SIGMOID far from its centre
            low, high = apply_windowing(np.array([-1e9, 1e9]), dataset, index=0)
            return windows.scaled(apply_windowing(raw, dataset, index=0), (low, high))
    if modality(dataset) == "CT":
        return windows.scaled(raw, windows.PRESETS["soft"])
    if dataset.BitsStored <= 8:
        return windows.scaled(raw, (0.0, 2.0**dataset.BitsStored - 1.0))
    return windows.scaled(raw, windows.percentiles(raw))


def _width(dataset: Dataset) -> float:
    """Of the first window; 0 where there is none. Files with a width of 0 exist and mean no window."""
    return float(np.atleast_1d(dataset.get("WindowWidth") or 0.0)[0])


def _colour(dataset: Dataset, stored: np.ndarray) -> np.ndarray:  # uint8 [H, W, 3]
    from pydicom.pixels import apply_color_lut

    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        table = apply_color_lut(stored, dataset)
        return (table >> (8 * (table.dtype.itemsize - 1))).astype(np.uint8)[..., :3]
    return (stored >> max(dataset.BitsStored - 8, 0)).astype(np.uint8)


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    """PixelSpacing is (between rows, between columns). ImagerPixelSpacing is the detector's, not the patient's."""
    found = dataset.get("PixelSpacing")
    return None if not found else (float(found[1]), float(found[0]))


def _right_to_left(dataset: Dataset) -> bool:
    """Do the columns run to the patient's left? From the slice's direction, or a radiograph's PatientOrientation."""
    direction = dataset.get("ImageOrientationPatient")
    if direction:
        along = np.asarray(direction[:3], float)  # world LPS: x grows to the left
        return bool(np.abs(along).argmax() == 0 and along[0] > 0.0)
    rows = dataset.get("PatientOrientation")
    return bool(rows) and str(rows[0]).upper().startswith("L")


_UNDECODED = (RuntimeError, NotImplementedError)


def _explained(dataset: Dataset, error: Exception) -> str:
    """pydicom lists the missing plug-ins of a transfer syntax over many lines; anything else speaks for itself."""
    from pydicom.uid import UID

    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    # A damaged file may hold any value there.
    if isinstance(syntax, UID) and syntax.is_transfer_syntax and syntax.is_compressed and isinstance(error, _UNDECODED):
        return f"{syntax.name} cannot be decoded with what is installed (pylibjpeg or GDCM adds to pydicom): {error}"
    return str(error) or type(error).__name__
