"""One name for each organ: lower case words, the side first, "left lung"; whatever the segmenter called it.

Vertebrae keep the capital of their level, "T5 vertebra". British spelling, "oesophagus".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

# Whole names, after the side was taken off: TotalSegmentator, CXAS and torchxrayvision (ChestX-Det's Latin).
_SYNONYMS = {
    "weasand": "oesophagus",
    "esophagus": "oesophagus",
    "facies diaphragmatica": "diaphragm",
    "hilus pulmonis": "hilum",
    "clavicula": "clavicle",
    "hip": "hip bone",
    "iliac vena": "iliac vein",
    "autochthon": "autochthonous back muscle",
    "rib cartilage": "costal cartilage",
    "costal cartilages": "costal cartilage",
    "lung upper lobe": "upper lobe",
    "lung middle lobe": "middle lobe",
    "lung lower lobe": "lower lobe",
    "heart atrium": "atrium",
    "heart ventricle": "ventricle",
    "heart myocardium": "myocardium",
    "upper zone lung": "upper lung zone",
    "mid zone lung": "mid lung zone",
    "apical zone lung": "apical lung zone",
    "lungs": "lung",
}
_ORDINALS = {1: "st", 2: "nd", 3: "rd"}
_VERTEBRA = re.compile(r"(?:vertebrae?) ([ctls]\d{1,2})|([ctls]\d{1,2}) vertebra")
_RIB = re.compile(r"rib (\d{1,2})")
_BONE = re.compile(
    r"\b(ribs?|vertebrae?|clavicles?|scapulas?|sternum|spine|sacrum|skull|humerus|femur|costal cartilage|hip bone)\b"
)
_NOT_SIDED = re.compile(r"\b(atrium|ventricle|atrial appendage)\b")  # a chamber's left is not the patient's
_LOBE = re.compile(r"^(left|right) (upper|middle|lower) lobe$")
_NOT_ORGANS = re.compile(r"\b(kidney cyst|background)\b")


@lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """``lung_upper_lobe_left`` -> "left upper lobe", ``rib_left_5`` -> "left 5th rib", ``Weasand`` -> "oesophagus"."""
    words = re.sub(r"[\s_]+", " ", name).strip().lower().split(" ")
    sides = [word for word in words if word in ("left", "right")]
    rest = " ".join(word for word in words if word not in ("left", "right"))
    if found := _VERTEBRA.fullmatch(rest):
        rest = f"{(found[1] or found[2]).upper()} vertebra"
    elif found := _RIB.fullmatch(rest):
        rest = f"{found[1]}{_ORDINALS.get(int(found[1]), 'th')} rib"
    else:
        rest = _SYNONYMS.get(rest, rest)
    return " ".join([*sides[:1], rest])


def side(name: str) -> str | None:
    """ "left", "right", or None where a canonical name has no side of the body: "liver", "left atrium"."""
    first = name.split(" ", 1)[0]
    return first if first in ("left", "right") and not _NOT_SIDED.search(name) else None


def is_bone(name: str) -> bool:
    """Of a canonical name. In a projection bones lie over soft organs that a lesion is more likely in."""
    return bool(_BONE.search(name))


def is_organ(name: str) -> bool:
    """Whether a canonical name can host a lesion: segmenters also name cysts."""
    return not _NOT_ORGANS.search(name)


def collect(named: Mapping[str, np.ndarray], *, merge_lobes: bool = False) -> dict[str, np.ndarray]:
    """Masks by any names -> by canonical ones. Masks of one name become one; empty masks and what is no organ go.

    named        bool [H, W]
    merge_lobes  the lobes of a lung become that lung: "left lung", "right lung"
    """
    found: dict[str, np.ndarray] = {}
    for raw, mask in named.items():
        name = canonical(raw)
        if merge_lobes and (lobe := _LOBE.match(name)):
            name = f"{lobe[1]} lung"
        if is_organ(name) and mask.any():
            found[name] = found[name] | mask if name in found else np.asarray(mask, bool)
    return found
