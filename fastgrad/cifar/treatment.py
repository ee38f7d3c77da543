"""The parts of fastgrad that an experiment is about, made from its Config."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError
from fastgrad.cifar.models import Backward

TREATMENT = (
    "normalize", "alpha", "max_norm", "grad_format", "rounding", "scale", "pow2", "stats", "nonfinite",
    "compensate", "seed",
)  # fmt: skip


def backward(config: Config) -> Backward | None:
    """The factory of the modules between blocks, for ``models.build``; None where nothing is asked for."""
    if config.backward_format is None and config.backward_normalize is None:
        return None
    treat = fastgrad_part("nn", "TreatGradient", "backward_format and backward_normalize")
    return lambda place: treat(
        normalize=config.backward_normalize,
        grad_format=config.backward_format,
        rounding=config.rounding,
        # Every place its own noise: two places with one seed would round with the same random numbers.
        seed=int(np.random.SeedSequence((config.seed, place)).generate_state(1, np.uint64)[0] >> 1),
    )


def optimizer(config: Config, model: nn.Module, say: Callable[[str], None]) -> torch.optim.Optimizer:
    """``fastgrad.optim.SGD``, also where nothing is changed: it measures. Else torch's, if that will do."""
    common = dict(
        lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov
    )
    try:
        sgd = fastgrad_part("optim", "SGD", "normalize and grad_format")
    except UsageError as error:
        if config.normalize or config.grad_format:
            raise
        say(f"note: plain torch.optim.SGD, nothing is measured ({error})")
        return torch.optim.SGD(model.parameters(), **common)
    treatment = {name: getattr(config, name) for name in TREATMENT}
    if config.scale == "block":
        treatment["block"] = config.block
    try:
        return sgd(model.parameters(), **common, **treatment)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def monitor(config: Config, model: nn.Module, source: torch.optim.Optimizer, steps: int) -> Any:
    """A Monitor that keeps ``monitor_steps`` of the ``steps``; None where the optimizer measures nothing."""
    if type(source) is torch.optim.SGD:
        return None
    recorder = fastgrad_part(None, "Monitor", "the record of a run")
    every = -(-steps // config.monitor_steps)
    return recorder(source, model.named_parameters(), capacity=config.monitor_steps, every=every)


def fastgrad_part(module: str | None, name: str, wanted_for: str) -> Any:
    """Imported only when used: data, models and reports work without the compiled part."""
    place = "fastgrad" if module is None else f"fastgrad.{module}"
    try:
        return getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{wanted_for} need {place}.{name}: {error}") from error
