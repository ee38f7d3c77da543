"""What our optimizers share: gathering parameters, treating gradients in the step's one call, state that resumes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import repeat
from operator import attrgetter, is_, is_not
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from fastgrad import shrinkage
from fastgrad.ops import checks
from fastgrad.ops.layout import changed
from fastgrad.ops.normalize_quantize import resolve_alpha
from fastgrad.ops.sweeps import DTYPES, FIRST, NORMALIZE, WEIGHT_ROUNDINGS
from fastgrad.optim.payload import Payload, is_sharded, local_of, payload_of
from fastgrad.optim.saved_state import checked_states
from fastgrad.optim.treatment import (
    LARGEST_COMPENSATION,
    Observer,
    ObserverHandle,
    Observers,
    Progress,
    Treatment,
    nonfinite_message,
    parameter_names,
    refuse_sparse,
)
from fastgrad.reference.philox import PARAMETER_RANGE, signed64

if TYPE_CHECKING:
    from fastgrad.distributed.shards import Sharded

_layout = attrgetter("layout")
# In the first group of a state_dict, and without content in that of the optimizer: what is loaded from flattened
# checkpoints (torch.distributed.checkpoint) are the keys that are there.
_PROGRESS = "fastgrad"


def _in_memory(value: object, device: torch.device) -> bool:
    """Whether a hyper-parameter is a tensor that a captured graph can read."""
    return isinstance(value, Tensor) and value.device == device


@dataclass
class Plan:
    """The lists of one step, kept as long as the same parameters have gradients and the same states.

    Gradients are collected anew every step: their tensors change with ``zero_grad(set_to_none=True)``.
    """

    options: list
    params: list[Parameter] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    payloads: list[Payload] = field(default_factory=list)  # the memory of the parameters
    quantized: list[int] = field(default_factory=list)  # places of int8 weights, whose memory model.to() replaces
    states: list[dict] = field(default_factory=list)  # of each parameter, by name
    new: list[int] = field(default_factory=list)  # places of states that are not the optimizer's yet
    lists: dict[str, list[Tensor]] = field(default_factory=dict)  # states as the op takes them
    grads: list[Tensor] = field(default_factory=list)  # what this rank has of them
    sharded: Sharded | None = None  # where parameters are shards
    present: list[dict] = field(default_factory=list)  # the dictionaries of the optimizer's state, when last looked at
    # Of every buffer of the states: the dictionary that it is in, its name there, itself.
    entries: list[dict] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    buffers: list[Tensor] = field(default_factory=list)

    def holds(self, params: list[Parameter], optimizer: FusedOptimizer) -> bool:
        return (
            not self.new
            and len(params) == len(self.params)
            and all(map(is_, params, self.params))
            and all(payload_of(params[i]).memory is self.payloads[i].memory for i in self.quantized)
            and self.options == optimizer._options()
            and self._has_states(optimizer)
        )

    def _has_states(self, optimizer: FusedOptimizer) -> bool:
        """Whether the optimizer's states are these. Looking each up would hash a tensor, which is slow, so it is done
        again only when the optimizer has other dictionaries than before."""
        present = list(optimizer.state.values())
        if len(present) != len(self.present) or not all(map(is_, present, self.present)):
            self.present = present
            self.entries, self.names, self.buffers = [], [], []
            for p, kept in zip(self.params, self.states, strict=True):
                self.entries += [optimizer.state.get(p, {})] * len(kept)
                self.names += kept
                self.buffers += kept.values()
        return all(map(is_, map(dict.get, self.entries, self.names), self.buffers))


@dataclass(frozen=True)
class Call:
    """What one call of the op is told beside the plan's lists."""

    hyper: Tensor
    lagged: Tensor | None
    alpha: str
    alpha_state: Tensor
    step: int
    clock: Tensor | None
    slot: int
    factors: Tensor | None
    inv_scale: float
    measure: bool
    skip: bool
    max_norm: float
    sharded: Sharded | None = None  # where parameters are shards

    @property
    def offsets(self) -> list[int] | None:
        return None if self.sharded is None else self.sharded.offsets


