"""Questions and reasoning say what the annotation says, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medclm_linked import linked_case

from medclm.codecs import PLACEHOLDER
from medclm.questions import QuestionSettings, exchanges, seed_text
from medclm.questions.exchange import Exchange
from medclm.questions.nouns import counted, plural, with_article
from medclm.schema import KINDS

BOX, OTHER = (30.0, 20.0, 60.0, 40.0), (200.0, 240.0, 220.0, 270.0)
DEFAULTS = QuestionSettings()


def by_kind(made: list[Exchange], stage: str) -> dict[str, Exchange]:
    return {each.kind: each for each in made if each.stage == stage}


@pytest.mark.parametrize(
    ("labels", "organs", "expected"),
    [
        (["nodule"], ["left lung"], "There is a nodule in the left lung."),
        (["effusion"], ["background"], "There is an effusion in the image."),
        (["nodule", "nodule"], ["left lung"] * 2, "There are 2 nodules in the left lung."),
        (["mass"], ["L1 vertebra"], "There is a mass in the L1 vertebra."),
        (["pneumonia"], ["right lung"], "There is pneumonia in the right lung."),
        (["pneumonia"] * 2, ["right lung"] * 2, "There is pneumonia in the right lung, in 2 places."),
        (
            ["nodule", "mass"],
            ["left lung", "liver"],
            "There is a nodule in the left lung. There is a mass in the liver.",
        ),
    ],
)
def test_seed_text_is_english(labels: list[str], organs: list[str], expected: str) -> None:
    assert seed_text(labels, organs) == expected


@pytest.mark.parametrize(
    ("noun", "one", "many"),
    [
        ("nodule", "a nodule", "nodules"),
        ("metastasis", "a metastasis", "metastases"),
        ("lung opacity", "a lung opacity", "lung opacities"),
        ("opacities", "opacities", "opacities"),
        ("pneumothorax", "a pneumothorax", "pneumothoraces"),
        ("unilateral mass", "a unilateral mass", "unilateral masses"),
        ("fracture of the rib", "a fracture of the rib", "fractures of the rib"),
        ("nodule/mass", "a nodule/mass", "nodules/masses"),
        ("cardiomegaly", "cardiomegaly", "regions of cardiomegaly"),
        ("polyps", "polyps", "polyps"),
        ("abscess", "an abscess", "abscesses"),
    ],
)
def test_nouns_take_their_articles_and_plurals(noun: str, one: str, many: str) -> None:
    assert (with_article(noun), plural(noun)) == (one, many)
    assert counted(noun, 2) == f"2 {many}"


def test_side_that_only_the_link_knows_is_said() -> None:
    linked = linked_case(("nodule", BOX, "lung"))
    linked = replace(linked, links=(replace(linked.links[0], side="left"),))
    easy = by_kind(exchanges(linked, None, DEFAULTS), "easy")
    assert easy["which_organ"].answer == "left lung"
    assert easy["what"].seed_text == "There is a nodule in the left lung."


def test_stages_show_boxes_as_they_should() -> None:
    linked = linked_case(("nodule", BOX, "left lung"), ("mass", OTHER, "liver"), absent=("fracture",))
    partner = linked_case(("nodule", OTHER, "right lung"), id="case-2")
    made = exchanges(linked, partner, DEFAULTS)
    assert {each.stage for each in made} == {"easy", "medium", "hard"}
    for each in made:
        named = {int(index) for index in PLACEHOLDER.findall(each.cot)}
        if each.stage == "hard":
            assert (each.cot, each.cot_source) == ("", "")
            assert max(each.about, default=0) < len(partner.case.lesions)
        else:
            assert named == set(each.about)
            assert each.cot_source == "template"
        if each.stage == "easy":
            assert each.about
        assert "<box:" not in each.question + each.answer
        assert each.answer_type == ("CLOSED" if each.kind == "is_there" else "OPEN")
        assert each.answer in ("Yes", "No") or each.answer_type == "OPEN"
    hard = by_kind(made, "hard")
    assert hard["what"].answer == "nodule"
    assert hard["which_organ"].answer == "right lung"


def test_one_exchange_of_each_kind_and_stage() -> None:
    linked = linked_case(*[("nodule", BOX, "left lung"), ("mass", OTHER, "liver")] * 3, absent=("fracture",))
    made = exchanges(linked, linked, DEFAULTS)
    assert len({(each.kind, each.stage) for each in made}) == len(made)


def test_without_partner_there_is_no_hard_stage() -> None:
    made = exchanges(linked_case(("nodule", BOX, "left lung")), None, DEFAULTS)
    assert {each.stage for each in made} == {"easy", "medium"}


@pytest.mark.parametrize("number", range(30))
def test_no_is_said_only_of_labels_looked_for(number: int) -> None:
    linked = linked_case(("nodule", BOX, "left lung"), id=f"case-{number}", absent=("pleural effusion", "nodule"))
    for each in exchanges(linked, None, DEFAULTS):
        if each.answer == "No":
            assert "pleural effusion" in each.question
            assert "pleural effusion" in each.seed_text
        elif each.kind == "is_there":
            assert "nodule" in each.question


def test_both_answers_of_closed_questions_come_up() -> None:
    answers = []
    for number in range(60):
        linked = linked_case(("nodule", BOX, "left lung"), id=f"case-{number}", absent=("pleural effusion",))
        answers += [each.answer for each in exchanges(linked, None, DEFAULTS) if each.kind == "is_there"]
    assert 0.3 < answers.count("Yes") / len(answers) < 0.7


def test_case_without_lesions_is_asked_only_what_it_lacks() -> None:
    made = exchanges(linked_case(absent=("nodule",)), None, DEFAULTS)
    assert [(each.stage, each.kind, each.answer, each.about) for each in made] == [("medium", "is_there", "No", ())]
    assert exchanges(linked_case(), None, DEFAULTS) == []


def test_label_for_the_rest_is_not_asked_for() -> None:
    linked = linked_case(("other lesion", BOX, "liver"), ("nodule", OTHER, "liver"), absent=("other lesion",))
    for each in exchanges(linked, linked, DEFAULTS):
        assert "another kind" not in each.question
        assert each.answer != "No"


def test_equal_over_processes_with_other_hash_seeds() -> None:
    code = (
        "from medclm_linked import linked_case; from medclm.questions import *;"
        "l = linked_case(('nodule', (30., 20., 60., 40.), 'left lung'), absent=('mass', 'cyst'));"
        "print(exchanges(l, l, QuestionSettings()))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(["tests/support", "."])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_phrasings_vary_over_cases() -> None:
    asked = set()
    for number in range(40):
        made = exchanges(linked_case(("nodule", BOX, "left lung"), id=f"case-{number}"), None, DEFAULTS)
        asked |= {each.question for each in made if each.kind == "what"}
    assert len(asked) >= 6


def test_side_of_the_image_is_never_the_side_of_the_patient() -> None:
    """The box is far to the image's left; nothing says which side of the patient that is."""
    linked = linked_case(("nodule", (5.0, 10.0, 20.0, 30.0), "liver"), modality="XR")
    for each in exchanges(linked, linked, DEFAULTS):
        assert not re.search(r"\b(left|right)\b", each.cot + each.answer + each.question + each.seed_text)


