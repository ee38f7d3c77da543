"""The card of a set: counts that are true, nothing that names a file or a patient, and a header that hubs read."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import datasets
import pytest
from small_cases import SALT, small_cases, small_settings

from medclm import sets
from medclm.pipeline import convert_cases
from medclm.problems import Problems
from medclm.settings import Settings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    cases = small_cases(folder / "images", 20)
    cases[2] = replace(cases[2], image=replace(cases[2].image, path=str(folder / "gone-Smith.png")))
    settings = small_settings(reader={"original_sizes": str(folder / "sizes.csv"), "merge": "wbf"})
    convert_cases(iter(cases), folder / "chest", settings, Problems(), workers=1)
    return folder, cases


def test_counts_are_those_of_the_rows(made):
    folder, cases = made
    counts = sets.facts(folder / "chest")["counts"]
    rows = list(sets.rows(folder / "chest"))
    for name in ("split", "stage", "kind", "answer_type", "source", "licence"):
        assert counts[name] == Counter(row[name] for row in rows)
    used = [case for number, case in enumerate(cases) if number != 2]
    assert counts["label"] == Counter(lesion.label for case in used for lesion in case.lesions)
    assert counts["images"] == len(used) == sum(counts["images_by_split"].values())
    assert counts["patients"] == len({case.patient for case in used}) == sum(counts["patients_by_split"].values())


def test_nothing_private_is_published(made):
    folder, _ = made
    for name in ("README.md", "set.json"):
        text = (folder / "chest" / name).read_text()
        for private in ("Smith", "film/", "image-0", str(folder), SALT, "sizes.csv"):
            assert private not in text
    assert "wbf" in (folder / "chest" / "set.json").read_text()
    assert "gone-Smith" in (folder / "chest.problems.json").read_text()


def test_what_was_left_out_is_said_with_a_reference(made):
    folder, _ = made
    problems = sets.facts(folder / "chest")["problems"]
    (reference,) = problems["image missing"]["examples"]
    card = (folder / "chest" / "README.md").read_text()
    assert f"| image missing | 1 | {reference} |" in card
    assert list(json.loads((folder / "chest.problems.json").read_text())["image missing"]["examples"]) == [reference]


def test_card_names_licence_and_settings(made):
    card = (made[0] / "chest" / "README.md").read_text()
    assert "Licences of the sources: CC0-1.0." in card
    assert '"max_side": 512' in card


def test_datasets_reads_the_splits_out_of_the_card(made, tmp_path):
    loaded = datasets.load_dataset(str(made[0] / "chest"), cache_dir=str(tmp_path))
    counts = sets.facts(made[0] / "chest")["counts"]["split"]
    assert {name: len(rows) for name, rows in loaded.items()} == counts
    assert loaded["train"][0]["question"]


@pytest.mark.parametrize(
    ("given", "published"),
    [
        ({"organs": "chexmask:/home/smith/masks.csv"}, ("organs", "chexmask")),
        ({"teacher": "https://key@host.example/v1#medmodel"}, ("teacher", "https:medmodel")),
        ({"teacher": "transformers:/home/smith/model"}, ("teacher", "transformers:model")),
        ({"teacher": "template"}, ("teacher", "template")),
    ],
)
def test_public_settings_have_no_paths_and_no_addresses(given, published):
    found = Settings(salt=SALT, **given).public()
    assert found[published[0]] == published[1]
    assert not {"salt", "teacher_cache"} & found.keys()
    assert "smith" not in json.dumps(found)
