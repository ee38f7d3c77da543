"""The parts of fastgrad that an experiment is about, made from its Config."""

from typing import Any

import numpy as np
import torch
from torch import nn

from fastgrad.attach import Attached, attach
from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError
from fastgrad.cifar.models import Backward
from fastgrad.monitor import Monitor
from fastgrad.nn import TreatGradient
from fastgrad.optim import SGD

TREATMENT = (
    "normalize", "alpha", "max_norm", "grad_format", "rounding", "scale", "pow2", "stats", "nonfinite",
    "seed",
)  # fmt: skip


def backward(config: Config) -> Backward | None:
    """The factory of the modules between blocks, for ``models.build``; None where nothing is asked for."""
    if config.backward_format is None and config.backward_normalize is None:
        return None
    return lambda place: TreatGradient(
        normalize=config.backward_normalize,
        grad_format=config.backward_format,
        rounding=config.rounding,
        # Every place its own noise: two places with one seed would round with the same random numbers.
        seed=int(np.random.SeedSequence((config.seed, place)).generate_state(1, np.uint64)[0] >> 1),
    )


class Treated:
    """An optimizer that is fed treated gradients, and what measures them.

    sgd is ``fastgrad.optim.SGD``, also where nothing is changed: it measures. adam is ``torch.optim.Adam`` with
    ``fastgrad.attach``: the treatment comes before Adam adds its coupled weight decay to the gradient.
    """

    def __init__(self, config: Config, model: nn.Module) -> None:
        options: dict[str, Any] = {name: getattr(config, name) for name in TREATMENT}
        if config.scale == "block":
            options["block"] = config.block
        weights: dict[str, Any] = dict(lr=config.lr, weight_decay=config.weight_decay)
        self.optimizer: torch.optim.Optimizer
        self.source: Attached | SGD
        try:
            if config.optimizer == "adam":
                self.optimizer = torch.optim.Adam(model.parameters(), fused=True, **weights)
                self.source = attach(self.optimizer, **options)
            else:
                self.optimizer = self.source = SGD(
                    model.parameters(), momentum=config.momentum, nesterov=config.nesterov, **weights,
                    compensate=config.compensate, **options,
                )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise UsageError(str(error)) from error

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def state_dict(self) -> dict[str, Any]:
        attached = {} if self.source is self.optimizer else {"gradients": self.source.state_dict()}
        return {"optimizer": self.optimizer.state_dict(), **attached}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        if self.source is not self.optimizer:
            self.source.load_state_dict(state["gradients"])


def monitor(config: Config, model: nn.Module, treated: Treated, steps: int) -> Monitor:
    """A Monitor that keeps ``monitor_steps`` of the ``steps``."""
    every = -(-steps // config.monitor_steps)
    return Monitor(treated.source, model.named_parameters(), capacity=config.monitor_steps, every=every)
