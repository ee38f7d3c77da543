"""What the annotation says, as one sentence: "There is a nodule in the left lung." """

from __future__ import annotations

from collections.abc import Sequence

from medclm.questions.nouns import BACKGROUND, counted, is_mass, is_plural, listed, spoken, with_article


def seed_text(
    labels: Sequence[str],  # of the lesions, lower case
    organs: Sequence[str],  # the host of each, "background" where there is none
) -> str:
    """Lesions of one label in one organ are counted together; a lesion without a host is "in the image"."""
    groups: dict[tuple[str, str], int] = {}
    for label, host in zip(labels, organs, strict=True):
        groups[label, host] = groups.get((label, host), 0) + 1
    return " ".join(_sentence(label, host, number) for (label, host), number in groups.items())


def no_seed_text(label: str) -> str:
    """Of a label that was looked for and not found."""
    noun = spoken(label)
    return f"There {'are' if is_plural(noun) else 'is'} no {noun} in the image."


def _sentence(label: str, host: str, number: int) -> str:
    noun = spoken(label)
    where = "the image" if host == BACKGROUND else f"the {host}"
    if number == 1:
        return f"There {'are' if is_plural(noun) else 'is'} {with_article(noun)} in {where}."
    if is_mass(noun):
        return f"There is {noun} in {where}, in {number} places."
    return f"There are {counted(noun, number)} in {where}."


def labels_listed(labels: Sequence[str]) -> str:
    """The distinct labels in their order: "nodule and pleural effusion"."""
    return listed([spoken(label) for label in dict.fromkeys(labels)])
