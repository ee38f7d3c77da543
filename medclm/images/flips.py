"""Mirrored pictures: where left and right in words must change with the pixels, or the flip must not happen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from medclm.boxes import Box
from medclm.images.picture import Picture

_PAIRS = (("left", "right"), ("leftward", "rightward"), ("leftwards", "rightwards"))
_SHORT = (("LUL", "RUL"), ("LLL", "RLL"), ("LUQ", "RUQ"), ("LLQ", "RLQ"))
_MIRRORED = {a: b for pair in (*_PAIRS, *_SHORT) for a, b in (pair, pair[::-1])}
# Letters, not \b: an organ's name joins its words by underscores.
_WORD = re.compile(rf"(?<![a-z])(?:{'|'.join(a for pair in _PAIRS for a in pair)})(?![a-z])", re.I | re.A)
_ABBREVIATION = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(a for pair in _SHORT for a in pair)})(?![A-Za-z])")
# What only one side of the body has: its mirror image has no name.
_ONE_SIDED = re.compile(r"(?<![a-z])(?:middle[ _]lobe|lingula|RML)(?![a-z])", re.I | re.A)


def mirror(picture: Picture) -> Picture:
    """Left to right. The columns no longer run to the patient's left."""
    raw = None if picture.raw is None else np.ascontiguousarray(picture.raw[:, ::-1])
    pixels = np.ascontiguousarray(picture.pixels[:, ::-1])
    return replace(picture, pixels=pixels, raw=raw, laterality_verified=False)


def mirror_box(box: Box, width: int) -> Box:
    """Of an image of this width."""
    return (width - box[2], box[1], width - box[0], box[3])


def has_side(text: str) -> bool:
    """Does it say left or right, or name what only one side has?"""
    return any(pattern.search(text) for pattern in (_WORD, _ABBREVIATION, _ONE_SIDED))


def mirror_text(text: str) -> str:
    """left becomes right and right becomes left, in the case they are written in. Raises ValueError for a part of the
    body that only one side has (the right lung's middle lobe, the lingula): its mirror image does not exist."""
    found = _ONE_SIDED.search(text)
    if found:
        raise ValueError(f"text: {found.group()!r} has no mirror image, in {text!r}")
    text = _ABBREVIATION.sub(lambda match: _MIRRORED[match.group()], text)
    return _WORD.sub(lambda match: _cased(_MIRRORED[match.group().lower()], match.group()), text)


def flip_guard(texts: Mapping[str, str], on_side: Literal["swap", "refuse"] = "swap") -> dict[str, str]:
    """The texts of a question whose picture is mirrored.

    swap    left and right change places in each; refuse: ValueError where one says left or right.
    Swapping makes the words agree with the pixels; a mirrored heart or liver stays on the wrong side of the body.
    """
    if on_side not in ("swap", "refuse"):
        raise ValueError(f"on_side: expected swap or refuse, got {on_side!r}")
    if on_side == "refuse":
        for name, text in texts.items():
            if has_side(text):
                raise ValueError(f"{name}: expected no left or right in the text of a mirrored picture, got {text!r}")
        return dict(texts)
    return {name: mirror_text(text) for name, text in texts.items()}


def _cased(word: str, like: str) -> str:
    if like.isupper():
        return word.upper()
    return word.capitalize() if like[0].isupper() else word
