"""A question about an image, its reasoning and its answer."""

from __future__ import annotations

from dataclasses import dataclass

from medclm.schema import ANSWER_TYPES, KINDS, STAGES

TEMPLATE = "template"  # the cot_source of reasoning that no teacher wrote


@dataclass(frozen=True)
class Exchange:
    """One question.

    stage        easy: the boxes of ``about`` are drawn into the image; medium: the same image without them;
                 hard: about the partner's image, answer only
    kind         of medclm.schema.KINDS
    seed_text    what the annotation says, as one sentence
    cot          the reasoning; boxes stand in it as ``<box:0>``: indices into the case's lesions. "" in the hard stage
    answer_type  CLOSED: "Yes" or "No"; OPEN: everything else
    cot_source   "template", or the teacher's name; "" in the hard stage
    about        indices of the lesions that are asked about; in the hard stage into those of the partner
    """

    stage: str
    kind: str
    seed_text: str
    question: str
    cot: str
    answer: str
    answer_type: str
    cot_source: str
    about: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, value, known in (
            ("stage", self.stage, STAGES),
            ("kind", self.kind, KINDS),
            ("answer_type", self.answer_type, ANSWER_TYPES),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        if (self.stage == "hard") != (self.cot == ""):
            raise ValueError(f"cot: expected reasoning in easy and medium and none in hard, got {self.cot!r}")
