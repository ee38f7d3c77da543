"""The tiers whose loss is compared: a contestant of ``bench.memory`` with its learning rate and its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from bench.memory_tiers.contestants import CONTESTANTS, Contestant

REFERENCE = "fp32"
MOMENTUM_LR = 3e-4  # the best of a sweep of the reference, used by every tier that keeps a first moment
NO_MOMENTUM_LR = 3e-4  # the best of a sweep of the leanest tier


@dataclass(frozen=True)
class Tier:
    name: str
    contestant: str
    lr: float | None = MOMENTUM_LR  # None: has to be given
    autocast: bool = False  # matrices are multiplied in bf16; only weights wider than that need it

    @property
    def member(self) -> Contestant:
        return CONTESTANTS[self.contestant]


TIERS = {
    tier.name: tier
    for tier in (
        Tier("fp32", "adamw-fp32", autocast=True),
        Tier("bf16", "adamw-bf16"),
        Tier("torchao-4bit", "torchao-4bit-release"),
        Tier("bf16-8bit", "fastgrad-bf16-int8"),
        Tier("bf16-4bit", "fastgrad-bf16-fp4"),
        Tier("leanest", "fastgrad-leanest", lr=NO_MOMENTUM_LR),
    )
}
