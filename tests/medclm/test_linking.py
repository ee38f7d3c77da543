"""Which organ a lesion lies in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from organ_cases import case

from medclm.cases import Lesion
from medclm.linking import BACKGROUND, RULES, link, link_case
from medclm.organs.layers import layers
from medclm.regions import Region


def box_mask(shape: tuple[int, int], x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y1:y2, x1:x2] = True
    return mask


SHAPE = (900, 900)
LUNG = box_mask(SHAPE, 450, 50, 850, 850)  # 400 x 800
LOBE = box_mask(SHAPE, 450, 50, 850, 414)  # its upper 364 rows
RIB = box_mask(SHAPE, 451, 200, 850, 230)  # 399 x 30 across it
CHEST = {"left lung": LUNG, "left upper lobe": LOBE, "left 3rd rib": RIB}
NODULE = Lesion("nodule", (600.0, 200.0, 640.0, 240.0))  # 40 x 40, three quarters of it on the rib


def test_iou_puts_a_nodule_of_the_lung_into_the_rib() -> None:
    """The bias of the paper's rule, in numbers."""
    alone = {name: link(NODULE, {name: mask}, rule="iou") for name, mask in CHEST.items()}
    rounded = {name: round(each.score, 3) for name, each in alone.items()}
    assert rounded == {"left 3rd rib": 0.097, "left upper lobe": 0.011, "left lung": 0.005}
    assert link(NODULE, CHEST, rule="iou").organ == "left 3rd rib"


def test_coverage_puts_it_into_the_lobe() -> None:
    alone = {name: link(NODULE, {name: mask}).coverage for name, mask in CHEST.items()}
    assert alone == {"left lung": 1.0, "left upper lobe": 1.0, "left 3rd rib": 0.75}
    found = link(NODULE, CHEST)
    assert (found.organ, found.score, found.side) == ("left upper lobe", 1.0, "left")


def test_a_nodule_wholly_on_the_rib_s_shadow_is_still_in_the_lobe() -> None:
    small = Lesion("nodule", (600.0, 210.0, 608.0, 218.0))
    assert link(small, CHEST, rule="iou").organ == "left 3rd rib"
    assert link(small, CHEST).organ == "left upper lobe"


def test_a_fracture_is_in_the_rib() -> None:
    assert link(Lesion("rib fracture", (600.0, 205.0, 630.0, 225.0)), CHEST).organ == "left 3rd rib"


def test_a_bone_hosts_what_no_soft_organ_does() -> None:
    assert link(Lesion("mass", (500.0, 205.0, 520.0, 225.0)), {"left 3rd rib": RIB}).organ == "left 3rd rib"


def test_box_iou_compares_boxes_and_not_masks() -> None:
    """An L whose box is the lesion's, and a square that fills a quarter of it."""
    corner = box_mask((100, 100), 0, 0, 40, 5) | box_mask((100, 100), 0, 0, 5, 40)
    square = box_mask((100, 100), 20, 20, 40, 40)
    lesion, masks = Lesion("mass", (0.0, 0.0, 40.0, 40.0)), {"liver": corner, "spleen": square}
    by_box, by_mask = link(lesion, masks, rule="box_iou"), link(lesion, masks, rule="iou")
    assert (by_box.organ, by_box.score) == ("liver", 1.0)
    assert by_mask.organ == "spleen"
    assert by_box.iou == pytest.approx(375 / 1600)  # kept whatever the rule


def test_under_the_threshold_it_is_background_with_the_best_scores_kept() -> None:
    lesion = Lesion("nodule", (440.0, 100.0, 460.0, 120.0))  # half in the lung
    inside = link(lesion, {"left lung": LUNG}, threshold=0.5)
    outside = link(lesion, {"left lung": LUNG}, threshold=0.51)
    assert (inside.organ, inside.coverage) == ("left lung", 0.5)
    assert (outside.organ, outside.score, outside.region, outside.side) == (BACKGROUND, 0.5, None, None)


@pytest.mark.parametrize("rule", RULES)
def test_without_overlap_or_without_organs_it_is_background(rule: str) -> None:
    far = Lesion("nodule", (5.0, 5.0, 15.0, 15.0))
    assert link(far, CHEST, rule=rule).organ == BACKGROUND
    assert link(far, {}, rule=rule).organ == BACKGROUND
    assert link(far, CHEST, rule=rule, threshold=0.0).organ == BACKGROUND


def test_the_lesion_s_mask_counts_and_not_its_box() -> None:
    """A ring around the spleen has it in its box, and none of it in its mask."""
    spleen = box_mask((60, 60), 20, 20, 40, 40)
    ring = box_mask((60, 60), 10, 10, 50, 50) & ~box_mask((60, 60), 18, 18, 42, 42)
    liver = ~spleen
    lesion = Lesion("mass", (10.0, 10.0, 50.0, 50.0), Region.of(ring))
    found = link(lesion, {"spleen": spleen, "liver": liver})
    assert (found.organ, found.coverage) == ("liver", 1.0)
    assert found.iou == pytest.approx(ring.sum() / liver.sum())
    assert link(lesion, {"spleen": spleen}).coverage == 0.0


