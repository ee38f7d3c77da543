"""English for findings and organs: articles, plurals, names that can be read.

Organs come by the canonical names of medclm.organs: lower case words, the side first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medclm.linking import Link

BACKGROUND = "background"

_SPOKEN = {"ild": "interstitial lung disease", "other lesion": "lesion of another kind"}
_PLURALS = {
    "metastasis": "metastases",
    "stenosis": "stenoses",
    "pneumothorax": "pneumothoraces",
    "haemothorax": "haemothoraces",
    "hemothorax": "hemothoraces",
    "hydrothorax": "hydrothoraces",
    "calculus": "calculi",
    "thrombus": "thrombi",
    "embolus": "emboli",
    "focus": "foci",
    "naevus": "naevi",
    "nevus": "nevi",
    "bulla": "bullae",
    "vertebra": "vertebrae",
}
# Findings that are not counted: "there is pneumonia", never "a pneumonia".
_MASS_WORDS = frozenset(
    "consolidation infiltration infiltrate pneumonia atelectasis edema oedema emphysema fibrosis enlargement disease "
    "tissue ischaemia ischemia haemorrhage hemorrhage bleeding tuberculosis bronchiectasis sclerosis ascites".split()
)
_MASS_ENDINGS = ("megaly", "osis", "asis", "ening", "pathy", "itis")
_COUNTED = frozenset(("metastasis", "stenosis", "anastomosis"))
_CONSONANT_SOUNDS = ("uni", "ure", "uri", "ute", "use", "usu", "eu", "one", "once")
_VOWEL_SOUNDS = ("hour", "heir", "honest", "x-ray", "mri")
_of_few = lru_cache(maxsize=4096)  # a source has some labels and asks for the forms of each in every question


@_of_few
def spoken(label: str) -> str:
    """A label as it stands in a sentence."""
    words = " ".join(label.replace("_", " ").split())
    return _SPOKEN.get(words, words)


def _head(noun: str) -> str:  # of "fracture of the rib": fracture; of "pleural effusion": effusion
    return re.split(r" (?:of|in|with) ", noun)[0].split(" ")[-1]


@_of_few
def is_plural(noun: str) -> bool:
    """Already more than one: "opacities"; not "mass", "metastasis", "thrombus"."""
    head = _head(noun)
    return not is_mass(noun) and (
        head in _PLURALS.values() or (head.endswith("s") and not head.endswith(("ss", "is", "us")))
    )


@_of_few
def is_mass(noun: str) -> bool:
    """Not counted: "pneumonia", "cardiomegaly", "pleural thickening"."""
    head = _head(noun)
    return head not in _COUNTED and (head in _MASS_WORDS or head.endswith(_MASS_ENDINGS))


@_of_few
def with_article(noun: str) -> str:
    """ "a nodule", "an effusion", "pneumonia", "opacities"."""
    if is_mass(noun) or is_plural(noun):
        return noun
    low = noun.lower()
    vowel = low.startswith(_VOWEL_SOUNDS) or (low[0] in "aeiou" and not low.startswith(_CONSONANT_SOUNDS))
    return f"{'an' if vowel else 'a'} {noun}"


def _plural_word(word: str) -> str:
    if word in _PLURALS:
        return _PLURALS[word]
    if word.endswith("is") and len(word) > 3:
        return word[:-2] + "es"
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word + "s"


@_of_few
def plural(noun: str) -> str:
    """ "nodules", "masses", "fractures of the rib", "nodules/masses"; "regions of pneumonia"."""
    if is_mass(noun):
        return f"regions of {noun}"
    if is_plural(noun):
        return noun
    head, *rest = re.split(r"( (?:of|in|with) .*)", noun, maxsplit=1)
    *before, last = head.split(" ")
    last = "/".join(_plural_word(word) for word in last.split("/"))
    return " ".join([*before, last]) + "".join(rest)


def counted(noun: str, number: int) -> str:
    """ "1 nodule", "2 nodules", "1 region of pneumonia"."""
    if number != 1:
        return f"{number} {plural(noun)}"
    return f"1 region of {noun}" if is_mass(noun) or is_plural(noun) else f"1 {noun}"


def host_name(link: Link) -> str:
    """The organ of a link; with its side where the link knows one that the name does not hold: "left lung"."""
    named = link.side is None or link.organ.startswith(f"{link.side} ")
    return link.organ if named else f"{link.side} {link.organ}"


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
