"""What a conversion was asked for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from medclm.linking import RULES
from medclm.problems import DataError
from medclm.schema import KINDS, SPLITS, STAGES


@dataclass(frozen=True)
class Settings:
    """Everything the rows depend on beside the cases: equal settings and cases, equal bytes. Nothing is random but
    the salt.

    window      preset of :mod:`medclm.images.windows`
    max_side    longest side of a stored image, pixels; smaller ones stay as they are
    organs      an organ source, as :func:`medclm.organs.organ_source` reads it
    threshold   of the rule's score; None: the rule's own
    ratios      of patients in train, val and test
    keep_split  the source's own split where it has one
    shard_cases images in one shard
    teacher     who words the reasoning, as :func:`medclm.questions.teacher` reads it
    teacher_cache  folder of its replies; the rows do not depend on it
    reader      options the reader was given, for the record
    salt        never leaves this machine: :meth:`public` is what a set tells
    """

    window: str = "auto"
    max_side: int = 512
    organs: str = "none"
    rule: str = "coverage"
    threshold: float | None = None
    allow_burned_in: bool = False
    strict: bool = False
    stages: tuple[str, ...] = STAGES
    kinds: tuple[str, ...] = KINDS
    ratios: tuple[float, ...] = (0.8, 0.1, 0.1)
    keep_split: bool = False
    shard_cases: int = 128
    teacher: str = "template"
    teacher_cache: str | None = None
    reader: dict = field(default_factory=dict)
    salt: str = ""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise DataError(f"rule: expected one of {', '.join(RULES)}, got {self.rule!r}")
        if not 16 <= self.max_side <= 8192:
            raise DataError(f"max_side: expected 16 to 8192 pixels, got {self.max_side}")
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise DataError(f"threshold: expected a number in [0, 1], got {self.threshold}")
        if len(self.ratios) != len(SPLITS) or min(self.ratios) < 0.0 or abs(sum(self.ratios) - 1.0) > 1e-6:
            raise DataError(f"split: expected {len(SPLITS)} shares ({', '.join(SPLITS)}) of sum 1, got {self.ratios}")
        for name, values, known in (("stages", self.stages, STAGES), ("kinds", self.kinds, KINDS)):
            if not values or set(values) - set(known):
                raise DataError(f"{name}: expected some of {', '.join(known)}, got {', '.join(values) or 'none'}")
        if self.shard_cases < 1:
            raise DataError(f"shard_cases: expected at least 1, got {self.shard_cases}")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Settings:
        raw = json.loads(text)
        return cls(**raw | {name: tuple(raw[name]) for name in ("stages", "kinds", "ratios")})

    def public(self) -> dict:
        """For the set: no salt, no paths, no address or key of a teacher."""
        raw = asdict(self)
        del raw["salt"]
        raw["organs"] = self.organs.partition(":")[0]
        del raw["teacher_cache"]
        kind, _, model = self.teacher.partition("#" if "#" in self.teacher else ":")
        raw["teacher"] = f"{kind.partition(':')[0]}:{Path(model).name}" if model else self.teacher
        raw["reader"] = {name: value for name, value in self.reader.items() if not _names_a_file(value)}
        return raw

    @cached_property
    def of_rows(self) -> dict:
        """What of :meth:`public` a row depends on."""
        return {name: value for name, value in self.public().items() if name not in ("strict", "shard_cases")}


def _names_a_file(value: object) -> bool:
    return isinstance(value, Path) or (isinstance(value, str) and ("/" in value or "\\" in value or "." in value))
