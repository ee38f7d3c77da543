"""Texts as each evaluation compares them. Every rule is its source's, with its oddities; ours is :func:`strict`."""

from __future__ import annotations

import re
import string
import unicodedata

ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

# --- LLaVA-Med v1.0, eval_metrics/glossary.py: the rule of the VQA challenge (Antol et al. 2015) with "none" as 0.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS = 32  # the source passes re.UNICODE, which is 32, as the count
_DIGITS = {name: str(value) for value, name in enumerate(NUMBERS)} | {"none": "0"}
# What is written without one of its apostrophes gets it back. Capitals of the source's list never match: it compares
# words in lower case.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _with_apostrophes() -> dict[str, str]:
    found = {}
    for word in _CONTRACTED.split():
        for place, character in enumerate(word):
            if character == "'":
                found[word[:place] + word[place + 1 :]] = word
    return found | {"somebody'd": "somebodyd"}  # sic


_CONTRACTIONS = _with_apostrophes()


def llava_med(text: str) -> str:
    """LLaVA-Med's ``normalize_word``. A punctuation mark goes without a trace where it touches a blank anywhere in the
    text, or where the text has a comma within a number; else it becomes a blank."""
    whole, numbers = text, _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        gone = numbers or f"{mark} " in whole or f" {mark}" in whole
        text = text.replace(mark, "" if gone else " ")
    text = _FULL_STOP.sub("", text, count=_FULL_STOPS)
    words = (_DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES).replace(",", "")


# --- lmms-eval, lmms_eval/tasks/slake/utils.py
_CHINESE_PUNCTUATION = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～、《》？【】"
_TO_BLANKS = str.maketrans(dict.fromkeys(string.punctuation + _CHINESE_PUNCTUATION, " "))
_IN_BRACKETS = re.compile(r"\([^)]*\)|（[^）]*）")
_YES = frozenset(("yes", "yeah", "yep", "true", "是", "是的", "有", "包含", "可以", "能", "会", "正常"))
_NO = frozenset(
    ("no", "nope", "false", "否", "不是", "没有", "无", "不包含", "不能", "不会", "不可以", "不正常", "异常")
)


def lmms_eval(text: str) -> str:
    """lmms-eval's ``normalize_answer`` of its SLAKE task: what stands in brackets is dropped, punctuation becomes
    blanks, articles stay; words for yes and no, English and Chinese, become "yes" and "no"."""
    words = " ".join(_IN_BRACKETS.sub(" ", text.strip().lower()).translate(_TO_BLANKS).split())
    words = "xray" if words in ("x ray", "xray") else words
    return "yes" if words in _YES else "no" if words in _NO else words


# --- ours
_NOT_A_WORD = re.compile(r"[^\w.%/+]+|(?<!\d)[./]|[./](?!\d)|_")


def strict(text: str) -> str:
    """Words in lower case, one blank between them, without articles; number words up to ten as digits. A full stop or a
    slash stays within a number ("0.5", "1/2") and is a blank elsewhere, as is any other mark but % and +."""
    text = unicodedata.normalize("NFKC", text).lower()
    words = _NOT_A_WORD.sub(" ", re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)).split()
    digits = {name: str(value) for value, name in enumerate(NUMBERS)}
    return " ".join(digits.get(word, word) for word in words if word not in ARTICLES)
