"""A teacher's reply is taken only where it agrees with the annotation."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from medclm_linked import LinkedCase, linked_case

from medclm.problems import DataError, Problems, Reason
from medclm.questions import Exchange, Prompt, QuestionSettings, Rationales, TeacherError, exchanges, teacher
from medclm.questions.prompts import plain_box, prompt_text
from medclm.questions.reply import RationaleError, accepted, parse
from medclm.questions.terms import may_leave

PIXELS = np.zeros((300, 300), np.uint8)
BOX = (30.0, 20.0, 60.0, 40.0)
TRUE = "[0.1000, 0.0667, 0.2000, 0.1333]"
GOOD = f"Question: What is marked? | Reasoning: In the left lung, at {TRUE}, is a focal nodule. | Answer: A nodule."


def linked() -> LinkedCase:
    return linked_case(("nodule", BOX, "left lung"), absent=("pleural effusion",))


def exchange(kind: str = "what", stage: str = "easy", of: LinkedCase | None = None) -> Exchange:
    made = exchanges(of or linked(), of or linked(), QuestionSettings())
    return next(each for each in made if (each.kind, each.stage) == (kind, stage))


def test_good_reply_is_taken_with_its_box_as_placeholder() -> None:
    taken = accepted(GOOD, exchange(), linked(), name="teacher")
    assert taken.cot == "In the left lung, at <box:0>, is a focal nodule."
    assert (taken.question, taken.answer, taken.cot_source) == ("What is marked?", "A nodule.", "teacher")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The nodule is in the lung.",
        "Question: a? | Answer: b",
        "Question: a? | Reasoning: | Answer: b",
        "Question: a? | Reasoning: b | Answer: c | more",
        "Reasoning: b | Question: a? | Answer: c",
        "Question: a? | Reasoning: see <box:0> | Answer: nodule",
        "Question: a <image>? | Reasoning: b | Answer: nodule",
        f"Question: Is {TRUE} bad? | Reasoning: b {TRUE} | Answer: nodule",
        f"Question: a? | Reasoning: {TRUE} | Answer: {'nodule ' * 40}",
    ],
)
def test_malformed_replies_are_turned_down(text: str) -> None:
    with pytest.raises(RationaleError) as caught:
        accepted(text, exchange(), linked(), name="teacher")
    assert caught.value.reason is Reason.RATIONALE_MALFORMED


def test_form_is_read_over_lines_and_in_any_case() -> None:
    assert parse("question: a?\n| REASONING: b\nc | Answer: d\n").reasoning == "b c"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (TRUE, "[0.5000, 0.0667, 0.6000, 0.1333]"),  # another box
        (TRUE, f"{TRUE} and [0.7, 0.7, 0.8, 0.8]"),  # one more
        ("left lung", "right lung"),
        ("left lung", "left kidney"),
        ("left lung", "liver"),
        ("focal nodule", "focal nodule beside a mass"),
        ("focal nodule", "nodule with pleural effusion"),
        ("focal nodule", "nodule of 12 mm"),
        ("is a focal nodule", "is no nodule"),
        ("In the left lung", "On the right, in the left lung"),
        ("A nodule.", "A cyst."),
        ("A nodule.", "Left lung."),
        ("What is marked?", "Is there something?"),
        ("What is marked?", "What is the nodule?"),  # gives the answer
        ("a focal nodule", "a focal nodule, bilaterally"),
    ],
)
def test_contradictions_are_turned_down(old: str, new: str) -> None:
    text = GOOD.replace(old, new)
    assert text != GOOD
    with pytest.raises(RationaleError) as caught:
        accepted(text, exchange(), linked(), name="teacher")
    assert caught.value.reason is Reason.RATIONALE_CONTRADICTS


def test_reply_without_the_box_is_turned_down() -> None:
    with pytest.raises(RationaleError) as caught:
        accepted(GOOD.replace(f", at {TRUE},", ""), exchange(), linked(), name="teacher")
    assert caught.value.reason is Reason.RATIONALE_BOXLESS


def test_box_may_be_off_by_the_tolerance() -> None:
    near = GOOD.replace(TRUE, "[0.11, 0.06, 0.19, 0.14]")
    assert "<box:0>" in accepted(near, exchange(), linked(), name="teacher").cot
    with pytest.raises(RationaleError, match="not in the annotation"):
        accepted(near, exchange(), linked(), name="teacher", tolerance=0.005)


def test_absent_finding_may_be_denied() -> None:
    text = GOOD.replace("nodule. |", "nodule. There is no pleural effusion. |")
    assert "no pleural effusion" in accepted(text, exchange(), linked(), name="teacher").cot


def test_label_that_names_an_organ_is_no_contradiction() -> None:
    of = linked_case(("lung opacity", BOX, "background"))
    text = f"Question: What is marked? | Reasoning: At {TRUE} is a lung opacity. | Answer: lung opacity"
    assert accepted(text, exchange(of=of), of, name="teacher").answer == "lung opacity"


def test_closed_answer_is_yes_or_no_alone() -> None:
    of = linked_case(("nodule", BOX, "left lung"))
    text = f"Question: Is there a nodule? | Reasoning: At {TRUE}, in the left lung. | Answer: Yes, a nodule."
    assert accepted(text, exchange("is_there", of=of), of, name="teacher").answer == "Yes"
    with pytest.raises(RationaleError, match="expected the answer Yes"):
        accepted(text.replace("Yes, a nodule", "No"), exchange("is_there", of=of), of, name="teacher")


@pytest.mark.parametrize("question", ["Is there a nodule?", "Is there a mass?", "Is there anything?"])
def test_no_to_another_question_is_turned_down(question: str) -> None:
    of = linked_case(("nodule", BOX, "left lung"), absent=("fracture",), id="3")
    given = replace(
        exchange("is_there", "medium", of), about=(), answer="No", seed_text="There is no fracture in the image."
    )
    right = "Question: Is there a fracture? | Reasoning: There is no fracture. | Answer: No"
    assert accepted(right, given, of, name="teacher").answer == "No"
    with pytest.raises(RationaleError) as caught:
        accepted(right.replace("Is there a fracture?", question), given, of, name="teacher")
    assert caught.value.reason is Reason.RATIONALE_CONTRADICTS


def test_question_about_another_finding_is_turned_down() -> None:
    of = linked_case(("nodule", BOX, "left lung"), ("mass", (200.0, 200.0, 230.0, 240.0), "liver"))
    given = exchange("which_organ", "easy", of)
    index = given.about[0]
    box, organ = plain_box(of.case.lesions[index].box, 300, 300), of.links[index].organ
    names = [lesion.label for lesion in of.case.lesions]
    text = f"Question: Where is the {names[index]}? | Reasoning: At {box}. | Answer: {organ}"
    assert accepted(text, given, of, name="teacher").answer == organ
    with pytest.raises(RationaleError, match="about something else"):
        accepted(text.replace(names[index], names[1 - index]), given, of, name="teacher")


def test_short_form_of_a_label_is_its_own() -> None:
    of = linked_case(("lung nodule", BOX, "left lung"))
    text = f"Question: What is it? | Reasoning: The nodule is at {TRUE}. | Answer: lung nodule"
    assert accepted(text, exchange(of=of), of, name="teacher").answer == "lung nodule"


def test_equal_boxes_are_repeated_once_each() -> None:
    of = linked_case(("nodule", BOX, "left lung"), ("nodule", BOX, "left lung"))
    text = f"Question: How many nodules? | Reasoning: One at {TRUE}, one at {TRUE}. | Answer: 2"
    assert accepted(text, exchange("how_many", of=of), of, name="teacher").cot == "One at <box:0>, one at <box:1>."


def test_teacher_that_is_gone_ends_the_run() -> None:
    problems = Problems()
    rationales = Rationales(Scripted(TeacherError("a"), GOOD, *[TeacherError("gone")] * 3), patience=3)
    for _ in range(4):
        rationales.of(exchange(), linked(), PIXELS, problems)
    with pytest.raises(DataError, match="3 questions in a row without an answer; gone"):
        rationales.of(exchange(), linked(), PIXELS, problems)


def test_prompt_gives_the_annotation_and_the_form() -> None:
    text = prompt_text(exchange(), linked(), (0.5, 0.5))
    for expected in (TRUE, "left lung", "nodule", "15 x 10 mm", "Question: ", "| Reasoning: ", "| Answer: "):
        assert expected in text
    assert "drawn box" in text
    assert "whole image" in prompt_text(exchange(stage="medium"), linked(), None)
    assert plain_box(BOX, 300, 300) == TRUE


class Scripted:
    """A teacher that says what it is told to."""

    on_machine = True

    def __init__(self, *replies: str | Exception, name: str = "scripted") -> None:
        self.replies, self.name, self.asked = list(replies), name, 0

    def ask(self, prompt: Prompt) -> str:
        self.asked += 1
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("nonsense", Reason.RATIONALE_MALFORMED),
        (GOOD.replace(TRUE, "there"), Reason.RATIONALE_BOXLESS),
        (GOOD.replace("left", "right"), Reason.RATIONALE_CONTRADICTS),
        (TeacherError("gone"), Reason.TEACHER_FAILED),
    ],
)
def test_template_stands_in_and_the_reason_is_counted(reply: str | Exception, reason: Reason) -> None:
    problems = Problems()
    given = exchange()
    assert Rationales(Scripted(reply)).of(given, linked(), PIXELS, problems) == given
    assert given.cot_source == "template"
    assert problems.counts == {reason.value: 1}
    with pytest.raises(DataError):
        Rationales(Scripted(reply)).of(given, linked(), PIXELS, Problems(strict=True))


def test_hard_stage_is_not_asked() -> None:
    asked = Scripted()
    hard = exchange(stage="hard")
    assert Rationales(asked).of(hard, linked(), PIXELS, Problems()) is hard and asked.asked == 0


def test_cache_asks_once_and_keeps_what_was_turned_down(tmp_path: Path) -> None:
    asked = Scripted(GOOD, "nonsense")
    medium = exchange(stage="medium")
    for _ in range(3):
        problems = Problems()
        rationales = Rationales(asked, tmp_path)
        assert rationales.of(exchange(), linked(), PIXELS, problems).cot_source == "scripted"
        assert rationales.of(medium, linked(), PIXELS, problems).cot_source == "template"
        assert problems.counts == {Reason.RATIONALE_MALFORMED.value: 1}
    assert asked.asked == 2


def test_cache_goes_by_content(tmp_path: Path) -> None:
    asked = Scripted(GOOD, GOOD, GOOD)
    rationales = Rationales(asked, tmp_path)
    rationales.of(exchange(), linked(), PIXELS, Problems())
    rationales.of(exchange(), linked(), PIXELS + 1, Problems())
    Rationales(Scripted(GOOD, name="other"), tmp_path).of(exchange(), linked(), PIXELS, Problems())
    assert asked.asked == 2
    assert len(list(tmp_path.rglob("*.json"))) == 3


def test_damaged_cache_is_asked_again(tmp_path: Path) -> None:
    asked = Scripted(GOOD, GOOD)
    Rationales(asked, tmp_path).of(exchange(), linked(), PIXELS, Problems())
    [kept] = tmp_path.rglob("*.json")
    kept.write_text(kept.read_text()[:20])  # as if cut off
    Rationales(asked, tmp_path).of(exchange(), linked(), PIXELS, Problems())
    assert asked.asked == 2
    assert json.loads(kept.read_text())["reply"] == GOOD


def test_kill_while_keeping_leaves_no_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(source: str, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Rationales(Scripted(GOOD), tmp_path).of(exchange(), linked(), PIXELS, Problems())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("source", "licence", "may"),
    [
        ("vindr-cxr", "unknown", False),
        ("MIMIC-CXR", "unknown", False),
        ("clinic", "PhysioNet Credentialed Health Data License 1.5.0", False),
        ("clinic", "Data Use Agreement", False),
        ("clinic", "CC-BY-4.0", True),
    ],
)
def test_sets_under_agreement_stay_on_the_machine(source: str, licence: str, may: bool) -> None:
    of = linked_case(("nodule", BOX, "left lung"), source=source, licence=licence)
    assert may_leave(of.case) is may
    away = Scripted(GOOD)
    away.on_machine = False
    if may:
        assert Rationales(away).of(exchange(of=of), of, PIXELS, Problems()).cot_source == "scripted"
    else:
        with pytest.raises(DataError, match="may not be sent"):
            Rationales(away).of(exchange(of=of), of, PIXELS, Problems())
        assert away.asked == 0


def test_teachers_are_named_by_what_they_are() -> None:
    assert teacher("template") is None
    assert teacher("https://example.org/v1#big-model").name == "big-model@example.org"
    assert teacher("transformers:models/tiny").name == "tiny"
    for wrong in ("gpt", "https://example.org/v1", ""):
        with pytest.raises(ValueError, match="teacher: expected"):
            teacher(wrong)
