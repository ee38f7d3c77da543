"""PNG, JPEG and what else Pillow reads: 8 or 16 bit, grey or colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medclm.cases import ImageRef
from medclm.images import windows
from medclm.images.picture import ImageError, Picture
from medclm.problems import Reason

# One value a pixel beyond 0..255. Pillow's convert("L") clips these instead of scaling them.
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


def load(ref: ImageRef, window: str | windows.Window = "auto") -> Picture:
    """As stored: an EXIF orientation is not applied, because annotations count the stored pixels.

    A grey image with a window or an offset of its own (ImageRef), or of more than 8 bits, has ``raw``: the stored
    values plus the offset. Alpha is dropped. Raises ImageError.
    """
    path = Path(ref.path)
    try:
        with Image.open(path) as image:
            if image.mode in _DEEP:
                values = np.asarray(image).astype(np.float32)
            elif image.mode in ("1", "L", "LA", "La"):
                values = np.asarray(image.convert("L"))
            else:
                return Picture(np.asarray(image.convert("RGB")))
    except FileNotFoundError:
        raise ImageError(Reason.IMAGE_MISSING, str(path)) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(Reason.IMAGE_UNREADABLE, f"{path}: {error}") from error
    if values.dtype == np.uint8 and ref.window is None and ref.offset == 0.0:
        return Picture(values)
    raw = values.astype(np.float32) + np.float32(ref.offset)
    pixels = windows.shown(
        raw,
        window,
        source=ref.window,
        hounsfield=bool(raw.min() <= windows.AIR),
        automatic=lambda: windows.percentiles(raw),
    )
    return Picture(pixels, raw)
