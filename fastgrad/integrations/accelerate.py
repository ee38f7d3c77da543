"""Gradient release in a loop of accelerate."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

import fastgrad
from fastgrad.ops import checks
from fastgrad.release import Released


def release_gradients(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: AcceleratedOptimizer,
    *,
    accumulate: int | None = None,
    accumulate_format: str = "bf16",
) -> Released:
    """:func:`fastgrad.release_gradients` for what ``accelerator.prepare`` gave; the loop stays as it is.

        model, optimizer, loader = accelerator.prepare(model, fastgrad.optim.AdamW(model.parameters()), loader)
        release_gradients(accelerator, model, optimizer)
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(loss(model, batch))    # parameters change here
                optimizer.step()                            # closes the iteration
                optimizer.zero_grad()

    accumulate: backward passes to an update; default ``accelerator.gradient_accumulation_steps``. An update that
        accelerate wants earlier, at the end of an epoch, takes the sum so far.
    accumulate_format: how sums of micro-batches are kept.

    Errors: TypeError for an optimizer that was not prepared and for DistributedDataParallel (use FSDP2); ValueError for
    ``mixed_precision="fp16"`` (its scale is known only after backward: use ``"bf16"``). ``accelerator.clip_grad_norm_``
    and ``clip_grad_value_`` raise while gradients are released, since there are none to clip: give the optimizer
    ``normalize="clip", stats="lagged"``, which clips by the norm of the last step.
    """
    if not isinstance(optimizer, AcceleratedOptimizer):
        raise TypeError(f"optimizer: expected what accelerator.prepare gave, got {checks.type_name(optimizer)}")
    if accelerator.scaler is not None:
        raise ValueError(
            "mixed_precision: 'fp16' scales the loss by a factor that is known only after backward, when gradients "
            "were used already; expected 'bf16' or 'no'"
        )
    if accumulate is None:
        accumulate = accelerator.gradient_accumulation_steps
    released = fastgrad.release_gradients(
        model, unwrap(optimizer), accumulate=accumulate, accumulate_format=accumulate_format
    )
    released.as_optimizer()
    for name in ("clip_grad_norm_", "clip_grad_value_"):
        method = getattr(accelerator, name)
        while isinstance(method, _RefusedWhileReleased) and not method.released.active:
            method = method.method
        setattr(accelerator, name, _RefusedWhileReleased(name, method, released))
    return released


def unwrap(optimizer: Any) -> Any:
    """The optimizer that was given to ``accelerator.prepare``."""
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    return optimizer


class _RefusedWhileReleased:
    """A method of the accelerator that would find no gradients, and say nothing."""

    def __init__(self, name: str, method: Any, released: Released) -> None:
        self.name, self.method, self.released = name, method, released

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.released.active:
            raise RuntimeError(
                f"accelerator.{self.name}: gradients are released inside backward, there are none to clip; give the "
                "optimizer normalize='clip', stats='lagged', max_norm=..., which clips by the norm of the last step"
            )
        return self.method(*args, **kwargs)
