"""Mirrored pictures keep true words; ids leave as hashes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medclm import boxes
from medclm.images.flips import flip_guard, has_side, mirror, mirror_box, mirror_text
from medclm.images.picture import Picture
from medclm.privacy import hashed, new_salt


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("a nodule in the left upper lobe", "a nodule in the right upper lobe"),
        ("Right-sided effusion, LEFT clear", "Left-sided effusion, RIGHT clear"),
        ("kidney_left and lung_upper_lobe_right", "kidney_right and lung_upper_lobe_left"),
        ("RUL opacity, LLQ pain", "LUL opacity, RLQ pain"),
        ("leftward shift", "rightward shift"),
        ("bilateral; leftover, upright, bright", "bilateral; leftover, upright, bright"),
    ],
)
def test_left_and_right_change_places(text, mirrored):
    assert mirror_text(text) == mirrored
    assert mirror_text(mirrored) == text
    assert has_side(text) == (text != mirrored)


@pytest.mark.parametrize("text", ["the right middle lobe", "lingula", "RML", "middle_lobe"])
def test_what_one_side_only_has_cannot_be_mirrored(text):
    with pytest.raises(ValueError, match="no mirror image"):
        mirror_text(text)


def test_guard_swaps_every_text_or_refuses():
    texts = {"question": "Where is it?", "answer": "left lung"}
    assert flip_guard(texts) == {"question": "Where is it?", "answer": "right lung"}
    with pytest.raises(ValueError, match=r"answer: expected no left or right.*'left lung'"):
        flip_guard(texts, "refuse")
    assert flip_guard({"question": "Where is it?"}, "refuse") == {"question": "Where is it?"}
    with pytest.raises(ValueError, match="on_side"):
        flip_guard(texts, "ignore")


WORDS = ("left", "Right", "LEFT", "rightward", "LUL", "RLQ", "lung", "_", " ", "-", "bright", "é", "\n", "42")


@given(st.lists(st.sampled_from(WORDS)).map("".join))
def test_mirroring_twice_gives_the_text(text):
    assert mirror_text(mirror_text(text)) == text


def test_mirrored_picture_and_box_agree():
    mask = np.zeros((5, 9), bool)
    mask[1:3, 1:4] = True
    picture = Picture(mask.astype(np.uint8), mask.astype(np.float32), (1.0, 1.0), True, "CT")
    flipped = mirror(picture)
    assert boxes.from_mask(flipped.pixels > 0) == mirror_box(boxes.from_mask(mask), 9)
    np.testing.assert_array_equal(flipped.pixels, flipped.raw)
    assert picture.laterality_verified and not flipped.laterality_verified


def test_hash_depends_on_salt_and_on_where_parts_end():
    salt = new_salt()
    assert hashed("nih", "patient 1", salt=salt) == hashed("nih", "patient 1", salt=salt)
    different = {hashed("a", "bc", salt=salt), hashed("ab", "c", salt=salt), hashed("abc", salt=salt)}
    assert len(different | {hashed("a", "bc", salt=new_salt())}) == 4
    assert len(hashed("x", salt=salt)) == 32
    with pytest.raises(ValueError, match="salt"):
        hashed("x", salt="")


def test_salts_that_share_their_first_64_bytes_differ():
    assert hashed("x", salt="s" * 100) != hashed("x", salt="s" * 99 + "t")
