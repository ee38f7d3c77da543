"""PNG files that other readers take, pixel for pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medclm import png


@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_pixels_come_back(height, width, colour, seed):
    shape = (height, width, 3) if colour else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(png.decode(png.encode(pixels)), pixels)


def test_file_is_whole_by_its_own_checksums():
    """Pillow checks every chunk's CRC in verify()."""
    pixels = np.arange(300 * 200 * 3, dtype=np.uint32).astype(np.uint8).reshape(300, 200, 3)
    image = Image.open(io.BytesIO(png.encode(pixels)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (200, 300))
    image.verify()
    damaged = bytearray(png.encode(pixels))
    damaged[60] ^= 1
    with pytest.raises(SyntaxError):
        Image.open(io.BytesIO(bytes(damaged))).verify()


def test_transposed_and_sliced_pixels_are_encoded_as_they_look():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    for view in (pixels.T, pixels[::2, ::3], pixels[::-1]):
        assert np.array_equal(png.decode(png.encode(view)), view)


def test_not_larger_than_pillows_quickest():
    grey = np.random.default_rng(0).normal(120, 6, (256, 256)).astype(np.uint8)
    for pixels in (grey, np.repeat(grey[:, :, None], 3, axis=2)):
        quickest = io.BytesIO()
        Image.fromarray(pixels).save(quickest, "PNG", compress_level=1)
        assert len(png.encode(pixels)) <= 1.05 * len(quickest.getvalue())


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint16), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_other_pixels_are_refused(pixels):
    with pytest.raises(ValueError, match=r"pixels: expected uint8 \[H, W\] or \[H, W, 3\], got"):
        png.encode(pixels)