def test_side_of_the_patient_where_the_columns_are_known() -> None:
    """Columns run from the patient's right to the left: the image's left is the patient's right."""
    linked = linked_case(("nodule", (5.0, 10.0, 20.0, 30.0), "liver"), verified=True)
    where = by_kind(exchanges(linked, None, DEFAULTS), "medium")["where"]
    assert where.answer == "in the liver, in the upper third of the image, towards the patient's right"
    named = linked_case(("nodule", (5.0, 10.0, 20.0, 30.0), "right lung"), verified=True)
    assert by_kind(exchanges(named, None, DEFAULTS), "medium")["where"].answer.count("right") == 1


def test_millimetres_only_where_they_are_true() -> None:
    def said(modality: str, spacing: tuple[float, float] | None) -> str:
        linked = linked_case(("nodule", BOX, "left lung"), modality=modality)
        return " ".join(each.cot for each in exchanges(linked, None, DEFAULTS, spacing=spacing))

    assert "15 x 20 mm" in said("CT", (0.5, 1.0))
    assert "mm" not in said("CT", None)
    assert "mm" not in said("XR", (0.5, 1.0))  # a projection magnifies


def test_projection_is_not_called_a_position_inside_an_organ() -> None:
    radiograph = by_kind(exchanges(linked_case(("nodule", BOX, "left lung"), modality="XR"), None, DEFAULTS), "easy")
    assert radiograph["where"].answer.startswith("projecting over the left lung")


