"""Texts as each evaluation compares them: values that running the sources gave."""

import pytest

from medclm.evaluation import normalizing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("X-ray", "x ray"),
        ("1,000 mm", "1000 mm"),
        ("0.5cm.", "0.5cm"),
        ("none", "0"),
        ("a/b c", "b c"),  # "a" goes as an article
        ("right-sided , upper lobe", "right sided upper lobe"),
        ("dont", "don't"),
        ("The Left lung.", "left lung"),
        ("somebody'd", "somebodyd"),
        ("couldnt've", "couldn't've"),
        ("ow's'at", "'ow's'at"),
        ("Im", "im"),  # the list's capitals never match
        ("yes, it is", "yes it is"),
        ("left,right", "left right"),
        ("1,5 left-sided", "15 leftsided"),  # a comma in a number: every mark goes without a trace
        ("." * 40, "." * 8),  # 32 full stops at most
    ],
)
def test_llava_med(text, expected):
    assert normalizing.llava_med(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("X-Ray", "xray"),
        ("Yeah!", "yes"),
        ("False.", "no"),
        ("是的", "yes"),
        ("没有", "no"),
        ("The lung", "the lung"),  # articles stay
        ("CT (axial)", "ct"),
        ("left, lower-lobe", "left lower lobe"),
    ],
)
def test_lmms_eval(text, expected):
    assert normalizing.lmms_eval(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The left lung.", "left lung"),
        ("0.5 cm", "0.5 cm"),
        ("1,000 mm", "1000 mm"),
        ("Two nodules", "2 nodules"),
        ("T1-weighted/FLAIR", "t1 weighted flair"),
        ("a", ""),
        ("ＣＴ", "ct"),
        ("1/2", "1/2"),
    ],
)
def test_strict(text, expected):
    assert normalizing.strict(text) == expected
