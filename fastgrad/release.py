"""release_gradients: every parameter is updated, and its gradient freed, inside backward."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from fastgrad import shrinkage
from fastgrad.accumulate import Accumulator
from fastgrad.ops import checks
from fastgrad.ops.sweeps import FORMATS, NORMALIZE
from fastgrad.optim.fused import FusedOptimizer, Plan
from fastgrad.optim.treatment import parameter_names
from fastgrad.reference.sweep import list_row

GLOBAL_METHODS = ("clip", "autoscale")
_NO_SCALER = "a GradScaler cannot be used with released gradients: its scale is known only after backward"


def release_gradients(
    model: nn.Module, optimizer: FusedOptimizer, *, accumulate: int = 1, accumulate_format: str = "bf16"
) -> Released:
    """Updates every parameter as soon as its gradient is there, and frees the gradient: at no time are there all.

        released = fastgrad.release_gradients(model, optimizer)
        for batch in loader:
            loss(model, batch).backward()     # parameters change here
            released.step()                   # in the place of optimizer.step(): closes the iteration
            scheduler.step()

    The bits are those of ``optimizer.step()`` after the backward, wherever a parameter's update needs nothing of the
    others. What needs a value of all gradients of *this* step (``clip``, ``autoscale``) is not known inside backward:
    it takes ``stats="lagged"``, the value of the last step. A parameter without lagged statistics (all of them at the
    first step) is treated as a list of its own; ``clip`` gives it the part of max_norm that keeps all of them within:

        max_norm_i = max_norm sqrt(n_i / N)        n_i of the N elements of all parameters

    optimizer: of :mod:`fastgrad.optim`, whose ``step()`` is refused until ``released.remove()``. With
        ``nonfinite="skip"`` a parameter whose gradient has a NaN or infinity is skipped whole and counted in
        ``released.skipped``; the others are updated.
    accumulate: backward passes to an update (micro-batches). Their gradients add up, as torch's do, in
        ``accumulate_format``, rounded stochastically with noise of their own for each micro-batch; the shrinkage of
        that is in ``released.accumulated_q``. Bytes per parameter: fp32 4, bf16 and fp16 2, fp8 and int8 1.03, int4 and
        fp4 0.53. ``released.flush()`` updates with an incomplete sum.

    A loop that calls ``optimizer.step()`` itself is served by ``released.as_optimizer()``.

    Works with tied weights, parameters without gradients, gradient checkpointing, ``fully_shard``, schedulers and
    :class:`fastgrad.Monitor`. Not with DistributedDataParallel (it reduces gradients after they would be gone: use
    ``fully_shard``), nor a GradScaler (its scale is known after backward: train in bfloat16).
    """
    return Released(model, optimizer, accumulate, accumulate_format)


class Released:
    """What :func:`release_gradients` returns."""

    def __init__(self, model: nn.Module, optimizer: FusedOptimizer, accumulate: int, accumulate_format: str) -> None:
        _check(model, optimizer, accumulate, accumulate_format)
        self.optimizer = optimizer
        self.active = True  # until remove()
        self.accumulate = accumulate
        self.skipped: dict[str, int] = {}
        self.accumulated_q: dict[str, float] = {}
        self._format = accumulate_format
        self._parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._names = dict(zip(map(id, _all(optimizer)), parameter_names(optimizer.param_groups), strict=True))
        self._plans: dict[int, Plan] = {}
        self._rows: dict[int, Tensor] = {}  # place in the groups -> row of the table, of this iteration
        self._sums: dict[int, Accumulator] = {}
        self._hooks = [p.register_post_accumulate_grad_hook(self._update) for p in self._parameters]
        self._guard = optimizer.register_state_dict_pre_hook(self._refuse_within_a_step)
        optimizer._released = self._refuse_step

    def __repr__(self) -> str:
        said = [f"{len(self._parameters)} parameters of {type(self.optimizer).__name__}"]
        if self.accumulate > 1:
            said.append(f"{self.accumulate} micro-batches to an update, summed in {self._format}")
        if self.skipped:
            said.append(f"{sum(self.skipped.values())} updates skipped")
        return f"Released({', '.join(said if self.active else [*said, 'removed'])})"

    def as_optimizer(self) -> FusedOptimizer:
        """The optimizer, whose own ``step()`` closes the iteration from now on: for loops that call it themselves.

            optimizer = fastgrad.release_gradients(model, optimizer, accumulate=4).as_optimizer()

        Where such a loop calls ``step()`` an update is due: an incomplete sum is taken too, as by ``flush()``. A
        closure is evaluated first. Errors: RuntimeError for a GradScaler, whose scale is known only after backward.
        """
        self.optimizer._released = self._step_of_a_loop
        return self.optimizer

    def step(self) -> None:
        """Closes the iteration: the next backward is the next step. Tells observers, and schedulers that ask for it."""
        if any(0 < sums.count < self.accumulate for sums in self._sums.values()):
            return  # between micro-batches
        self._refuse_kept_gradients()
        optimizer, progress = self.optimizer, self.optimizer._progress
        optimizer._opt_called = True  # type: ignore[attr-defined]  # what torch's schedulers set and look at
        if not self._rows:
            return
        ids = sorted(self._rows)
        everything = _all(optimizer)
        flags = [self._plans[id(everything[i])].flags[0] for i in ids]
        rows = torch.cat([self._rows[i] for i in ids])
        normalized = [bool(f & NORMALIZE) for f in flags]
        factor = 1.0
        if optimizer.treatment.method in GLOBAL_METHODS and any(normalized):
            factor = float(rows[normalized.index(True), 6])  # that of every tensor
        table = torch.cat([rows, list_row(rows.cpu(), normalized, factor)[None].to(rows.device)])
        step = progress.step
        progress.advance(table, ids, False)
        self._rows.clear()
        optimizer._observers.notify(step, table, [everything[i] for i in ids])

    @torch.no_grad()
    def flush(self) -> None:
        """Updates with an incomplete sum, of fewer than ``accumulate`` backward passes, and closes the iteration."""
        for p in self._parameters:
            sums = self._sums.get(id(p))
            if sums is not None and sums.count:
                self._apply(p, sums.take(None))
        self.step()

    def remove(self) -> None:
        """Leaves the optimizer and the model as they were."""
        if not self.active:
            return
        self.active = False
        for hook in self._hooks:
            hook.remove()
        self._guard.remove()
        self.optimizer._released = None

    @torch.no_grad()
    def _update(self, p: Parameter) -> None:
        gradient, p.grad = p.grad, None
        assert gradient is not None, "torch calls this when a gradient is there"
        if self.accumulate > 1:
            sums = self._sums.setdefault(id(p), Accumulator(self._format, self.optimizer.treatment.seed))
            place = self._plan(p).ids[0]
            if sums.count + 1 < self.accumulate:
                self._refuse_twice(p, place)
                table = sums.add(gradient, place, self.optimizer._progress.step)
                self.accumulated_q[self._names[id(p)]] = float(shrinkage.projection(table[8], table[9]))
                return
            gradient = sums.take(gradient)
        self._apply(p, gradient)

    def _apply(self, p: Parameter, gradient: Tensor) -> None:
        optimizer, plan = self.optimizer, self._plan(p)
        place = plan.ids[0]
        self._refuse_twice(p, place)
        optimizer._take_gradients(plan, [gradient])
        progress = optimizer._progress.on(plan.payloads[0].memory.device)
        lagged = self._lagged(place)
        first = None
        if lagged is None and optimizer.treatment.method == "autoscale":
            first = progress.alpha_state.clone()  # its own deviation is not that of all
        max_norm = self._part_of_max_norm(p) if lagged is None else None
        table = optimizer._update(plan, lagged, optimizer._factors(plan.ids), 1.0, max_norm=max_norm)
        if first is not None:
            progress.alpha_state.copy_(first)
        self._rows[place] = table[:1]
        if optimizer.treatment.nonfinite == "skip" and float(table[-1, 5]) > 0:
            name = self._names[id(p)]
            self.skipped[name] = self.skipped.get(name, 0) + 1
            return
        optimizer._keep(plan)
        plan.new.clear()
        plan.flags[0] &= ~4

    def _plan(self, p: Parameter) -> Plan:
        plan = self._plans.get(id(p))
        if plan is None or not plan.holds([p], self.optimizer):
            plan = self._plans[id(p)] = self.optimizer._make_plan(only=p)
        return plan

    def _part_of_max_norm(self, p: Parameter) -> float:
        """With max_norm for each, a first step of many parameters would be far above it, and a second moment that
        remembers it would hold back the next hundred."""
        return self.optimizer.treatment.max_norm * math.sqrt(p.numel() / sum(q.numel() for q in _all(self.optimizer)))

    def _lagged(self, place: int) -> Tensor | None:
        """The last step's row of a parameter and that of all, if there are such."""
        progress = self.optimizer._progress
        if self.optimizer.treatment.stats != "lagged" or progress.table is None or place not in progress.ids:
            return None
        return progress.table[[progress.ids.index(place), -1]]

    def _refuse_step(self, closure: Callable | None = None) -> None:
        raise RuntimeError(
            "step: gradients are released inside backward; call released.step() of fastgrad.release_gradients, or let "
            f"released.as_optimizer() end the iteration ({_NO_SCALER})"
        )

    def _step_of_a_loop(self, closure: Callable | None = None) -> object:
        if any(getattr(self.optimizer, name, None) is not None for name in ("grad_scale", "found_inf")):
            raise RuntimeError(f"step: {_NO_SCALER}; train in bfloat16")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.flush()
        return loss

    def _refuse_kept_gradients(self) -> None:
        """A gradient that is still there is of a parameter that is not updated: nobody would notice."""
        for p in _all(self.optimizer):
            if p.grad is not None:
                raise RuntimeError(
                    f"released.step: {self._names.get(id(p), 'a parameter')} {list(p.shape)} has a gradient that was "
                    "not released: its hook was made while it was frozen, or for a parameter that it replaced; "
                    "expected release_gradients after all such changes (fully_shard, accelerator.prepare)"
                )

    def _refuse_twice(self, p: Parameter, place: int) -> None:
        if place in self._rows:
            raise RuntimeError(
                f"release_gradients: {self._names[id(p)]} got a second gradient after its update in this iteration. "
                "Call released.step() after every backward; give accumulate= for several backward passes to a step; "
                "checkpoints that share a parameter need use_reentrant=False"
            )

    def _refuse_within_a_step(self, optimizer: Optimizer) -> None:
        if self._rows or any(sums.count for sums in self._sums.values()):
            raise RuntimeError(
                "state_dict: a step is open, some parameters are updated or accumulated and others are not; save after "
                "released.step()"
            )


