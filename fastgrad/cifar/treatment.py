"""The parts of fastgrad that an experiment is about, made from its Config."""

import numpy as np
from torch import nn

from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError
from fastgrad.cifar.models import Backward
from fastgrad.monitor import Monitor
from fastgrad.nn import TreatGradient
from fastgrad.optim import SGD

TREATMENT = (
    "normalize", "alpha", "max_norm", "grad_format", "rounding", "scale", "pow2", "stats", "nonfinite",
    "compensate", "seed",
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


def optimizer(config: Config, model: nn.Module) -> SGD:
    """``fastgrad.optim.SGD``, also where nothing is changed: it measures."""
    treatment = {name: getattr(config, name) for name in TREATMENT}
    if config.scale == "block":
        treatment["block"] = config.block
    try:
        return SGD(
            model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay,
            nesterov=config.nesterov, **treatment,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def monitor(config: Config, model: nn.Module, source: SGD, steps: int) -> Monitor:
    """A Monitor that keeps ``monitor_steps`` of the ``steps``."""
    every = -(-steps // config.monitor_steps)
    return Monitor(source, model.named_parameters(), capacity=config.monitor_steps, every=every)
