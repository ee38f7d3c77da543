"""Several readers' boxes become one list: against counts by hand, and properties that hold for any boxes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medclm import boxes
from medclm.cases import Lesion
from medclm.merging import POLICIES, merge
from medclm.problems import DataError
from medclm.regions import Region

READERS = ("R1", "R2", "R3")


def lesion(label: str, reader: str, *box: float, **attributes: str) -> Lesion:
    return Lesion(label, box, attributes=attributes, readers=(reader,))


@st.composite
def marked(draw: st.DrawFn) -> list[Lesion]:
    corner, side = st.integers(0, 20), st.integers(20, 30)  # most overlap: chains of overlaps are the hard case
    found = []
    for _ in range(draw(st.integers(0, 8))):
        x, y, w, h = draw(corner), draw(corner), draw(side), draw(side)
        label, reader = draw(st.sampled_from(("mass", "mass", "nodule"))), draw(st.sampled_from(READERS))
        found.append(lesion(label, reader, float(x), float(y), float(x + w), float(y + h)))
    return found


@pytest.mark.parametrize("policy", POLICIES)
@given(found=marked())
def test_merge_does_not_depend_on_the_order(policy: str, found: list[Lesion]) -> None:
    expected = merge(found, policy, seen_by=READERS)
    for shuffle in (0, 1, 2):
        shuffled = random.Random(shuffle).sample(found, len(found))
        assert merge(shuffled, policy, seen_by=READERS) == expected


@given(marked(), st.sampled_from(POLICIES))
def test_merged_boxes_lie_within_those_of_their_label(found: list[Lesion], policy: str) -> None:
    for made in merge(found, policy, seen_by=READERS):
        alike = [each for each in found if each.label == made.label]
        around = boxes.union(each.box for each in alike)
        assert boxes.area(made.box) > 0.0
        assert all(abs(a - b) < 1e-9 for a, b in zip(boxes.intersection(made.box, around), made.box, strict=True))
        assert set(made.readers) <= {reader for each in alike for reader in each.readers}


@given(marked())
def test_union_leaves_no_two_boxes_whose_members_overlap_and_loses_nothing(found: list[Lesion]) -> None:
    made = merge(found, "union", seen_by=READERS)
    for each in found:
        assert any(m.label == each.label and boxes.intersection(m.box, each.box) == each.box for m in made)


@given(marked())
def test_majority_is_never_more_than_union(found: list[Lesion]) -> None:
    agreed, all_of_them = (merge(found, policy, seen_by=READERS) for policy in ("majority", "union"))
    assert len(agreed) <= len(all_of_them)
    assert all(len(each.readers) >= 2 for each in agreed)


@given(marked())
def test_none_keeps_every_box(found: list[Lesion]) -> None:
    assert sorted(map(repr, merge(found, "none", seen_by=READERS))) == sorted(map(repr, found))


def test_wbf_is_the_mean_of_the_boxes_that_match_and_keeps_the_one_that_does_not() -> None:
    found = [
        lesion("mass", "R1", 10, 10, 50, 50),
        lesion("mass", "R2", 14, 10, 54, 54),
        lesion("mass", "R3", 200, 200, 220, 220),
    ]
    made = merge(found, "wbf", seen_by=READERS)
    assert [each.box for each in made] == [(12.0, 10.0, 52.0, 52.0), (200, 200, 220, 220)]
    assert [each.readers for each in made] == [("R1", "R2"), ("R3",)]


def test_wbf_weighs_readers() -> None:
    found = [lesion("mass", "R1", 0, 0, 40, 40), lesion("mass", "R2", 4, 0, 44, 40)]
    (made,) = merge(found, "wbf", seen_by=READERS, weights={"R1": 3.0})
    assert made.box == (1.0, 0.0, 41.0, 40.0)


def test_majority_counts_the_readers_who_saw_the_image_and_found_nothing() -> None:
    found = [lesion("mass", "R1", 0, 0, 40, 40), lesion("mass", "R2", 2, 0, 42, 40)]
    assert len(merge(found, "majority", seen_by=("R1", "R2", "R3"))) == 1
    assert merge(found, "majority", seen_by=("R1", "R2", "R3", "R4")) == ()  # two of four: no majority


def test_majority_counts_a_reader_once() -> None:
    found = [lesion("mass", "R1", 0, 0, 40, 40), lesion("mass", "R1", 2, 0, 42, 40)]
    assert merge(found, "majority", seen_by=READERS) == ()


def test_majority_takes_the_median_which_one_outlier_does_not_move() -> None:
    found = [
        lesion("mass", "R1", 0, 0, 40, 40),
        lesion("mass", "R2", 0, 0, 40, 41),
        lesion("mass", "R3", 0, 0, 40, 60),
    ]
    (made,) = merge(found, "majority", seen_by=READERS)
    assert made.box == (0, 0, 40, 41)


def test_labels_are_never_merged_with_each_other() -> None:
    found = [lesion("mass", "R1", 0, 0, 40, 40), lesion("nodule", "R2", 0, 0, 40, 40)]
    for policy in ("union", "wbf"):
        assert [each.label for each in merge(found, policy, seen_by=READERS)] == ["mass", "nodule"]


def test_a_lesion_alone_keeps_its_region_and_attributes_and_merged_ones_what_they_share() -> None:
    alone = Lesion("mass", (0, 0, 2, 1), Region(2, 1, (0, 2)), {"side": "left"}, ("R1",))
    assert merge([alone], "wbf", seen_by=READERS) == (alone,)
    found = [
        lesion("mass", "R1", 0, 0, 9, 9, side="left", size="big"),
        lesion("mass", "R2", 0, 0, 9, 8, side="left", size="small"),
    ]
    (made,) = merge(found, "union", seen_by=READERS)
    assert made.attributes == {"side": "left"} and made.region is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policy": "vote"}, "merge: expected one of none, union, wbf, majority, got 'vote'"),
        ({"policy": "wbf", "iou": 0.0}, "iou: expected a number above 0"),
        ({"policy": "wbf", "weights": {"R1": 0.0}}, "weights: expected positive numbers, got 0.0 for reader 'R1'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        merge([], seen_by=READERS, **arguments)
