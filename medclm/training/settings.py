"""What decides a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import torch

from fastgrad.activations import SAVED_FORMATS
from fastgrad.optim import STATE_FORMATS
from medclm.problems import DataError
from medclm.training.curriculum import scheduler

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
BACKWARD_FORMATS = ("none", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "int8", "int4", "fp4_e2m1")
NAN_POLICIES = ("stop", "skip")
MOST_SKIPPED = 10  # steps in a row whose loss is no number


@dataclass(frozen=True)
class Settings:
    """Equal settings, set and starting model: equal bits, on one machine and one version of torch.

    epochs            passes over the questions of the set; each is shown in one stage at a time
    max_steps         fewer steps than that; 0: all of them
    batch             questions of one domain side by side
    accumulate        such batches to a step, on every process
    scheduler         adaptive, paper, staged[:A,B], mix:E,M,H, none (medclm.training.curriculum)
    reasoning         False: replies are answers alone (an ablation)
    answer_weight, reasoning_weight   of L_answer and L_reasoning, where there are both
    box_weight        0: off; of the mean loss of the tokens that write boxes, once more
    attention_weight, grounding_weight   0: off (medclm.training.auxiliary)
    lr, final_lr      cosine from one to the other, after a linear warm-up over ``warmup`` of the steps
    clip              largest norm of all gradients, with release by that of the last step; 0: off
    dtype             of the weights; bf16 ones are rounded stochastically in their update
    state_format, factored   of AdamW's moments (fastgrad.optim.AdamW)
    release           gradients are used and freed inside backward; one process only
    grad_format       gradients of weights are rounded to it, stochastically, and q_k measured; none: as they are
    backward_format   gradients between the blocks of the language model are; none: as they are
    activations       format in which autograd's saved tensors are kept; none: as they are
    checkpointing     forward is run again in backward, block by block
    max_length        tokens of a sample; 0: what the model can do. Nothing is ever cut off.
    too_long          "error", or "skip": leave out rows that do not fit, and count them
    lora              rank of PEFT's adapters on all linear layers of the language model; 0: all weights are trained
    nan               "stop" or "skip" a step whose loss is no number
    evaluate_every, evaluate_rows   steps; rows of each stage of the val split. 0: never
    patience          evaluations without a better loss after which training stops, with the best weights; 0: never
    checkpoint_every  steps
    """

    model: str
    seed: int = 0
    epochs: int = 10
    max_steps: int = 0
    batch: int = 4
    accumulate: int = 1
    scheduler: str = "adaptive"
    reasoning: bool = True
    answer_weight: float = 0.8
    reasoning_weight: float = 0.2
    box_weight: float = 0.0
    attention_weight: float = 0.0
    grounding_weight: float = 0.0
    lr: float = 1e-4
    final_lr: float = 1e-5
    warmup: float = 0.03
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip: float = 0.0
    dtype: str = "bf16"
    state_format: str = "int8"
    factored: bool = False
    release: bool = True
    grad_format: str = "none"
    backward_format: str = "fp8_e4m3"
    activations: str = "int8"
    checkpointing: bool = False
    max_length: int = 0
    too_long: str = "error"
    lora: int = 0
    nan: str = "stop"
    evaluate_every: int = 200
    evaluate_rows: int = 32
    patience: int = 0
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        scheduler(self.scheduler)
        for name, allowed in (
            ("dtype", tuple(DTYPES)),
            ("state_format", STATE_FORMATS),
            ("grad_format", BACKWARD_FORMATS),
            ("backward_format", BACKWARD_FORMATS),
            ("activations", ("none", *SAVED_FORMATS)),
            ("nan", NAN_POLICIES),
            ("too_long", ("error", "skip")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("epochs", "batch", "accumulate", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("max_steps", "max_length", "lora", "patience", "evaluate_every", "evaluate_rows", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not (self.lr > 0 and 0 <= self.final_lr <= self.lr and 0 <= self.warmup < 1):
            raise ValueError(
                f"lr: expected 0 <= final_lr <= lr, lr > 0 and 0 <= warmup < 1, got lr {self.lr}, final_lr "
                f"{self.final_lr}, warmup {self.warmup}"
            )
        if self.patience and not (self.evaluate_every and self.evaluate_rows):
            raise ValueError("patience: early stopping needs evaluate_every and evaluate_rows above 0")
        if self.attention_weight and self.checkpointing:
            raise ValueError("attention_weight: a checkpointed forward keeps no attention map; expected one of the two")

    def to_dict(self) -> dict:
        return asdict(self) | {"betas": list(self.betas)}

    def check_same(self, stored: dict, where: str) -> None:
        """Raises DataError where a run with other settings is in the folder."""
        now = self.to_dict()
        differing = [
            f"{each.name} (was {stored.get(each.name)!r}, is {now[each.name]!r})"
            for each in fields(self)
            if stored.get(each.name) != now[each.name]
        ]
        if differing:
            raise DataError(f"{where}: holds a run with other settings: {', '.join(differing)}; choose another --out")
