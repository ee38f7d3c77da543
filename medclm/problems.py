"""What is wrong with data: counted and named in the report, or an error under ``--strict``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

EXAMPLES = 5  # kept of each reason


class Reason(str, Enum):
    """Why something was left out."""

    BOX_OUTSIDE = "box outside the image"
    BOX_EMPTY = "box without area"
    BOX_MALFORMED = "box that is not four numbers"
    IMAGE_MISSING = "image missing"
    IMAGE_UNREADABLE = "image unreadable"
    IMAGE_SIZE = "image of another size than its annotation says"
    BURNED_IN = "burned-in annotation"
    MASK_MISSING = "mask missing"
    MASK_UNREADABLE = "mask unreadable"
    MASK_GRID = "mask on another grid than the image"
    LABEL_UNKNOWN = "unknown label id"
    DUPLICATE_ID = "two images with one id"
    ROW_MALFORMED = "malformed row"
    NOISY = "marked as noisy by its source"
    NOTHING_LEFT = "nothing left to ask about"
    RATIONALE_MALFORMED = "rationale: malformed"
    RATIONALE_BOXLESS = "rationale: repeats no box"
    RATIONALE_CONTRADICTS = "rationale: contradicts the annotation"
    TEACHER_FAILED = "teacher: no answer"


class DataError(ValueError):
    """The data cannot be used: what was expected and what came, in words for a person. Under ``--strict`` also every
    problem that would otherwise be counted."""


@dataclass
class Problems:
    """Counts by reason with a few examples; merges with that of another process."""

    strict: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: Reason, what: str) -> None:
        """``what`` names the case and the place in its source. Raises DataError where strict."""
        if self.strict:
            raise DataError(f"{reason.value}: {what}")
        self.counts[reason.value] += 1
        kept = self.examples.setdefault(reason.value, [])
        if len(kept) < EXAMPLES:
            kept.append(what)

    def merge(self, other: Problems) -> None:
        self.counts.update(other.counts)
        for reason, found in other.examples.items():
            kept = self.examples.setdefault(reason, [])
            kept += found[: EXAMPLES - len(kept)]

    def to_dict(self) -> dict:
        return {name: {"count": n, "examples": self.examples[name]} for name, n in sorted(self.counts.items())}

    @classmethod
    def from_dict(cls, raw: dict, strict: bool = False) -> Problems:
        made = cls(strict)
        for name, entry in raw.items():
            made.counts[name] = entry["count"]
            made.examples[name] = list(entry["examples"])
        return made