class FusedOptimizer(Optimizer):
    """An optimizer whose step is one call of an op that treats gradients on the way."""

    _step_supports_amp_scaling = True
    group_options: tuple[str, ...] = ()  # what a group of a state_dict must have
    # Beside what torch's Optimizer copies.
    copied: tuple[str, ...] = ("treatment", "weight_rounding", "capturable", "_progress")

    def __init__(
        self, params: Iterable, defaults: dict, treatment: Treatment, weight_rounding: str, capturable: bool
    ) -> None:
        checks.one_of("weight_rounding", weight_rounding, WEIGHT_ROUNDINGS)
        if capturable:
            for name, value, only in (
                ("stats", treatment.stats, "anything but 'lagged'" if treatment.stats == "lagged" else None),
                ("compensate", treatment.compensate, "None" if treatment.compensate else None),
                ("nonfinite", treatment.nonfinite, "'propagate'" if treatment.nonfinite != "propagate" else None),
                ("alpha", treatment.alpha, "the name of a rule" if callable(treatment.alpha) else None),
            ):
                if only:
                    raise ValueError(f"{name}: a capturable step takes {only}, got {value!r}")
        self.treatment = treatment
        self.weight_rounding = weight_rounding
        self.capturable = capturable
        self._progress = Progress()
        self._start()
        super().__init__(params, {**defaults, "normalize": True, "quantize": True})

    def _start(self) -> None:
        """What no copy of the optimizer takes along."""
        self._hyper_rows: list[list[float]] = []  # those in self._hyper_tensor
        self._hyper_tensor: Tensor | None = None
        self._observers = Observers()
        self._plan: Plan | None = None
        self._released: Callable | None = None  # what step() is while gradients are released

    # What an optimizer brings

    @abstractmethod
    def _hyper_row(self, group: dict) -> list:
        """The group's row of the op's ``hyper``: 8 numbers, or tensors of one element."""

    @abstractmethod
    def _new_state(self, parameter: Parameter, payload: Payload, group: dict) -> dict[str, Tensor]:
        """The buffers of a parameter that has none yet; what is in them is not read at its first step."""

    @abstractmethod
    def _lists(self, plan: Plan) -> dict[str, list[Tensor]]:
        """The states of a plan as the op takes them."""

    @abstractmethod
    def _launch(self, plan: Plan, call: Call) -> Tensor:
        """The op; gives its table."""

    def _kept_state(self, p: Parameter, payload: Payload, group: dict) -> dict[str, Tensor] | None:
        """The buffers of a parameter, or None if it has none yet."""
        kept = {name: value for name, value in self.state.get(p, {}).items() if isinstance(value, Tensor)}
        return kept or None

    def _taken(self, plan: Plan, steps: int = 1) -> None:
        """After steps that were taken."""

    def _format(self) -> dict:
        """What a checkpoint must agree with beside shapes."""
        return {}

    def _check_group(self, name: str, group: dict) -> None:
        """Refuses options of a group, given or loaded."""

    def _accepted_state(self, name: str, p: Parameter, state: dict, group: dict) -> dict:
        """Of a saved state what this optimizer keeps with the options of the group."""
        return state

    def _options(self) -> list:
        """What a plan depends on beside parameters and states."""
        return [(g.get("normalize", True), g.get("quantize", True)) for g in self.param_groups]

    # What users see

    @property
    def table(self) -> Tensor | None:
        """Measurements of the last step that was taken, float64 [T+1, 16]."""
        return self._progress.table

    @property
    def skipped(self) -> int:
        """Steps not taken because of a non-finite gradient."""
        return self._progress.skipped

    def add_observer(self, function: Observer) -> ObserverHandle:
        """Calls ``function(step, table, parameters)`` after every step; row i of table is of parameters[i]."""
        return self._observers.add(function)

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        self.param_groups[0].setdefault(_PROGRESS, {})
        try:
            self._check_group("params: the group", group)
        except ValueError:
            del self.param_groups[-1]
            raise
        for i, p in enumerate(group["params"]):
            if p.dtype not in DTYPES:
                del self.param_groups[-1]
                raise TypeError(
                    f"params: parameter {i} of the group is {p.dtype}; expected float32, bfloat16 or float16"
                )
        if sum(len(g["params"]) for g in self.param_groups) > PARAMETER_RANGE:
            raise ValueError(f"params: expected at most {PARAMETER_RANGE} parameters")

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. ``closure`` re-evaluates the model and returns the loss, which is returned."""
        if self._released is not None:
            return self._released(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.capturable and getattr(self, "grad_scale", None) is not None:
            raise RuntimeError("capturable: a GradScaler keeps its scale on the host; unscale_ the gradients before")
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and float(found_inf):
            self._progress.skipped += 1
            return loss
        plan = self._gather()
        if plan is None or self._is_idle(plan):
            return loss
        progress = self._progress.on(plan.payloads[0].memory.device)
        lagged = progress.lagged_for(plan.ids, self.treatment.stats)
        grad_scale = getattr(self, "grad_scale", None)
        table = self._update(
            plan, lagged, self._factors(plan.ids), 1.0 if grad_scale is None else 1.0 / float(grad_scale)
        )
        skip = self.treatment.nonfinite != "propagate"
        step, stopped = progress.step, skip and float(table[-1, 5]) > 0
        if stopped and self.treatment.nonfinite == "error":
            names = parameter_names(self.param_groups)
            raise FloatingPointError(nonfinite_message(table, [names[i] for i in plan.ids]))
        progress.advance(table, plan.ids, stopped)
        if not stopped:
            self._keep(plan)
        self._plan = plan if not plan.new else None
        self._observers.notify(step, table, plan.params)
        return loss

    def _is_idle(self, plan: Plan) -> bool:
        """Whether a step changes nothing. torch.distributed.checkpoint takes such steps, with a learning rate of 0,
        whenever it saves an optimizer without states: they must not move the noise on."""
        return not any(plan.states) and not any(float(group["lr"]) for group in self.param_groups)

    # The step

    def _update(
        self,
        plan: Plan,
        lagged: Tensor | None,
        factors: Tensor | None,
        inv_scale: float,
        *,
        slot: int = 0,
        max_norm: float | None = None,
    ) -> Tensor:
        """One call of the op on the parameters of a plan. max_norm: instead of the treatment's."""
        progress, treatment, device = self._progress, self.treatment, plan.payloads[0].memory.device
        alpha, state = treatment.alpha, progress.alpha_state
        if not isinstance(alpha, str):
            normalized = [g for g, f in zip(plan.grads, plan.flags, strict=True) if f & NORMALIZE]
            alpha, state = resolve_alpha(normalized, treatment.method, alpha, state, lagged)
        call = Call(
            hyper=self._hyper(device),
            lagged=lagged,
            alpha=alpha,
            alpha_state=state,
            step=progress.step,
            clock=progress.clock_on(device) if self.capturable else None,
            slot=slot,
            factors=factors,
            inv_scale=inv_scale,
            measure=bool(self._observers) or treatment.stats == "lagged",
            skip=treatment.nonfinite != "propagate",
            max_norm=treatment.max_norm if max_norm is None else max_norm,
        )
        try:
            return self._launch(plan, call) if plan.sharded is None else self._launch_sharded(plan, call)
        finally:
            plan.grads = []  # they are to be freed when their owner lets go

    def _launch_sharded(self, plan: Plan, call: Call) -> Tensor:
        """The op on the shards of this rank, with the statistics of the whole tensors."""
        if self.capturable:
            raise RuntimeError("capturable: statistics of sharded parameters pass the host; expected capturable=False")
        t, sharded = self.treatment, plan.sharded
        assert sharded is not None
        whole = sharded.measure(
            plan.grads, plan.flags, method=t.method, eps=t.eps, max_norm=call.max_norm, alpha=call.alpha,
            state=call.alpha_state, lagged=call.lagged, inv_scale=call.inv_scale,
        )  # fmt: skip
        if call.skip and float(whole[-1, 5]) > 0:
            return whole
        lagged = whole if call.lagged is None else call.lagged
        table = self._launch(plan, replace(call, lagged=lagged, measure=False, skip=False, sharded=sharded))
        return sharded.merge(table, whole)

    def _treatment_arguments(self, plan: Plan, call: Call) -> tuple[tuple, tuple]:
        """The arguments that the ops have in common, as two runs: up to ``lagged`` and from ``two_reads`` on."""
        t = self.treatment
        return (
            (plan.groups, plan.flags, t.method, t.eps, call.max_norm, call.alpha, call.alpha_state, call.lagged),
            (
                t.stats == "two_reads", t.format, t.rounding, t.scale_kind, t.block, t.pow2, signed64(t.seed),
                call.step, call.clock, call.slot, plan.ids, call.factors, call.inv_scale, call.measure, call.skip,
                self.weight_rounding,
            ),
        )  # fmt: skip

    def _keep(self, plan: Plan) -> None:
        """Buffers become state only when the step was taken."""
        for i in plan.new:
            self.state[plan.params[i]].update(plan.states[i])
        # The op told autograd that codes and scales changed; the weights they belong to have versions of their own.
        changed([plan.params[i] for i in plan.quantized])
        self._taken(plan)

    def _gather(self) -> Plan | None:
        """The parameters that have a gradient and what belongs to them; the last step's plan where it still holds."""
        every = [p for group in self.param_groups for p in group["params"]]
        grads = [p.grad for p in every]
        if not all(map(is_not, grads, repeat(None))):
            every = [p for p, g in zip(every, grads, strict=True) if g is not None]
            grads = [g for g in grads if g is not None]
        if not grads:
            return None
        plan = self._plan
        if plan is None or not plan.holds(every, self):
            plan = self._plan = self._make_plan()
        self._take_gradients(plan, grads)
        return plan

    def _take_gradients(self, plan: Plan, grads: list[Tensor]) -> None:
        if set(map(_layout, grads)) != {torch.strided}:
            for i, g in zip(plan.ids, grads, strict=True):
                refuse_sparse(g, parameter_names(self.param_groups)[i])
        if checks.are_negated(grads):
            grads = [g.resolve_neg() for g in grads]
        plan.grads = grads if plan.sharded is None else [local_of(g) for g in grads]

    def _make_plan(self, only: Parameter | None = None) -> Plan:
        """The plan of all parameters that have a gradient, or of one."""
        plan = Plan(self._options())
        number = 0
        for g, group in enumerate(self.param_groups):
            for p in group["params"]:
                if p is only or (only is None and p.grad is not None):
                    plan.params.append(p)
                    plan.groups.append(g)
                    plan.ids.append(number)
                    plan.flags.append(self.treatment.flags(p, group))
                number += 1
        if any(is_sharded(p) for p in plan.params):
            from fastgrad.distributed.shards import Sharded

            plan.sharded = Sharded(plan.params)
        for i, p in enumerate(plan.params):
            payload, group = payload_of(p), self.param_groups[plan.groups[i]]
            plan.payloads.append(payload)
            if payload.scales is not None:
                plan.quantized.append(i)
            kept = self._kept_state(p, payload, group)
            if kept is None:
                kept = self._new_state(p, payload, group)
                if kept:
                    plan.flags[i] |= FIRST
                    plan.new.append(i)
            plan.states.append(kept)
        plan.lists = self._lists(plan)
        return plan

    def _hyper(self, device: torch.device) -> Tensor:
        rows = [self._hyper_row(group) for group in self.param_groups]
        place = device if self.capturable else torch.device("cpu")
        numbers = [
            [0.0 if self.capturable and _in_memory(value, device) else float(value) for value in row] for row in rows
        ]
        if self._hyper_tensor is None or self._hyper_tensor.device != place or numbers != self._hyper_rows:
            made = torch.tensor(numbers, dtype=torch.float64, device="cpu")
            if self.capturable and self._hyper_tensor is not None and self._hyper_tensor.shape == made.shape:
                self._hyper_tensor = self._hyper_tensor.to(place).copy_(made)
            else:
                self._hyper_tensor = made.to(place)
            self._hyper_rows = numbers
        if not self.capturable:
            return self._hyper_tensor
        # One tensor for good, whose address a graph may hold. What is a tensor on the device is copied on every step,
        # also on those that are replayed.
        for g, row in enumerate(rows):
            for column, value in enumerate(row):
                if _in_memory(value, device):
                    self._hyper_tensor[g, column].copy_(value)
        return self._hyper_tensor

    def _factors(self, ids: list[int]) -> Tensor | None:
        """k of every parameter from the shrinkage of the previous step; 1 where there is none."""
        if self.treatment.compensate is None or self.table is None:
            return None
        q = shrinkage.projection(self.table[:-1, 8], self.table[:-1, 9])
        k = (1.0 / q).clamp(1.0 / LARGEST_COMPENSATION, LARGEST_COMPENSATION)
        known = dict(zip(self._progress.ids, torch.where(q > 0, k, LARGEST_COMPENSATION).tolist(), strict=True))
        return torch.tensor([known.get(i, 1.0) for i in ids], dtype=torch.float64, device="cpu")

    # State that resumes

    def __getstate__(self) -> dict:
        """Of copies and pickles. Observers and hooks stay with the original."""
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self.copied}}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        if "_observers" not in self.__dict__:
            self._start()
        self._plan = None
        for group in self.param_groups:  # of an optimizer of torch's
            for name in ("normalize", "quantize"):
                group.setdefault(name, True)
        if self.param_groups:
            self.param_groups[0].setdefault(_PROGRESS, {})

    def state_dict(self) -> dict:
        """torch's; its first group has ``fastgrad``: the noise step, alpha's state, the last table where it is used."""
        replayed = self._progress.replayed()
        if replayed and self._plan is not None:
            self._taken(self._plan, replayed)
        state = super().state_dict()
        if state["param_groups"]:
            count = sum(len(group["params"]) for group in self.param_groups)
            progress = self._progress.state_dict(count, with_table=self.treatment.reads_table)
            state["param_groups"][0][_PROGRESS] = {**progress, **self._format()}
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Loads its own state_dict, or one of the optimizer of torch that it replaces. Nothing changes on an error."""
        groups = [dict(group) for group in state_dict["param_groups"]]
        extra = groups[0].pop(_PROGRESS, None) or None if groups else None
        states = checked_states(self, state_dict["state"], groups, extra)
        super().load_state_dict({"state": {}, "param_groups": groups})
        # torch would cast every tensor to the type of its parameter, codes and factors among them.
        for p, state in states.items():
            self.state[p] = state
        if extra is not None:
            self._progress.load_state_dict(extra)

    def __repr__(self) -> str:
        # Of a group's own switches only those that are off say something: on, they are what `gradients` tells.
        hidden = (f"    {_PROGRESS}: ", "    normalize: True", "    quantize: True")
        lines = [line for line in super().__repr__()[:-1].split("\n") if not line.startswith(hidden)]
        narrow = {payload_of(p).memory.dtype for g in self.param_groups for p in g["params"]} - {torch.float32}
        rounded = [f"    weights: {self.weight_rounding} rounding to {', '.join(map(str, narrow))}"] if narrow else []
        return "\n".join([*lines, f"    gradients: {self.treatment.describe()}", *rounded, ")"])
