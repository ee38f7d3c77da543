"""Labels as plain words, so that one finding has one name whatever its source."""

from __future__ import annotations

from collections.abc import Mapping


def plain(label: str, synonyms: Mapping[str, str] | None = None) -> str:
    """In lower case, blanks for underscores: "Pleural_Thickening" is "pleural thickening". Then by ``synonyms``."""
    words = " ".join(label.replace("_", " ").split()).lower()
    return (synonyms or {}).get(words, words)
