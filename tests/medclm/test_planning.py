"""Splits keep patients whole, partners are other patients of the same domain, and equal input gives an equal plan."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_cases import SALT, small_settings

from medclm.cases import Case, ImageRef, Lesion
from medclm.planning import domain, find_partners, read_places, split_patients, write_items, write_manifest
from medclm.problems import DataError, Problems, Reason
from medclm.regions import Region
from medclm.schema import SPLITS


def make_case(number: int, patient: str, labels: tuple[str, ...] = ("nodule",), **changes) -> Case:
    lesions = tuple(Lesion(label, (1, 1, 5, 5)) for label in labels)
    case = Case(f"c{number}", "tests", patient, "CT", ImageRef(f"/data/{number}.png"), lesions)
    return replace(case, **changes)


def items_of(cases, folder, **changes) -> tuple[dict[str, list[dict]], Problems]:
    """shard -> its items."""
    chosen, problems = small_settings(**changes), Problems()
    write_manifest(cases, folder / "cases.jsonl")
    shards = write_items(folder / "cases.jsonl", folder / "items", chosen, problems)
    read = {
        name: [json.loads(line) for line in (folder / "items" / f"{name}.jsonl").read_text().splitlines()]
        for name, _ in shards
    }
    assert {name: len(items) for name, items in read.items()} == dict(shards)
    return read, problems


def flat(shards: dict[str, list[dict]]) -> list[dict]:
    return [item for items in shards.values() for item in items]


@st.composite
def some_cases(draw) -> list[Case]:
    labels = st.lists(st.sampled_from(["nodule", "mass", "cyst"]), max_size=3)
    patients = draw(st.lists(st.sampled_from("ABCDE"), min_size=1, max_size=25))
    return [make_case(number, patient, tuple(draw(labels))) for number, patient in enumerate(patients)]


@given(some_cases())
@settings(max_examples=25, deadline=None)
def test_no_patient_is_in_two_splits_and_no_case_is_lost(tmp_path_factory, cases):
    shards, _ = items_of(cases, tmp_path_factory.mktemp("plan"))
    where: dict[str, set] = {}
    for name, items in shards.items():
        for item in items:
            assert name.startswith(item["split"])
            where.setdefault(item["case"]["patient"], set()).add(item["split"])
    assert all(len(splits) == 1 for splits in where.values())
    assert sorted(item["case"]["id"] for item in flat(shards)) == sorted(case.id for case in cases)


@given(some_cases())
@settings(max_examples=25, deadline=None)
def test_partner_is_another_patient_of_one_domain_wherever_there_is_one(tmp_path_factory, cases):
    def domains(case: dict) -> set[str]:
        return {lesion["label"] for lesion in case["lesions"]} or {"none"}

    items = flat(items_of(cases, tmp_path_factory.mktemp("plan"))[0])
    for item in items:
        case, partner = item["case"], item["partner"]
        alike = [
            each["case"]
            for each in items
            if each["split"] == item["split"] and each["case"] != case and domains(each["case"]) & domains(case)
        ]
        if not alike:
            assert partner is None
            continue
        assert partner in alike
        if any(each["patient"] != case["patient"] for each in alike):
            assert partner["patient"] != case["patient"]


def test_domain_is_label_and_modality():
    assert domain("nodule", "CT") == "nodule_CT"


def test_images_serve_as_partners_about_equally_often(tmp_path):
    cases = [make_case(number, f"p{number}") for number in range(40)]
    items = flat(items_of(cases, tmp_path, ratios=(1.0, 0.0, 0.0))[0])
    assert sorted(item["partner"]["id"] for item in items) == sorted(case.id for case in cases)


def test_slices_of_one_volume_find_partners_in_one_volume(tmp_path):
    """A volume is read once, not once a slice: 4 volumes of 10 slices, interleaved with nothing."""
    cases = [make_case(number, f"p{number // 10}") for number in range(40)]
    items = flat(items_of(cases, tmp_path, ratios=(1.0, 0.0, 0.0))[0])
    for volume in range(4):
        assert len({item["partner"]["patient"] for item in items[10 * volume : 10 * volume + 10]}) == 1


def test_ratios_are_of_patients(tmp_path):
    cases = [make_case(number, f"p{number}") for number in range(2000)]
    shards, _ = items_of(cases, tmp_path, ratios=(0.7, 0.2, 0.1), shard_cases=500)
    counts = {split: sum(item["split"] == split for item in flat(shards)) / 2000 for split in SPLITS}
    assert counts["train"] == pytest.approx(0.7, abs=0.04)
    assert counts["val"] == pytest.approx(0.2, abs=0.04)
    assert counts["test"] == pytest.approx(0.1, abs=0.03)


def test_a_share_of_nothing_gets_nobody(tmp_path):
    cases = [make_case(number, f"p{number}") for number in range(200)]
    assert {item["split"] for item in flat(items_of(cases, tmp_path, ratios=(0.0, 1.0, 0.0))[0])} == {"val"}


def test_equal_input_gives_equal_bytes_and_another_salt_another_split(tmp_path):
    cases = [make_case(number, f"p{number // 3}", ("nodule", "cyst")[number % 2 :]) for number in range(60)]
    plans = []
    for name, salt in (("a", SALT), ("b", SALT), ("c", "quite another salt")):
        (tmp_path / name).mkdir()
        plans.append(items_of(iter(cases), tmp_path / name, salt=salt)[0])
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def test_split_of_a_patient_does_not_depend_on_who_else_is_there(tmp_path):
    cases = [make_case(number, f"p{number}") for number in range(60)]
    splits = []
    for name, chosen in (("all", cases), ("half", cases[::2])):
        (tmp_path / name).mkdir()
        items = flat(items_of(chosen, tmp_path / name)[0])
        splits.append({item["case"]["id"]: item["split"] for item in items})
    assert splits[1].items() <= splits[0].items()


def test_own_split_is_kept_on_request_for_the_whole_patient(tmp_path):
    cases = [
        make_case(0, "a", split="test"),
        make_case(1, "a"),  # says nothing: follows the patient
        make_case(2, "b", split="val"),
    ]
    items = flat(items_of(cases, tmp_path, keep_split=True, ratios=(1.0, 0.0, 0.0))[0])
    assert {item["case"]["id"]: item["split"] for item in items} == {"c0": "test", "c1": "test", "c2": "val"}


def test_own_split_that_tears_a_patient_apart_is_refused(tmp_path):
    cases = [make_case(0, "a", split="train"), make_case(1, "a", split="test")]
    with pytest.raises(DataError, match="1 patients in more than one part"):
        items_of(cases, tmp_path, keep_split=True)
    (tmp_path / "hashed").mkdir()
    assert len({item["split"] for item in flat(items_of(cases, tmp_path / "hashed")[0])}) == 1


def test_the_first_of_two_cases_with_one_id_is_kept_and_the_other_counted(tmp_path):
    cases = [make_case(0, "a"), make_case(1, "b"), make_case(0, "c")]
    shards, problems = items_of(cases, tmp_path)
    assert sorted(item["case"]["patient"] for item in flat(shards)) == ["a", "b"]
    assert "c" not in {item["partner"]["patient"] for item in flat(shards) if item["partner"]}
    assert problems.counts == {Reason.DUPLICATE_ID.value: 1}


def test_equal_ids_of_two_sources_are_two_cases(tmp_path):
    shards, problems = items_of([make_case(0, "a"), make_case(0, "a", source="other")], tmp_path)
    assert len(flat(shards)) == 2 and not problems.counts


def test_shards_have_the_asked_size(tmp_path):
    cases = [make_case(number, f"p{number}") for number in range(30)]
    shards, _ = items_of(cases, tmp_path, ratios=(1.0, 0.0, 0.0), shard_cases=8)
    assert {name: len(items) for name, items in shards.items()} == {
        "train-000000": 8,
        "train-000001": 8,
        "train-000002": 8,
        "train-000003": 6,
    }


def test_memory_is_bounded_by_ids_not_by_content(tmp_path):
    """300 cases with masks of 6,000 runs each: 4 MB on disk, a fraction of it in memory."""
    line = make_case(0, "p", lesions=(Lesion("nodule", (0, 0, 9, 1), Region(12_000, 1, (2,) * 6_000)),)).to_json()
    lines = [line.replace('"c0"', f'"c{number}"').replace('"p"', f'"p{number}"') for number in range(300)]
    (tmp_path / "cases.jsonl").write_text("\n".join(lines) + "\n")
    del lines
    tracemalloc.start()
    write_items(tmp_path / "cases.jsonl", tmp_path / "items", small_settings(), Problems())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "cases.jsonl").stat().st_size > 3e6
    assert peak < 0.7e6


def test_unknown_split_of_a_source_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected a split of train, val, test, got 'dev'"):
        items_of([make_case(0, "a", split="dev")], tmp_path)


def test_no_case_is_no_shard(tmp_path):
    assert items_of([], tmp_path)[0] == {}


def test_partners_agree_with_a_plain_search(tmp_path):
    """The ring, against the sentence that describes it: the next patient's image of the domain."""
    cases = [make_case(number, "abbcca"[number]) for number in range(6)]
    write_manifest(cases, tmp_path / "cases.jsonl")
    places = read_places(tmp_path / "cases.jsonl", SALT)
    splits = split_patients(places, small_settings(ratios=(1.0, 0.0, 0.0)))
    keep = splits == 0
    # patients in order a (0, 5), b (1, 2), c (3, 4); a -> b, b -> c, c -> a
    assert find_partners(places, splits, keep).tolist() == [1, 3, 4, 0, 5, 2]
