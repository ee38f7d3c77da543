"""attach: treat the gradients of an optimizer of somebody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastgrad.ops import checks
from fastgrad.ops.normalize_quantize import Alpha, normalize_quantize_, resolve_alpha
from fastgrad.ops.sweeps import NORMALIZE
from fastgrad.optim.payload import is_sharded, local_of
from fastgrad.optim.treatment import (
    Eligible,
    Observer,
    ObserverHandle,
    Observers,
    Progress,
    Treatment,
    nonfinite_message,
    parameter_names,
    refuse_sparse,
)
from fastgrad.reference.philox import DEFAULT_SEED

if TYPE_CHECKING:
    from fastgrad.distributed.shards import Sharded


def attach(
    optimizer: Optimizer,
    *,
    normalize: str | None = None,
    alpha: Alpha = "ratio_first",
    eps: float = 1e-8,
    max_norm: float = 1.0,
    grad_format: str | None = None,
    rounding: str = "stochastic",
    scale: str | None = None,
    block: int = 128,
    pow2: bool = False,
    stats: str = "auto",
    nonfinite: str = "propagate",
    compensate: None = None,  # the step is the optimizer's own
    eligible: Eligible | None = None,
    seed: int = DEFAULT_SEED,
) -> Attached:
    """Normalizes and rounds the gradients of any torch optimizer, in place, before each of its steps.

        handle = fastgrad.attach(torch.optim.AdamW(model.parameters()), normalize="znorm", grad_format="bf16")

    Options are those of :class:`fastgrad.optim.SGD`: normalize, alpha, eps, max_norm, grad_format, rounding, scale,
    block, pow2, stats, eligible, seed, nonfinite (``propagate`` or ``error``; a hook cannot skip a step). ``p.grad``
    holds the treated gradient afterwards. Works through the step pre-hook; with ``step(closure)`` gradients are treated
    each time the optimizer has evaluated the closure. LBFGS, whose line search compares such evaluations, is refused.
    With a GradScaler call ``scaler.unscale_`` first where the optimizer would unscale inside its own fused step.
    Gradients of ``fully_shard`` are treated with the statistics of the whole tensors. With neither normalize nor
    grad_format gradients stay as they are, and are measured: for :class:`fastgrad.Monitor`, or ``nonfinite="error"``.

    The handle has ``detach()``, ``table``, ``add_observer`` (for :class:`fastgrad.Monitor`) and a state_dict.
    """
    treatment = Treatment(
        normalize=normalize,
        alpha=alpha,
        eps=eps,
        max_norm=max_norm,
        grad_format=grad_format,
        rounding=rounding,
        scale=scale,
        block=block,
        pow2=pow2,
        stats=stats,
        nonfinite=nonfinite,
        compensate=compensate,
        eligible=eligible,
        seed=seed,
    )
    return Attached(optimizer, treatment)


class Attached:
    """What :func:`attach` returns."""

    def __init__(self, optimizer: Optimizer, treatment: Treatment) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: expected a torch.optim.Optimizer, got {checks.type_name(optimizer)}")
        if treatment.compensate is not None:
            raise ValueError("compensate: the step belongs to the attached optimizer; use fastgrad.optim.SGD")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise TypeError("optimizer: LBFGS compares gradients along a line; treated ones, with noise, mislead it")
        if treatment.nonfinite == "skip":
            raise ValueError("nonfinite: a hook cannot skip the optimizer's step; expected 'propagate' or 'error'")
        self.optimizer = optimizer
        self.treatment = treatment
        self._progress = Progress()
        self._observers = Observers()
        self._shards: tuple[list[int], Sharded] | None = None
        self._hook = optimizer.register_step_pre_hook(self._before_step)

    @property
    def param_groups(self) -> list[dict]:
        return self.optimizer.param_groups

    @property
    def table(self) -> Tensor | None:
        """Measurements of the last step, float64 [T+1, 16]."""
        return self._progress.table

    def add_observer(self, function: Observer) -> ObserverHandle:
        """Calls ``function(step, table, parameters)`` before every step of the optimizer."""
        return self._observers.add(function)

    def detach(self) -> None:
        """Leaves the optimizer as it was."""
        self._hook.remove()

    def state_dict(self) -> dict:
        return self._progress.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self._progress.load_state_dict(state)

    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # args[0] is the optimizer itself
        if closure is None:
            self._treat(optimizer)
            return None

        def treated() -> object:
            loss = closure()
            self._treat(optimizer)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": treated}
        return (args[0], treated, *args[2:]), kwargs

    @torch.compiler.disable
    @torch.no_grad()
    def _treat(self, optimizer: Optimizer) -> None:
        if getattr(optimizer, "grad_scale", None) is not None:
            raise RuntimeError(
                "attach: the gradients are still scaled; call scaler.unscale_(optimizer) before scaler.step"
            )
        parameters, flags, ids, number = [], [], [], 0
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    refuse_sparse(p.grad, f"parameter {number}")
                    if p.grad.is_neg():  # its memory holds the negative; it is about to be written
                        p.grad = p.grad.resolve_neg()
                    parameters.append(p)
                    flags.append(self.treatment.flags(p, group))
                    ids.append(number)
                number += 1
        if not parameters:
            return
        treatment, progress = self.treatment, self._progress.on(parameters[0].device)
        grads = [local_of(p.grad) for p in parameters]
        lagged = progress.lagged_for(ids, treatment.stats)
        normalized = [g for g, f in zip(grads, flags, strict=True) if f & NORMALIZE]
        alpha, state = resolve_alpha(normalized, treatment.method, treatment.alpha, progress.alpha_state, lagged)
        sharded: Sharded | None = None
        whole: Tensor | None = None
        if any(map(is_sharded, parameters)):
            sharded = self._sharded(parameters)
            whole = sharded.measure(
                grads, flags, method=treatment.method, eps=treatment.eps, max_norm=treatment.max_norm, alpha=alpha,
                state=state, lagged=lagged,
            )  # fmt: skip
            self._refuse_nonfinite(whole, ids)
        table = normalize_quantize_(
            grads,
            treatment.method,
            treatment.format,
            eps=treatment.eps,
            max_norm=treatment.max_norm,
            alpha=alpha,
            state=state,
            stats=treatment.stats if sharded is None else "lagged",
            previous=whole if lagged is None else lagged,
            rounding=treatment.rounding,
            scale=treatment.scale_kind,
            block=treatment.block,
            pow2=treatment.pow2,
            seed=treatment.seed,
            step=progress.step,
            ids=ids,
            flags=flags,
            skip_nonfinite=treatment.nonfinite == "error" and sharded is None,
            offsets=None if sharded is None else sharded.offsets,
        )
        if sharded is not None and whole is not None:
            table = sharded.merge(table, whole)
        self._refuse_nonfinite(table, ids)
        step = progress.step
        progress.advance(table, ids, False)
        self._observers.notify(step, table, parameters)

    def _refuse_nonfinite(self, table: Tensor, ids: list[int]) -> None:
        if self.treatment.nonfinite == "error" and float(table[-1, 5]) > 0:
            names = parameter_names(self.optimizer.param_groups)
            raise FloatingPointError(nonfinite_message(table, [names[i] for i in ids]))

    def _sharded(self, parameters: list[Tensor]) -> Sharded:
        from fastgrad.distributed.shards import Sharded

        if self._shards is None or self._shards[0] != list(map(id, parameters)):
            self._shards = list(map(id, parameters)), Sharded(parameters)
        return self._shards[1]

    def __repr__(self) -> str:
        return f"Attached({type(self.optimizer).__name__}, gradients: {self.treatment.describe()})"