def test_parts_of_pixels_count_as_parts() -> None:
    found = link(Lesion("nodule", (1.5, 0.0, 2.5, 1.0)), {"liver": box_mask((4, 4), 2, 0, 4, 4)}, threshold=0.1)
    assert found.coverage == pytest.approx(0.5)


def test_a_box_that_leaves_the_picture_is_clipped() -> None:
    assert link(Lesion("nodule", (-5.0, -5.0, 2.0, 2.0)), {"liver": box_mask((4, 4), 0, 0, 2, 2)}).coverage == 1.0
    assert link(Lesion("nodule", (9.0, 9.0, 12.0, 12.0)), {"liver": np.ones((4, 4), bool)}).organ == BACKGROUND


def test_masks_of_another_size_than_the_lesion_s_are_refused() -> None:
    lesion = Lesion("mass", (0.0, 0.0, 2.0, 2.0), Region.of(np.ones((4, 4), bool)))
    with pytest.raises(ValueError, match=r"masks: expected the lesion's \[4, 4\], got \[8, 8\]"):
        link(lesion, {"liver": np.ones((8, 8), bool)})


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="rule: expected one of coverage, iou, box_iou; got 'dice'"):
        link(NODULE, CHEST, rule="dice")


@pytest.mark.parametrize(
    ("organ", "x", "verified", "expected"),
    [
        ("left lung", 10, False, "left"),  # the name knows, wherever it is drawn
        ("lung", 80, True, "left"),  # columns run from the patient's right to left
        ("lung", 10, True, "right"),
        ("lung", 80, False, None),
        ("lung", 48, True, None),  # too near the middle
        ("liver", 80, True, None),
    ],
)
def test_sides_come_from_names_or_axes_only(organ: str, x: int, verified: bool, expected: str | None) -> None:
    lesion = Lesion("nodule", (float(x), 40.0, x + 5.0, 45.0))
    found = link(lesion, {organ: np.ones((100, 100), bool)}, laterality_verified=verified)
    assert found.side == expected


def test_a_case_has_one_link_a_lesion_in_order() -> None:
    lesions = (NODULE, Lesion("nodule", (5.0, 5.0, 15.0, 15.0)), NODULE)
    found = link_case(case(lesions=lesions), CHEST | {"heart": np.zeros(SHAPE, bool)})
    assert [each.organ for each in found.links] == ["left upper lobe", BACKGROUND, "left upper lobe"]
    assert found.links[0].region == Region.of(LOBE)
    assert found.links[0] == link(NODULE, CHEST)
    assert found.laterality_verified is False


@pytest.mark.parametrize("rule", RULES)
def test_empty_masks_host_nothing_under_any_rule(rule: str) -> None:
    empty = np.zeros(SHAPE, bool)
    assert link(NODULE, CHEST | {"heart": empty}, rule=rule) == link(NODULE, CHEST, rule=rule)
    assert link(NODULE, {"heart": empty}, rule=rule) == link(NODULE, {}, rule=rule)


@pytest.mark.parametrize("rule", RULES)
def test_layers_of_bits_host_as_the_masks_they_stand_for(rule: str) -> None:
    bits = np.zeros(SHAPE, np.uint16)
    for bit, mask in enumerate(CHEST.values()):
        bits |= mask.astype(np.uint16) << np.uint16(bit)
    found = layers(bits, [*CHEST, "spleen"])
    assert list(found) == list(CHEST)  # no pixel is spleen
    for name, mask in CHEST.items():
        np.testing.assert_array_equal(np.asarray(found[name]), mask)
        np.testing.assert_array_equal(found[name][3:40, 5:60], mask[3:40, 5:60])
    assert link(NODULE, found, rule=rule) == link(NODULE, CHEST, rule=rule)


def test_laterality_is_verified_by_names_or_by_the_picture() -> None:
    assert link_case(case(lesions=(NODULE,)), CHEST).laterality_verified
    assert not link_case(case(), CHEST).laterality_verified
    assert link_case(case(), CHEST, laterality_verified=True).laterality_verified


@given(st.data())
def test_scores_are_those_of_whole_masks(data: st.DataObject) -> None:
    """The crop, the rows of the region and the weights against the plain formula."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    height, width = rng.integers(3, 24, 2)
    organ = rng.random((height, width)) < 0.5
    x1, y1 = int(rng.integers(0, width - 1)), int(rng.integers(0, height - 1))
    x2, y2 = int(rng.integers(x1 + 1, width + 1)), int(rng.integers(y1 + 1, height + 1))
    whole = box_mask((height, width), x1, y1, x2, y2)
    region = None
    if data.draw(st.booleans()):
        whole &= rng.random((height, width)) < 0.7
        region = Region.of(whole)
    found = link(Lesion("mass", (float(x1), float(y1), float(x2), float(y2)), region), {"liver": organ})
    common, either = (whole & organ).sum(), (whole | organ).sum()
    if organ.any():
        assert found.coverage == pytest.approx(common / whole.sum() if whole.any() else 0.0)
        assert found.iou == pytest.approx(common / either)
