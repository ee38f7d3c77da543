"""The same loop, set, order of questions and stages, and learning rates; other formats and another optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medclm.training.loop import Training


class PlainTraining(Training):
    """torch's own AdamW; gradients are clipped (where the settings say so) between backward and step."""

    def make_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        s = self.settings
        groups = [{k: v for k, v in group.items() if k != "param_names"} for group in self.parameter_groups(model)]
        return torch.optim.AdamW(groups, lr=s.lr, betas=s.betas, fused=True)

    def _update(self, bad: bool) -> None:
        if not bad and self.settings.clip:
            torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.settings.clip)
        super()._update(bad)


@dataclass(frozen=True)
class Contestant:
    """settings: differences to those of ``medclm train``."""

    title: str
    loop: type[Training]
    settings: dict


CONTESTANTS = {
    "fp32": Contestant(
        "`torch.optim.AdamW(fused=True)`, fp32, the same loop",
        PlainTraining,
        {"dtype": "fp32", "activations": "none", "backward_format": "none", "release": False},
    ),
    "default": Contestant("**`medclm train`**, as it is by default", Training, {}),
    "lean": Contestant(
        "**`medclm train --state-format fp4_e2m1 --factored --checkpointing --activations none`**",
        Training,
        {"state_format": "fp4_e2m1", "factored": True, "checkpointing": True, "activations": "none"},
    ),
}
