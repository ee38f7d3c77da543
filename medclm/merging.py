"""One image, several readers: their boxes become one list of lesions.

Whatever the policy: labels are merged each on its own, the result does not depend on the order of the input, and it is
sorted by label and box. A lesion that stands alone comes through unchanged; one made of several has their readers, the
attributes that all of them share, and no region.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import median

from medclm import boxes
from medclm.boxes import Box
from medclm.cases import Lesion
from medclm.problems import DataError

POLICIES = ("none", "union", "wbf", "majority")


def merge(
    lesions: Sequence[Lesion],
    policy: str,
    *,
    seen_by: Collection[str],  # ids of all readers who saw the image, with those who found nothing
    iou: float = 0.5,  # from here on two boxes of a label are the same finding
    weights: Mapping[str, float] | None = None,  # of readers, for wbf; 1 where none is given
) -> tuple[Lesion, ...]:
    """The lesions of one image, merged.

    none      every box of every reader
    union     boxes that overlap, directly or through others between them, become the smallest box around all
    wbf       weighted box fusion (Solovyev, Wang, Gabruseva: Weighted boxes fusion, Image and Vision Computing 107,
              2021, section 3, without its confidences, which people do not give): a box joins the fused box it
              overlaps most, whose corners are then the weighted mean of all it is made of
    majority  groups as for ``union``, of those that more than half of ``seen_by`` marked; the box has the median of
              each coordinate, which one reader's outlier does not move

    Raises DataError for another policy, an ``iou`` outside (0, 1], or a weight that is not positive.
    """
    if policy not in POLICIES:
        raise DataError(f"merge: expected one of {', '.join(POLICIES)}, got {policy!r}")
    if not 0.0 < iou <= 1.0:
        raise DataError(f"iou: expected a number above 0 and up to 1, got {iou!r}")
    for reader, weight in (weights or {}).items():
        if not 0.0 < weight < math.inf:
            raise DataError(f"weights: expected positive numbers, got {weight!r} for reader {reader!r}")
    voters = len({*seen_by, *_readers(lesions)})
    merged: list[Lesion] = []
    for label in sorted({lesion.label for lesion in lesions}):
        alike = sorted((lesion for lesion in lesions if lesion.label == label), key=_order)
        if policy == "none":
            merged += alike
        elif policy == "union":
            merged += [_one(group, _union) for group in _groups(alike, iou)]
        elif policy == "majority":
            agreed = [g for g in _groups(alike, iou) if 2 * len(_readers(g)) > voters]
            merged += [_one(group, _median) for group in agreed]
        else:
            merged += _fused(alike, iou, weights or {})
    return tuple(sorted(merged, key=_order))


def _order(lesion: Lesion) -> tuple:
    runs = () if lesion.region is None else lesion.region.runs
    return lesion.label, lesion.box, lesion.readers, sorted(lesion.attributes.items()), runs


def _readers(lesions: Sequence[Lesion]) -> tuple[str, ...]:
    return tuple(sorted({reader for lesion in lesions for reader in lesion.readers}))


def _one(group: Sequence[Lesion], box_of: Callable[[Sequence[Lesion]], Box]) -> Lesion:
    if len(group) == 1:
        return group[0]
    shared = set.intersection(*(set(lesion.attributes.items()) for lesion in group))
    return Lesion(group[0].label, box_of(group), attributes=dict(sorted(shared)), readers=_readers(group))


def _groups(alike: Sequence[Lesion], iou: float) -> list[list[Lesion]]:
    """Connected components of the graph whose edges are overlaps of at least ``iou``."""
    groups: list[list[Lesion]] = []
    for lesion in alike:
        joined, apart = [lesion], []
        for group in groups:
            if any(boxes.iou(lesion.box, other.box) >= iou for other in group):
                joined += group
            else:
                apart.append(group)
        groups = [*apart, joined]
    return groups


def _union(group: Sequence[Lesion]) -> Box:
    return boxes.union(lesion.box for lesion in group)


def _median(group: Sequence[Lesion]) -> Box:
    x1, y1, x2, y2 = (float(median(values)) for values in zip(*(lesion.box for lesion in group), strict=True))
    return x1, y1, x2, y2


def _fused(alike: Sequence[Lesion], iou: float, weights: Mapping[str, float]) -> list[Lesion]:
    def weight(lesion: Lesion) -> float:
        return math.fsum(weights.get(reader, 1.0) for reader in lesion.readers) if lesion.readers else 1.0

    def mean(group: Sequence[Lesion]) -> Box:
        total = math.fsum(weight(lesion) for lesion in group)
        x1, y1, x2, y2 = (math.fsum(weight(lesion) * lesion.box[i] for lesion in group) / total for i in range(4))
        return x1, y1, x2, y2

    groups: list[list[Lesion]] = []
    fused: list[Box] = []
    for lesion in sorted(alike, key=lambda lesion: -weight(lesion)):
        overlaps = [boxes.iou(lesion.box, box) for box in fused]
        best = max(range(len(fused)), key=overlaps.__getitem__, default=None)
        if best is None or overlaps[best] < iou:
            groups.append([lesion])
            fused.append(lesion.box)
        else:
            groups[best].append(lesion)
            fused[best] = mean(groups[best])
    return [_one(group, mean) for group in groups]