def test_background_is_no_organ() -> None:
    made = exchanges(linked_case(("nodule", BOX, "background")), None, DEFAULTS)
    assert "which_organ" not in {each.kind for each in made}
    assert not any("background" in each.cot + each.answer + each.seed_text for each in made)


def test_partial_annotation_is_not_counted() -> None:
    whole = exchanges(linked_case(("nodule", BOX, "left lung"), source="clinic"), None, DEFAULTS)
    partial = exchanges(linked_case(("nodule", BOX, "left lung"), source="DeepLesion"), None, DEFAULTS)
    assert "how_many" in by_kind(whole, "medium")
    assert "how_many" not in by_kind(partial, "medium")
    assert re.search("one abnormal|can be pointed out", by_kind(partial, "medium")["what"].question.lower())


def test_a_crowd_is_not_counted() -> None:
    """COCO's iscrowd: one region around several."""
    made = exchanges(linked_case(("nodule", BOX, "left lung"), attributes={"iscrowd": "1"}), None, DEFAULTS)
    assert {each.kind for each in made} >= {"what", "where"}
    assert "how_many" not in {each.kind for each in made}


def test_looks_are_told_and_grades_are_not() -> None:
    attributes = {"Margin": "Spiculated", "malignancy": "5", "texture": "5"}
    easy = by_kind(exchanges(linked_case(("nodule", BOX, "left lung"), attributes=attributes), None, DEFAULTS), "easy")
    assert "margin: spiculated" in easy["what"].cot
    assert "malignancy" not in easy["what"].cot
    assert "texture" not in easy["what"].cot


def test_too_many_boxes_are_not_listed() -> None:
    linked = linked_case(*[("nodule", BOX, "left lung")] * 5)
    made = exchanges(linked, None, QuestionSettings(most_boxes=3))
    assert all(len(each.about) <= 3 for each in made)
    assert "how_many" not in {each.kind for each in made}


@pytest.mark.parametrize("arguments", [{"kinds": ("why",)}, {"stages": ("harder",)}, {"most_boxes": 0}])
def test_settings_name_what_is_wrong(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        QuestionSettings(**arguments)


LABELS = st.sampled_from(["nodule", "pleural effusion", "pneumonia", "opacities", "ild", "other lesion"])
ORGANS = st.sampled_from(["left lung", "heart", "background", "L1 vertebra"])
CORNERS = st.tuples(st.integers(0, 280), st.integers(0, 280))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(LABELS, CORNERS, ORGANS), max_size=4), st.lists(LABELS, max_size=2, unique=True), st.text())
def test_every_case_gives_whole_sentences(found: list, absent: list, id: str) -> None:
    marked = [(label, (float(x), float(y), x + 9.0, y + 7.0), host) for label, (x, y), host in found]
    linked = linked_case(*marked, id=id, absent=tuple(absent))
    for each in exchanges(linked, linked, DEFAULTS):
        said = [each.seed_text, each.question, each.answer, *([each.cot] if each.cot else [])]
        assert all(said) and each.kind in KINDS
        assert not re.search(r"[{}]|  |None|\ba (?:[aeio])|\b(?:is|are) (?:is|are)\b", " ".join(said))
        assert each.question[0].isupper() and each.question[-1] in "?."
