"""Boxes that a model wrote against those of the annotation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from medclm.boxes import Box, iou
from medclm.codecs import PLACEHOLDER

THRESHOLDS = (0.3, 0.5)


@dataclass(frozen=True)
class Matched:
    """ious     of each true box with the box of the reply that it was given; 0 where there was none
    spurious    boxes of the reply that no true box was given
    """

    ious: tuple[float, ...]
    spurious: int


def matched(written: Sequence[Box], truth: Sequence[Box]) -> Matched:
    """One written box a true one at most, so that the sum of IoUs is largest (Kuhn 1955). A reply without a box that
    can be read has IoU 0 for every true box: what cannot be parsed is not left out."""
    ious = np.zeros(len(truth))
    if written and truth:
        table = np.array([[iou(box, other) for other in written] for box in truth])  # [true, written]
        rows, columns = linear_sum_assignment(table, maximize=True)
        ious[rows] = table[rows, columns]
    return Matched(tuple(float(value) for value in ious), len(written) - int((ious > 0.0).sum()))


def box_scores(written: Sequence[Box], truth: Sequence[Box]) -> dict[str, float]:
    """Of one reply.

    box_iou         mean over the true boxes
    box_acc@t       share of the true boxes with IoU >= t
    box_precision   share of the written boxes with IoU >= 0.5; only where there are any
    box_parsed      1 where the reply has a box that can be read
    box_false       1 where the reply has a box and the annotation none; only where it has none
    """
    if not truth:
        return {"box_false": float(bool(written))}
    found = matched(written, truth)
    scores = {"box_iou": sum(found.ious) / len(truth), "box_parsed": float(bool(written))}
    for threshold in THRESHOLDS:
        scores[f"box_acc@{threshold}"] = sum(value >= threshold for value in found.ious) / len(truth)
    if written:
        scores["box_precision"] = sum(value >= 0.5 for value in found.ious) / len(written)
    return scores


def expected(row: dict) -> tuple[int, ...]:
    """Numbers of the boxes that the reply to a row of a set repeats, in the order of its reasoning."""
    text = f"{row['cot']} {row['answer']}"
    return tuple(dict.fromkeys(int(number) for number in PLACEHOLDER.findall(text)))
