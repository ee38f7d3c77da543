"""Pictures as PNG bytes: lossless, and quick enough not to be what a conversion waits for.

Pillow tries five filters on every line and compresses with zlib, 8 ms for 512 x 512 grey pixels and 12 ms in colour.
One filter and ISA-L's deflate take a tenth and a sixth of that for files of the same size. The compressed bytes can
differ between families of processors, as ISA-L has code for each; the pixels cannot.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from isal import isal_zlib
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2  # colour types (PNG, section 11.2.1)
UP = 2  # filter: difference to the pixel above (section 9.2)
LEVEL = 1


def encode(pixels: np.ndarray) -> bytes:  # uint8 [H, W] or [H, W, 3], not empty
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or not pixels.size:
        raise ValueError(f"pixels: expected uint8 [H, W] or [H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
    height, width = pixels.shape[:2]
    lines = pixels.reshape(height, -1)  # [H, W * channels]
    filtered = np.empty((height, 1 + lines.shape[1]), np.uint8)
    filtered[:, 0] = UP
    filtered[0, 1:] = lines[0]
    np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, GREY if pixels.ndim == 2 else RGB, 0, 0, 0)
    data = isal_zlib.compress(filtered, LEVEL)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def decode(data: bytes) -> np.ndarray:  # uint8 [H, W] or [H, W, 3]
    return np.asarray(Image.open(io.BytesIO(data)))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))