def _all(optimizer: FusedOptimizer) -> list[Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _check(model: nn.Module, optimizer: FusedOptimizer, accumulate: int, accumulate_format: str) -> None:
    if not isinstance(optimizer, FusedOptimizer):
        raise TypeError(f"optimizer: expected one of fastgrad.optim, got {checks.type_name(optimizer)}")
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise TypeError(
            "model: DistributedDataParallel reduces gradients after they would have been released; use fully_shard"
        )
    if optimizer._released is not None:
        raise RuntimeError("optimizer: its gradients are released already")
    checks.one_of("accumulate_format", accumulate_format, FORMATS)
    if not isinstance(accumulate, int) or not 1 <= accumulate <= 4096:
        raise ValueError(f"accumulate: expected an integer in [1, 4096], got {accumulate!r}")
    treatment = optimizer.treatment
    if treatment.method in GLOBAL_METHODS and treatment.stats != "lagged":
        raise ValueError(
            f"stats: {treatment.method} needs a value of all gradients of the step, unknown inside backward; "
            "expected stats='lagged', which takes that of the last step"
        )
    if callable(treatment.alpha) and treatment.method == "autoscale":
        raise ValueError("alpha: expected the name of a rule; a function would be asked for every parameter")
    if treatment.nonfinite == "error":
        raise ValueError(
            "nonfinite: inside backward other parameters are updated already; expected 'skip' or 'propagate'"
        )
    if optimizer.capturable:
        raise ValueError("optimizer: a capturable one keeps its step on the device; expected capturable=False")
    known = {id(p) for p in model.parameters()}
    foreign = [
        n for p, n in zip(_all(optimizer), parameter_names(optimizer.param_groups), strict=True) if id(p) not in known
    ]
    if foreign:
        raise ValueError(f"optimizer: {foreign[0]} is not a parameter of the model")
