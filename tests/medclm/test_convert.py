"""The pure function: what a row holds, what is counted, and that nothing private is in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from small_cases import SALT, small_case, small_cases, small_settings

from medclm import convert as converting
from medclm import png
from medclm.cases import Case, Lesion
from medclm.convert import Pictures, convert
from medclm.organs import FromCallable, OrganError
from medclm.problems import DataError, Problems, Reason
from medclm.regions import Region
from medclm.schema import FIELDS, SCHEMA


def item(case: Case, partner: Case | None = None, split: str = "train") -> str:
    other = None if partner is None else json.loads(partner.to_json())
    return json.dumps({"split": split, "case": json.loads(case.to_json()), "partner": other})


def converted(*items: str, **changes) -> tuple[list[list[dict]], list[Problems]]:
    settings = small_settings(**changes).to_json()
    made = convert({"item": list(items), "settings": [settings] * len(items)})
    assert len(made["rows"]) == len(made["problems"]) == len(items)
    return made["rows"], [Problems.from_dict(json.loads(text)) for text in made["problems"]]


def pixels_of(row: dict) -> np.ndarray:
    return png.decode(row["image"]["bytes"])


@pytest.fixture
def cases(tmp_path) -> list[Case]:
    return small_cases(tmp_path / "images", 6)


def test_rows_fit_the_schema(cases):
    (rows,), (problems,) = converted(item(cases[0], cases[3]))
    assert not problems.counts
    assert {row["stage"] for row in rows} == {"easy", "medium", "hard"}
    assert all(list(row) == [name for name, _ in FIELDS] for row in rows)
    assert pa.Table.from_pylist(rows, SCHEMA).num_rows == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)


def test_boxes_are_drawn_in_the_easy_stage_alone(cases):
    (rows,), _ = converted(item(cases[0], cases[3]))
    original = np.asarray(Image.open(cases[0].image.path))
    x1, y1, x2, y2 = map(int, cases[0].lesions[0].box)
    for row in rows:
        if row["stage"] == "easy":
            assert row["box_drawn"]
            drawn = pixels_of(row)
            assert not np.array_equal(drawn[:, :, 1], original)
            # the lesion itself is not covered
            assert np.array_equal(drawn[y1:y2, x1:x2, 0], original[y1:y2, x1:x2])
        if row["stage"] == "medium":
            assert not row["box_drawn"]
            assert np.array_equal(pixels_of(row), original)


def test_hard_stage_shows_and_describes_the_partner(cases):
    (rows,), _ = converted(item(cases[0], cases[3]))
    (partner_rows,), _ = converted(item(cases[3]))
    hard = [row for row in rows if row["stage"] == "hard"]
    medium = next(row for row in partner_rows if row["stage"] == "medium")
    assert hard
    for row in hard:
        assert np.array_equal(pixels_of(row), np.asarray(Image.open(cases[3].image.path)))
        assert row["boxes"] == [list(lesion.box) for lesion in cases[3].lesions]
        assert (row["case"], row["patient"]) == (medium["case"], medium["patient"])
        assert row["cot"] == ""
    assert not {row["id"] for row in rows} & {row["id"] for row in partner_rows}


def test_no_partner_no_hard_stage(cases):
    (rows,), _ = converted(item(cases[0]))
    assert {row["stage"] for row in rows} == {"easy", "medium"}


def test_nothing_private_is_in_a_row(cases):
    (rows,), _ = converted(item(cases[0], cases[3]))
    text = json.dumps([row | {"image": None} for row in rows])
    for private in ("Smith", "film/", "image-000", str(Path(cases[0].image.path).parent), SALT):
        assert private not in text


def test_another_salt_gives_other_ids(cases):
    (rows,), _ = converted(item(cases[0]))
    (others,), _ = converted(item(cases[0]), salt="quite another salt")
    for name in ("id", "case", "patient", "provenance_hash"):
        assert rows[0][name] != others[0][name]


def test_order_and_company_do_not_matter(cases):
    items = [item(case, partner) for case, partner in zip(cases, cases[1:] + cases[:1], strict=True)]
    together, _ = converted(*items)
    reversed_, _ = converted(*items[::-1])
    alone = [converted(each)[0][0] for each in items]
    assert together == reversed_[::-1] == alone


def test_an_image_that_several_items_show_is_read_once(cases, monkeypatch):
    import medclm.images

    loaded = []
    load = medclm.images.load
    monkeypatch.setattr(
        medclm.images, "load", lambda ref, **options: (loaded.append(ref.path), load(ref, **options))[1]
    )
    converted(item(cases[0], cases[3]), item(cases[3], cases[0]))
    assert sorted(loaded) == sorted([cases[0].image.path, cases[3].image.path])


def test_pictures_of_an_earlier_batch_are_not_read_again_and_the_oldest_go(cases, monkeypatch):
    import medclm.images

    loaded = []
    load = medclm.images.load
    monkeypatch.setattr(
        medclm.images, "load", lambda ref, **options: (loaded.append(Path(ref.path).name), load(ref, **options))[1]
    )
    pictures, settings = Pictures(most=2), small_settings().to_json()
    fresh = converted(*map(item, cases[:3]))[0]
    loaded.clear()
    for number in (0, 1, 0, 2, 0, 1):
        made = convert({"item": [item(cases[number])], "settings": [settings]}, pictures)
        assert made["rows"] == [fresh[number]]
    names = [Path(case.image.path).name for case in cases[:3]]
    assert loaded == [names[0], names[1], names[2], names[1]]


def test_masks_are_looked_for_where_a_lesion_is(cases, monkeypatch):
    class Nothing:
        name = "nothing"

        def masks(self, case, picture):
            raise OrganError(Reason.MASK_MISSING, "no file")

    monkeypatch.setattr(converting, "_organ_source", lambda spec: Nothing())
    healthy = replace(cases[0], lesions=(), absent=("nodule",))
    (rows,), (problems,) = converted(item(healthy))
    assert rows and not problems.counts
    (_,), (problems,) = converted(item(cases[0]))
    assert problems.counts == {Reason.MASK_MISSING.value: 1}


def test_large_image_and_its_boxes_are_scaled_together(tmp_path):
    case = small_case(tmp_path, 0, size=64)  # 80 x 64
    mask = np.zeros((64, 80), bool)
    x1, y1, x2, y2 = map(int, case.lesions[0].box)
    mask[y1:y2, x1:x2] = True
    case = replace(case, lesions=(replace(case.lesions[0], region=Region.of(mask)),))
    (rows,), _ = converted(item(case), max_side=40)
    row = rows[0]
    assert (row["width"], row["height"], row["orig_width"], row["orig_height"]) == (40, 32, 80, 64)
    assert pixels_of(row).shape[:2] == (32, 40)
    assert row["boxes"][0] == [x1 / 2, y1 / 2, x2 / 2, y2 / 2]


def test_missing_image_is_counted_once_though_it_is_also_a_partner(cases):
    gone = replace(cases[3], image=replace(cases[3].image, path="/nowhere/image.png"))
    rows, problems = converted(item(cases[0], gone), item(gone, cases[0]))
    assert {row["stage"] for row in rows[0]} == {"easy", "medium"}
    assert rows[1] == []
    assert not problems[0].counts
    assert problems[1].counts == {Reason.IMAGE_MISSING.value: 1}


def test_image_of_another_size_is_counted(cases):
    rows, (problems,) = converted(item(replace(cases[0], width=999)))
    assert rows == [[]]
    assert problems.counts == {Reason.IMAGE_SIZE.value: 1}
    assert "999 x 64, is 80 x 64" in problems.examples[Reason.IMAGE_SIZE.value][0]


def test_boxes_are_clipped_and_those_outside_counted(cases):
    lesions = (Lesion("mass", (70, 10, 95, 30)), Lesion("mass", (90, 10, 95, 30)), Lesion("mass", (5, 5, 5, 9)))
    (rows,), (problems,) = converted(item(replace(cases[0], lesions=lesions)))
    assert rows[0]["boxes"] == [[70, 10, 80, 30]]
    assert problems.counts == {Reason.BOX_OUTSIDE.value: 1, Reason.BOX_EMPTY.value: 1}


def test_case_without_any_question_is_counted(cases):
    rows, (problems,) = converted(item(replace(cases[4], absent=())), strict=True)  # no fault of the data
    assert rows == [[]]
    assert problems.counts == {Reason.NOTHING_LEFT.value: 1}


def test_strict_raises_the_first_problem(cases):
    with pytest.raises(DataError, match="image of another size"):
        converted(item(replace(cases[0], width=999)), strict=True)


def test_organs_are_linked_on_the_stored_grid(cases, monkeypatch):
    def left_half(pixels: np.ndarray) -> dict[str, np.ndarray]:
        mask = np.zeros(pixels.shape[:2], bool)
        mask[:, : pixels.shape[1] // 2] = True
        return {"right lung": mask}

    source = FromCallable(left_half)
    monkeypatch.setattr(converting, "_organ_source", lambda spec: source)
    case = replace(cases[0], lesions=(Lesion("mass", (4, 4, 20, 20)), Lesion("cyst", (60, 4, 76, 20))))
    (rows,), _ = converted(item(case), max_side=40)
    assert rows[0]["organs"] == ["right lung", "background"]
    assert rows[0]["organ_coverage"][0] == 1.0
    mask = Region.decode(rows[0]["organ_regions"][0]).mask()
    assert mask.shape == (32, 40) and mask[:, :20].all() and not mask[:, 20:].any()
    assert rows[0]["organ_regions"][1] == ""


@pytest.mark.parametrize(("reason", "kept"), [(Reason.MASK_MISSING, True), (Reason.MASK_GRID, False)])
def test_bad_masks_are_counted_and_missing_ones_leave_the_lesions(cases, monkeypatch, reason, kept):
    class Nothing:
        name = "nothing"

        def masks(self, case, picture):
            raise OrganError(reason, "no file")

    monkeypatch.setattr(converting, "_organ_source", lambda spec: Nothing())
    (rows,), (problems,) = converted(item(cases[0]))
    assert problems.counts == {reason.value: 1}
    assert {organ for row in rows for organ in row["organs"]} == ({"background"} if kept else set())


def test_provenance_follows_what_the_row_is_made_of(cases):
    def provenance(case: Case, partner: Case | None = None, **changes) -> str:
        return converted(item(case, partner), **changes)[0][0][0]["provenance_hash"]

    same = provenance(cases[0])
    assert provenance(cases[0], shard_cases=9, strict=True) == same
    assert provenance(cases[0], rule="iou") != same
    assert provenance(cases[0], cases[3]) != same
    moved = replace(cases[0], organs="/elsewhere/masks.nii.gz")
    assert provenance(moved) == provenance(replace(cases[0], organs="/here/masks.nii.gz")) != same
