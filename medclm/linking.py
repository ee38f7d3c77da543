"""Which organ a lesion lies in.

Rules, for a lesion L (its mask, else its box) and an organ O:

    coverage  |L and O| / |L|, the default. Soft organs before bones, the largest; equals go to the smallest organ.
    iou       |L and O| / |L or O|, the largest: what the MedCLM paper writes. Favours small organs: a nodule that lies
              in the lung but crosses a rib is in the rib.
    box_iou   IoU of the lesion's box with the box around the organ, the largest: what its author's code does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medclm import boxes
from medclm.cases import Case, Lesion
from medclm.organs import names
from medclm.organs.source import Mask
from medclm.regions import Region

RULES = ("coverage", "iou", "box_iou")
THRESHOLDS = {"coverage": 0.5, "iou": 0.0, "box_iou": 0.0}  # the paper's rules: any overlap at all
BACKGROUND = "background"
EQUAL = 0.05  # coverages this near are equal: the outlines of masks are uncertain by about that much of a lesion
_IN_BONE = ("fracture", "bone", "osteo", "rib", "vertebra", "sclerotic", "lytic")  # labels that bones come first for
_MIDDLE = 0.04  # of the width, on each side of the middle: too near it to name a side


@dataclass(frozen=True)
class Link:
    """organ: canonical name, or "background" where no organ reaches the threshold.

    score     of the rule that chose it; of the best organ where it is "background"
    iou, coverage  with the chosen organ (the best where it is "background"), whatever the rule
    region    the organ's mask; None for "background"
    side      "left" or "right" of the patient: from the organ's name, else, for an organ that has two sides and masks
              that do not tell them apart, from the world axis; None where neither says
    """

    organ: str
    score: float
    iou: float
    coverage: float
    region: Region | None
    side: str | None = None


@dataclass(frozen=True)
class LinkedCase:
    """A case with one link a lesion, in order.

    laterality_verified: every left and right that can be said of it comes from a world axis or an organ's name.
    """

    case: Case
    links: tuple[Link, ...]
    laterality_verified: bool


def link(
    lesion: Lesion,
    masks: Mapping[str, Mask],  # canonical name -> bool [H, W]
    *,
    rule: str = "coverage",
    threshold: float | None = None,
    laterality_verified: bool = False,
) -> Link:
    """threshold: the score that an organ must reach (and be more than 0); None: of THRESHOLDS. laterality_verified:
    the columns are known to run from the patient's right to left.

    Counting is O(area of the lesion's box) an organ, and once the pixels of each organ that it touches; a case of
    several lesions is better given to :func:`link_case`, which counts those once.
    """
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}; got {rule!r}")
    return _link(lesion, _organs(masks, rule), rule, threshold, laterality_verified)


def link_case(
    case: Case,
    masks: Mapping[str, Mask],  # canonical name -> bool [H, W]
    *,
    rule: str = "coverage",
    threshold: float | None = None,
    laterality_verified: bool = False,  # of the picture
) -> LinkedCase:
    """All lesions of a case; see :func:`link`."""
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}; got {rule!r}")
    organs = _organs(masks, rule)
    links = tuple(_link(each, organs, rule, threshold, laterality_verified) for each in case.lesions)
    by_name = bool(links) and all(names.side(each.organ) is not None for each in links)
    return LinkedCase(case, links, laterality_verified or by_name)


@dataclass(frozen=True, eq=False)
class _Organ:
    """What costs a look at every pixel is measured when it is first asked for: most organs lie apart from the lesions.

    mask  bool [H, W], or a layer of bits
    """

    mask: Mask

    @cached_property
    def whole(self) -> np.ndarray:
        return np.asarray(self.mask)

    @cached_property
    def area(self) -> int:
        return int(np.count_nonzero(self.whole))

    @cached_property
    def box(self) -> boxes.Box:
        return boxes.from_mask(self.whole)

    @cached_property
    def region(self) -> Region:
        return Region.of(self.whole)


@dataclass(frozen=True)
class _Score:
    name: str
    score: float
    iou: float
    coverage: float


def _organs(masks: Mapping[str, Mask], rule: str) -> dict[str, _Organ]:
    """Without the empty ones where that matters: they have no box, and share no pixel with a lesion."""
    return {name: _Organ(mask) for name, mask in masks.items() if rule != "box_iou" or np.any(mask)}


def _link(
    lesion: Lesion, organs: Mapping[str, _Organ], rule: str, threshold: float | None, laterality_verified: bool
) -> Link:
    if not organs:
        return Link(BACKGROUND, 0.0, 0.0, 0.0, None)
    height, width = next(iter(organs.values())).mask.shape
    top, left, weights = _footprint(lesion, width, height)
    total = float(weights.sum())
    scores = []
    for name, organ in organs.items():
        inside = organ.mask[top : top + weights.shape[0], left : left + weights.shape[1]]
        common = float(weights[inside].sum()) if inside.any() else 0.0  # most organs lie elsewhere
        coverage = common / total if common > 0.0 else 0.0
        overlap = common / (total + organ.area - common) if common > 0.0 else 0.0
        score = boxes.iou(lesion.box, organ.box) if rule == "box_iou" else coverage if rule == "coverage" else overlap
        scores.append(_Score(name, score, overlap, coverage))
    least = THRESHOLDS[rule] if threshold is None else threshold
    passed = [each for each in scores if each.score >= least and each.score > 0.0]
    if not passed:
        best = max(scores, key=lambda each: each.score)
        return Link(BACKGROUND, best.score, best.iou, best.coverage, None)
    chosen = _by_coverage(passed, organs, lesion.label) if rule == "coverage" else max(passed, key=lambda e: e.score)
    return Link(
        chosen.name,
        chosen.score,
        chosen.iou,
        chosen.coverage,
        organs[chosen.name].region,
        names.side(chosen.name) or (_side_by_axis(lesion.box, chosen.name, width) if laterality_verified else None),
    )


def _by_coverage(passed: list[_Score], organs: Mapping[str, _Organ], label: str) -> _Score:
    bones_first = any(word in label for word in _IN_BONE)
    preferred = [each for each in passed if names.is_bone(each.name) == bones_first] or passed
    most = max(each.score for each in preferred)
    equal = [each for each in preferred if each.score >= most - EQUAL]
    return min(equal, key=lambda each: (organs[each.name].area, each.name))


def _footprint(lesion: Lesion, width: int, height: int) -> tuple[int, int, np.ndarray]:
    """(top, left, weights [h, w]): how much of each pixel belongs to the lesion; of a box, its exact share."""
    x1, y1, x2, y2 = boxes.clip(lesion.box, width, height)
    left, top = int(np.floor(x1)), int(np.floor(y1))
    right, bottom = max(int(np.ceil(x2)), left), max(int(np.ceil(y2)), top)
    if lesion.region is not None:
        if (lesion.region.height, lesion.region.width) != (height, width):
            raise ValueError(
                f"masks: expected the lesion's [{lesion.region.height}, {lesion.region.width}], got [{height}, {width}]"
            )
        return top, left, _rows(lesion.region, top, bottom)[:, left:right].astype(np.float64)
    columns = np.minimum(np.arange(left, right) + 1.0, x2) - np.maximum(np.arange(left, right), x1)
    rows = np.minimum(np.arange(top, bottom) + 1.0, y2) - np.maximum(np.arange(top, bottom), y1)
    return top, left, np.outer(rows, columns)


def _rows(region: Region, top: int, bottom: int) -> np.ndarray:
    """Rows top .. bottom - 1 of a region's mask, without decoding the rest."""
    start, stop = top * region.width, bottom * region.width
    lengths = np.diff(np.clip(np.cumsum(region.runs), start, stop), prepend=start)
    return np.repeat(np.arange(len(region.runs)) % 2 == 1, lengths).reshape(bottom - top, region.width)


_PAIRED = frozenset({"lung", "kidney", "breast", "lung base", "upper lung zone", "mid lung zone", "apical lung zone"})


def _side_by_axis(box: boxes.Box, organ: str, width: int) -> str | None:
    """Columns run from the patient's right to left. Of organs with two sides only: a lesion right of the picture's
    middle is not thereby in the left of the liver."""
    offset = (box[0] + box[2]) / 2 / width - 0.5
    if organ not in _PAIRED or abs(offset) < _MIDDLE:
        return None
    return "left" if offset > 0 else "right"
