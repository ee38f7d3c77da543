"""Frames stand around findings and never on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.drawing import COLOUR, draw_boxes, thickness

SIDE = st.integers(0, 90)


@settings(max_examples=60, deadline=None)
@given(SIDE, SIDE, st.floats(0.5, 40), st.floats(0.5, 40))
def test_inside_of_the_box_stays_and_a_frame_appears(x: int, y: int, width: float, height: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 110), np.uint8)
    before = pixels.copy()
    drawn = draw_boxes(pixels, [(x, y, x + width, y + height)], line=3)
    changed = (drawn != pixels[:, :, None]).any(axis=2)
    assert not changed[y : int(np.ceil(y + height)), x : int(np.ceil(x + width))].any()
    assert (drawn[changed] == COLOUR).all() and changed.any()
    assert (pixels == before).all()


def test_frame_leaves_the_neighbour_alone() -> None:
    pixels = np.zeros((100, 100, 3), np.uint8)
    drawn = draw_boxes(pixels, [(10, 10, 30, 30), (31, 10, 50, 30)], line=5)
    assert (drawn[10:30, 31:50] == 0).all() and (drawn[10:30, 10:30] == 0).all()


def test_box_inside_another_still_gets_its_frame() -> None:
    drawn = draw_boxes(np.zeros((100, 100), np.uint8), [(10, 10, 90, 90), (40, 40, 60, 60)], line=2)
    assert (drawn[38:40, 40:60] == COLOUR).all()


def test_line_grows_with_the_image() -> None:
    assert [thickness(64, 64), thickness(512, 600), thickness(2500, 3056)] == [1, 2, 10]


def test_pixels_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="pixels: expected uint8"):
        draw_boxes(np.zeros((4, 4)), [])
