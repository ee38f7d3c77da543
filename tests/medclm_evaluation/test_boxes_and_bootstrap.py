"""Boxes of replies, and how sure a mean is."""

import numpy as np
import pytest

from medclm.evaluation.bootstrap import interval, intervals, paired_difference
from medclm.evaluation.boxes import box_scores, expected, matched

A, B = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 40.0, 40.0)


def test_boxes_are_matched_so_that_the_sum_is_largest():
    # Greedily the first written box would take A and leave B with nothing.
    wide, shifted = (0.0, 0.0, 10.0, 20.0), (5.0, 0.0, 15.0, 10.0)
    assert matched((wide, shifted), (A,)).ious == (0.5,)
    found = matched((B, A), (A, B))
    assert (found.ious, found.spurious) == ((1.0, 1.0), 0)
    assert matched((A, A, B), (A,)).spurious == 2


def test_what_cannot_be_read_counts_as_nothing():
    found = box_scores((), (A, B))
    assert found == {"box_iou": 0.0, "box_parsed": 0.0, "box_acc@0.3": 0.0, "box_acc@0.5": 0.0}


def test_box_scores_by_hand():
    half = (0.0, 0.0, 10.0, 5.0)  # IoU 0.5 with A
    found = box_scores((half,), (A, B))
    assert found["box_iou"] == 0.25 and found["box_acc@0.5"] == 0.5 and found["box_precision"] == 1.0
    assert box_scores((A,), ()) == {"box_false": 1.0} and box_scores((), ()) == {"box_false": 0.0}


def test_expected_boxes_are_those_of_the_reasoning():
    assert expected({"cot": "at <box:2> and <box:0>, <box:2>", "answer": "<box:1>"}) == (2, 0, 1)


def test_interval_of_independent_values_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).random(2000) < 0.3
    found = interval(values.astype(float), range(2000))
    error = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 2000)
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.mean == pytest.approx(error, rel=0.1)
    assert found.mean - found.low == pytest.approx(error, rel=0.1)
    assert interval(values.astype(float), range(2000)) == found  # equal seeds, equal intervals


def test_interval_of_copied_values_is_as_wide_as_of_the_patients():
    per_patient = (np.random.default_rng(1).random(100) < 0.5).astype(float)
    alone = interval(per_patient, range(100))
    copied = interval(np.repeat(per_patient, 20), np.repeat(np.arange(100), 20).tolist())
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    naive = interval(np.repeat(per_patient, 20), range(2000))
    assert naive.high - naive.low < 0.3 * (copied.high - copied.low)


def test_one_patient_says_nothing_of_others_and_missing_values_are_left_out():
    assert interval([1.0, 0.0], ["p", "p"]).low is None
    found = intervals({"a": [1.0, None, 0.0], "b": [None, None, None], "c": [None, 1.0, None]}, ["p", "q", "r"])
    assert set(found) == {"a", "c"} and (found["a"].n, found["a"].mean, found["a"].clusters) == (2, 0.5, 2)
    with pytest.raises(ValueError, match="expected 3 values"):
        intervals({"a": [1.0]}, [1, 2, 3])


def test_paired_difference_is_narrower_than_the_two_intervals():
    rng = np.random.default_rng(2)
    first = (rng.random(300) < 0.5).astype(float)
    second = np.where(rng.random(300) < 0.1, 1.0, first)  # better on a tenth of them, never worse
    found = paired_difference(first, second, range(300))
    assert found.low > 0.0 and found.high - found.low < 0.6 * (lambda i: i.high - i.low)(interval(first, range(300)))
