"""Profiles: each scores as its source does, oddities and all; strict is what the others are held against."""

import pytest

from medclm.evaluation.profiles import PROFILES, profile
from medclm.evaluation.questions import REPORT, Question
from medclm.evaluation.replies import answer_of, chosen
from medclm.problems import DataError


def question(answer, kind="OPEN", **more):
    return Question(id="1", question="?", answer=answer, answer_type=kind, **more)


def score(name, answer, truth, kind="OPEN", benchmark="slake", **more):
    return PROFILES[name].score(question(truth, kind, **more), answer, benchmark)


@pytest.mark.parametrize(
    ("answer", "truth", "hit"),
    [
        ("normal", "No", 1), ("I do not know", "No", 1), ("Left", "Left", 0), ("CT", "CT", 0), ("Yes.", "yes", 1),
        ("No", "Yes", 0), ("maybe", "Yes", 0),
    ],
)  # fmt: skip
def test_llava_med_closed_is_a_substring_and_needs_yes_or_no(answer, truth, hit):
    assert score("llava_med", answer, truth, "CLOSED") == {"closed_accuracy": hit}


def test_llava_med_open():
    found = score("llava_med", "the left lower lobe of the lung", "left lung")
    assert {name: round(found[name], 4) for name in ("open_f1", "open_precision", "open_recall")} == {
        "open_f1": 0.5714, "open_precision": 0.4, "open_recall": 1.0,
    }  # fmt: skip
    assert found["open_exact_match"] == 0.4
    assert found["open_bleu_2"] < 1e-6 < found["open_bleu_1"]  # of order 2 alone: no pair agrees


@pytest.mark.parametrize(
    ("answer", "truth", "hit"),
    [("X-Ray.", "x ray", 1), ("yeah", "Yes", 1), ("the lung", "lung", 0), ("normal", "No", 0)],
)
def test_lmms_eval_is_equality(answer, truth, hit):
    assert score("lmms_eval", answer, truth, "CLOSED") == {"accuracy": hit, "closed_accuracy": hit}
    assert score("lmms_eval", answer, truth) == {"accuracy": hit, "open_accuracy": hit}


@pytest.mark.parametrize(
    ("answer", "truth", "hit"),
    [
        ("Yes.", "yes", 1), ("not sure", "no", 1), ("normal", "no", 1), ("yes and no", "yes", 0),
        ("The answer is yes", "yes", 1), ("<answer>no</answer> yes?", "no", 1), (r"so \boxed{no}", "no", 1),
        ("maybe", "no", 0),
    ],
)  # fmt: skip
def test_medevalkit_yes_no_by_letters(answer, truth, hit):
    for benchmark, kind in (("vqa_rad", "OPEN"), ("slake", "CLOSED")):  # VQA-RAD's answer_type is not looked at
        assert score("medevalkit", answer, truth, kind, benchmark)["closed_accuracy"] == hit


def test_medevalkit_closed_of_slake_is_equality_without_full_stops():
    assert score("medevalkit", "Lung.", "lung", "CLOSED")["closed_accuracy"] == 1
    assert score("medevalkit", "the lung", "lung", "CLOSED")["closed_accuracy"] == 0
    assert score("medevalkit", "Yes, it is", "Yes", "CLOSED")["closed_accuracy"] == 0  # "Yes" is not its "yes"


def test_medevalkit_prints_the_three_under_wrong_names():
    found = score("medevalkit", "the left lower lobe of lung", "left lung")
    assert round(found["open_recall"], 3) == 0.333  # the precision; the true recall is 1
    assert (found["open_precision"], found["open_f1"]) == (0.5, 1.0)
    assert score("medevalkit", "", "left lung")["open_f1"] == 0.0  # where the source fails


CHOICES = {"choices": ("CT", "MRI", "X-ray"), "options": ("A. CT", "B. MRI", "C. X-ray")}


@pytest.mark.parametrize(
    ("answer", "hit"),
    [("B", 1), ("b. mri", 1), ("The image looks like MRI", 1), ("A", 0), ("B. CT", 1), ("because\n\nB", 1), ("CT", 0)],
)
def test_medevalkit_choices_by_letter_or_by_what_is_closest(answer, hit):
    assert score("medevalkit", answer, "MRI", "CLOSED", "omnimedvqa", **CHOICES)["choice_accuracy"] == hit


@pytest.mark.parametrize(
    ("answer", "hit", "parsed"),
    [
        ("B", 1, 1), ("(B)", 1, 1), ("**B**", 1, 1), ("b.", 1, 1), ("B. MRI", 1, 1), ("B: it is bright", 1, 1),
        ("mri", 1, 1),
        ("B. CT", 0, 0), ("The image looks like MRI", 0, 0), ("A scan", 0, 0), ("C", 0, 1), ("D", 0, 0), ("", 0, 0),
    ],
)  # fmt: skip
def test_strict_choices_name_one_option_or_none(answer, hit, parsed):
    found = score("strict", answer, "MRI", "CLOSED", "omnimedvqa", **CHOICES)
    assert found == {"accuracy": hit, "choice_accuracy": hit, "choice_parsed": parsed}


@pytest.mark.parametrize(
    ("answer", "truth", "hit"),
    [
        ("Yes.", "Yes", 1), ("Yes, there is one", "Yes", 1), ("normal", "No", 0), ("I do not know", "No", 0),
        ("Left", "Left", 1), ("left lung", "Left", 0), ("", "Yes", 0), ("No yes", "Yes", 0),
    ],
)  # fmt: skip
def test_strict_closed(answer, truth, hit):
    assert score("strict", answer, truth, "CLOSED") == {"accuracy": hit, "closed_accuracy": hit}


def test_strict_open():
    assert score("strict", "The left lung.", "left lung")["open_exact"] == 1.0
    found = score("strict", "lung lung lung", "left lung")
    assert (found["open_exact"], found["open_recall"], found["open_f1"]) == (0.0, 0.5, pytest.approx(0.4))


def test_reports_are_scored_by_strict_alone():
    found = score("strict", "The heart is normal.", "The heart is normal.", REPORT, "reports")
    assert found["report_rougeL"] == found["report_rouge2"] == pytest.approx(1.0)
    assert not any(score(name, "x", "y", REPORT, "reports") for name in ("llava_med", "lmms_eval", "medevalkit"))


def test_unknown_profile_is_named():
    with pytest.raises(DataError, match="profile: expected one of strict, llava_med, lmms_eval, medevalkit, got 'vqa'"):
        profile("vqa")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Reasoning: it is at [0.1, 0.2, 0.3, 0.4].\n\nAnswer: a nodule", "a nodule"),
        ("Answer: yes", "yes"),
        ("**Answer:** yes", "yes"),
        ("a nodule", "a nodule"),
        ("Reasoning: it is", ""),  # cut off before it answered
        ("Answer: no. Answer: yes", "yes"),
        ("The final answer: 2", "2"),
    ],
)
def test_answer_in_a_reply(reply, answer):
    assert answer_of(reply) == answer


def test_a_choice_named_like_a_letter():
    assert chosen("A", ("B", "A"), str.lower) == 1  # by its text, before its letter
