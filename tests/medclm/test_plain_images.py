"""PNG and JPEG, 8 and 16 bit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medclm.cases import ImageRef
from medclm.images import ImageError, load, windows
from medclm.problems import Reason

HU = np.linspace(-1000, 1000, 60).reshape(6, 10)


@pytest.fixture
def deep(tmp_path):
    """DeepLesion: Hounsfield units + 32768 in a 16-bit PNG."""
    path = tmp_path / "000.png"
    Image.fromarray((HU + 32768).astype(np.uint16)).save(path)
    return path


def test_sixteen_bits_are_windowed_where_convert_gives_white(deep):
    with Image.open(deep) as image:
        assert image.mode.startswith("I;16")
        assert (np.asarray(image.convert("L")) == 255).all()  # the naive way
    picture = load(ImageRef(str(deep), window=(-160.0, 240.0), offset=-32768.0))
    np.testing.assert_array_equal(picture.raw, (HU + 32768).astype(np.uint16) - 32768.0)
    np.testing.assert_array_equal(picture.pixels, np.rint(((picture.raw + 160) / 400).clip(0, 1) * 255))
    assert not picture.laterality_verified


def test_preset_over_the_sources_window_and_three_windows(deep):
    ref = ImageRef(str(deep), window=(-160.0, 240.0), offset=-32768.0)
    lung = load(ref, window="lung").pixels
    np.testing.assert_array_equal(lung, windows.scaled(load(ref).raw, (-1350.0, 150.0)))
    assert load(ref, window="medgemma3").pixels.shape == (6, 10, 3)


def test_sixteen_bits_without_a_window_are_stretched(tmp_path):
    values = np.random.default_rng(0).integers(2000, 4000, (20, 30)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = load(ImageRef(str(tmp_path / "a.png"))).pixels
    assert pixels.min() == 0 and pixels.max() == 255 and len(np.unique(pixels)) > 100


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_modes_become_grey_or_three_colours(tmp_path, mode):
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(values).convert(mode).save(path)
    picture = load(ImageRef(str(path)), window="lung")  # a picture that was windowed already stays
    assert picture.pixels.dtype == np.uint8 and picture.raw is None
    assert picture.pixels.shape == ((5, 7) if mode in ("L", "LA", "1") else (5, 7, 3))
    if mode in ("RGB", "RGBA"):
        np.testing.assert_array_equal(picture.pixels, values)


def test_exif_orientation_leaves_the_pixels_where_boxes_count_them(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("L", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert load(ImageRef(str(tmp_path / "a.jpg"))).pixels.shape == (4, 8)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_bad_files_are_unreadable(tmp_path, deep, content):
    path = tmp_path / "bad.png"
    path.write_bytes(deep.read_bytes()[:-30] if content is None else content)
    with pytest.raises(ImageError) as caught:
        load(ImageRef(str(path)))
    assert caught.value.reason is Reason.IMAGE_UNREADABLE


def test_missing_file_and_the_error_survives_a_process_boundary(tmp_path):
    with pytest.raises(ImageError) as caught:
        load(ImageRef(str(tmp_path / "none.png")))
    assert caught.value.reason is Reason.IMAGE_MISSING
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reason, again.what, str(again)) == (caught.value.reason, caught.value.what, str(caught.value))


@pytest.mark.parametrize("bad", ["", "Lung", (1.0,), (3.0, 3.0), (5.0, 1.0)])
def test_windows_that_do_not_exist_are_named(bad):
    with pytest.raises(ValueError, match="window: expected"):
        windows.check(bad)


def test_constant_and_not_finite_values_are_black_not_an_error():
    assert (windows.scaled(np.full((2, 2), 7.0), (7.0, 7.0)) == 0).all()
    assert windows.scaled(np.array([np.nan, np.inf, -np.inf]), (0.0, 1.0)).tolist() == [0, 255, 0]
    assert windows.percentiles(np.array([np.nan])) == (0.0, 1.0)


@given(st.lists(st.floats(-4000, 4000, width=32), min_size=2, max_size=30), st.floats(-2000, 2000), st.floats(1, 4000))
def test_a_window_keeps_the_order_of_values(values, low, width):
    values = np.sort(np.array(values, np.float32))
    grey = windows.scaled(values, (low, low + width)).astype(int)
    assert (np.diff(grey) >= 0).all()
    assert (grey[values <= low - 1e-2] == 0).all() and (grey[values >= low + width + 1e-2] == 255).all()
