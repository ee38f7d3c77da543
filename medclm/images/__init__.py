"""Images as pictures: plain files, DICOM, slices of volumes."""

from __future__ import annotations

from pathlib import Path

from medclm.cases import ImageRef
from medclm.images import dicom, plain, volumes, windows
from medclm.images.picture import ImageError, Picture
from medclm.problems import Reason

__all__ = ["ImageError", "Picture", "load"]


def load(ref: ImageRef, *, window: str | windows.Window = "auto", allow_burned_in: bool = False) -> Picture:
    """The picture that the reference names.

    window      one of medclm.images.windows.NAMES or (lowest, highest) value
    allow_burned_in  also images that say their pixels name somebody (DICOM only; other formats cannot say)

    Raises ImageError for a bad image, ValueError for a window that does not exist.
    """
    windows.check(window)
    path = Path(ref.path)
    if not path.exists():
        raise ImageError(Reason.IMAGE_MISSING, str(path))
    if volumes.is_volume(path):
        return volumes.load(ref, window, allow_burned_in)
    if dicom.is_dicom(path):
        return dicom.load(ref, window, allow_burned_in)
    return plain.load(ref, window)
