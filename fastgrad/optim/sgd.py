"""SGD on normalized, stochastically rounded gradients."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, is_

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from fastgrad import shrinkage
from fastgrad.ops import checks
from fastgrad.ops.normalize_quantize import Alpha, resolve_alpha
from fastgrad.ops.sweeps import DTYPES, FIRST, NORMALIZE
from fastgrad.optim.treatment import (
    LARGEST_COMPENSATION,
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
from fastgrad.reference.philox import DEFAULT_SEED, PARAMETER_RANGE, signed64

_HYPER = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "decoupled_weight_decay", "maximize")


_layout = attrgetter("layout")


def _in_memory(value: object, device: torch.device) -> bool:
    """Whether a hyper-parameter is a tensor that a captured graph can read."""
    return isinstance(value, Tensor) and value.device == device


class _Plan:
    """The lists of one step, kept as long as the same parameters have gradients and the same buffers.

    Gradients are collected anew every step: their tensors change with ``zero_grad(set_to_none=True)``.
    """

    def __init__(self, options: list) -> None:
        self.options = options
        self.params: list[Parameter] = []
        self.grads: list[Tensor] = []
        self.groups: list[int] = []
        self.flags: list[int] = []
        self.ids: list[int] = []
        self.momenta: list[Tensor] = []
        self.new: list[int] = []  # places of buffers that are not state yet
        self.states: list[dict] = []  # where the other buffers are kept, and which they are
        self.buffers: list[Tensor] = []

    def holds(self, params: list[Parameter], optimizer: SGD) -> bool:
        return (
            not self.new
            and len(params) == len(self.params)
            and all(map(is_, params, self.params))
            and self.options == optimizer._options()
            and all(s.get("momentum_buffer") is b for s, b in zip(self.states, self.buffers, strict=True))
            and (not self.states or any(s is self.states[0] for s in optimizer.state.values()))
        )


class SGD(Optimizer):
    """A drop-in for ``torch.optim.SGD`` that treats gradients inside the step, in one native call.

        g = quantize(a * (grad - c));  d = g + weight_decay * p;  m = momentum * m + (1 - dampening) * d
        p = p - lr * k * (d + momentum * m  if nesterov else  m)

    With neither ``normalize`` nor ``grad_format`` it computes what torch's SGD computes, and their state_dicts load
    into each other.

    Gradient treatment (all optional):

    normalize: centre, znorm, clip, autoscale or centralize (:func:`fastgrad.normalize_`); ``alpha``, ``eps``,
        ``max_norm`` as there. Applied before weight decay and momentum.
    grad_format: bf16, fp16, fp8_e4m3, fp8_e5m2, fp4_e2m1, int8, int4 (:func:`fastgrad.quantize`); ``rounding``,
        ``scale``, ``block``, ``pow2`` as there.
    stats: ``auto`` (this step's statistics, from cache where they fit), ``cached``, ``two_reads``, or ``lagged``
        (last step's coefficients and scales while this step's are measured: one pass).
    nonfinite: what a NaN or infinity in any gradient does: ``propagate`` (as torch), ``skip`` (weights and state are
        left untouched bit for bit and ``skipped`` counts it), ``error`` (FloatingPointError naming the parameter;
        nothing is updated).
    compensate: ``"q"`` multiplies the step of each parameter by k = 1/q_k, q_k its shrinkage measured in the previous
        step, within [1/4, 4] (arXiv 2508.07142: a larger nominal step recovers what shrinkage takes).
    eligible: function (parameter, group) -> (normalize?, quantize?). Default: normalize what has two or more
        dimensions (for clip: everything), quantize everything. A group opts out with ``normalize=False`` or
        ``quantize=False``.
    weight_rounding: how bfloat16 and float16 weights are stored: nearest or stochastic.
    capturable: the step can be captured in a CUDA graph: the noise step and the hyper-parameters are in device memory
        (after the warm-up that graphs need anyway). A learning rate that changes between replays must be a tensor on
        the device. Not with stats="lagged", compensate, nonfinite other than propagate, a callable alpha or a
        GradScaler, which need the host or the last table.
    seed: of all noise. A parameter's noise is keyed by its place in the groups, whether others have gradients or not.

    After a step ``table`` holds its measurements (float64 [T+1, 16], docs/numerics.md section 10), one row per
    parameter that had a gradient; :class:`fastgrad.Monitor` records them.

    Works with closures, schedulers, parameter groups, and torch.amp.GradScaler (loss scales are undone inside the
    step). Same inputs, seed and step give the same bits on any number of threads.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
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
        compensate: str | None = None,
        eligible: Eligible | None = None,
        weight_rounding: str = "nearest",
        capturable: bool = False,
        seed: int = DEFAULT_SEED,
    ) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not float(value) >= 0.0:
                raise ValueError(f"{name}: expected a number >= 0, got {value}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov: needs a momentum > 0 and no dampening")
        checks.one_of("weight_rounding", weight_rounding, ("nearest", "stochastic"))
        self.treatment = Treatment(
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
        if capturable:
            for name, value, only in (
                ("stats", stats, "anything but 'lagged'" if stats == "lagged" else None),
                ("compensate", compensate, "None" if compensate else None),
                ("nonfinite", nonfinite, "'propagate'" if nonfinite != "propagate" else None),
                ("alpha", alpha, "the name of a rule" if callable(alpha) else None),
            ):
                if only:
                    raise ValueError(f"{name}: a capturable step takes {only}, got {value!r}")
        self.weight_rounding = weight_rounding
        self.capturable = capturable
        self._hyper_rows: list[list[float]] = []  # those in self._hyper_tensor
        self._hyper_tensor: Tensor | None = None
        self._progress = Progress()
        self._observers = Observers()
        self._plan: _Plan | None = None
        super().__init__(
            params,
            dict(
                lr=lr,
                momentum=momentum,
                dampening=dampening,
                weight_decay=weight_decay,
                nesterov=nesterov,
                maximize=maximize,
                decoupled_weight_decay=decoupled_weight_decay,
                normalize=True,
                quantize=True,
            ),
        )

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
    def step(self, closure=None):
        """One step. ``closure`` re-evaluates the model and returns the loss, which is returned."""
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
        if plan is None:
            return loss
        params, grads, flags, ids = plan.params, plan.grads, plan.flags, plan.ids
        progress, treatment = self._progress.on(params[0].device), self.treatment
        lagged = progress.lagged_for(ids, treatment.stats)
        alpha, state = treatment.alpha, progress.alpha_state
        if not isinstance(alpha, str):
            normalized = [g for g, f in zip(grads, flags, strict=True) if f & NORMALIZE]
            alpha, state = resolve_alpha(normalized, treatment.method, alpha, state, lagged)
        grad_scale = getattr(self, "grad_scale", None)
        skip = treatment.nonfinite != "propagate"
        clock = progress.clock_on(params[0].device) if self.capturable else None
        table = torch.ops.fastgrad.sgd_step_(
            params, grads, plan.momenta, self._hyper(params[0].device), plan.groups, flags, treatment.method,
            treatment.eps, treatment.max_norm, alpha, state, lagged,
            treatment.stats == "two_reads", treatment.format, treatment.rounding, treatment.scale_kind,
            treatment.block, treatment.pow2, signed64(treatment.seed), progress.step, clock, 0, ids,
            self._factors(ids), 1.0 if grad_scale is None else 1.0 / float(grad_scale),
            bool(self._observers) or treatment.stats == "lagged", skip, self.weight_rounding, None,
        )  # fmt: skip
        step, stopped = progress.step, skip and float(table[-1, 5]) > 0
        if stopped and treatment.nonfinite == "error":
            names = parameter_names(self.param_groups)
            raise FloatingPointError(nonfinite_message(table, [names[i] for i in ids]))
        progress.advance(table, ids, stopped)
        if plan.new:  # buffers become state only when the step was taken
            self._plan = None
            if not stopped:
                for i in plan.new:
                    self.state[params[i]]["momentum_buffer"] = plan.momenta[i]
        self._observers.notify(step, table, params)
        return loss

    def _gather(self) -> _Plan | None:
        """The parameters that have a gradient and what belongs to them; the last step's plan where it still holds."""
        every = [p for group in self.param_groups for p in group["params"]]
        grads = [p.grad for p in every]
        if any(g is None for g in grads):
            every = [p for p, g in zip(every, grads, strict=True) if g is not None]
            grads = [g for g in grads if g is not None]
        if not grads:
            return None
        plan = self._plan
        if plan is None or not plan.holds(every, self):
            plan = self._plan = self._make_plan()
        plan.grads = grads
        if any(layout is not torch.strided for layout in map(_layout, grads)):
            for i, g in zip(plan.ids, grads, strict=True):
                refuse_sparse(g, parameter_names(self.param_groups)[i])
        return plan

    def _make_plan(self) -> _Plan:
        plan = _Plan(self._options())
        number = 0
        for g, group in enumerate(self.param_groups):
            for p in group["params"]:
                if p.grad is not None:
                    plan.params.append(p)
                    plan.groups.append(g)
                    plan.ids.append(number)
                    plan.flags.append(self.treatment.flags(p, group))
                number += 1
        if not any(group["momentum"] for group in self.param_groups):
            return plan
        for i, p in enumerate(plan.params):
            state = self.state.get(p, {})
            buffer = state.get("momentum_buffer")
            if buffer is None:
                # Of a group without momentum the buffer is a stand-in that is neither read nor kept.
                buffer = torch.empty_like(p)
                if self.param_groups[plan.groups[i]]["momentum"]:
                    plan.flags[i] |= FIRST
                    plan.new.append(i)
            else:
                plan.states.append(state)
                plan.buffers.append(buffer)
            plan.momenta.append(buffer)
        return plan

    def _options(self) -> list:
        """What a plan depends on beside parameters and buffers."""
        return [(g["momentum"] != 0, g.get("normalize", True), g.get("quantize", True)) for g in self.param_groups]

    def _hyper(self, device: torch.device) -> Tensor:
        if not self.capturable:
            return torch.tensor(
                [[*(float(group[name]) for name in _HYPER), 0.0] for group in self.param_groups], dtype=torch.float64
            )
        # One tensor for good, whose address a graph may hold. Numbers are written when they change; what is a tensor
        # on the device is copied on every step, also on those that are replayed.
        inside = [[_in_memory(group[name], device) for name in _HYPER] for group in self.param_groups]
        rows = [
            [*(0.0 if there else float(group[name]) for there, name in zip(row, _HYPER, strict=True)), 0.0]
            for row, group in zip(inside, self.param_groups, strict=True)
        ]
        if self._hyper_tensor is None or self._hyper_tensor.device != device or rows != self._hyper_rows:
            made = torch.tensor(rows, dtype=torch.float64)
            if self._hyper_tensor is None or self._hyper_tensor.shape != made.shape:
                self._hyper_tensor = made.to(device)
            else:
                self._hyper_tensor = self._hyper_tensor.to(device).copy_(made)
            self._hyper_rows = rows
        for g, row in enumerate(inside):
            for column, there in enumerate(row):
                if there:
                    self._hyper_tensor[g, column].copy_(self.param_groups[g][_HYPER[column]])
        return self._hyper_tensor

    def _factors(self, ids: list[int]) -> Tensor | None:
        """k of every parameter from the shrinkage of the previous step; 1 where there is none."""
        if self.treatment.compensate is None or self.table is None:
            return None
        q = shrinkage.projection(self.table[:-1, 8], self.table[:-1, 9])
        k = (1.0 / q).clamp(1.0 / LARGEST_COMPENSATION, LARGEST_COMPENSATION)
        known = dict(zip(self._progress.ids, torch.where(q > 0, k, LARGEST_COMPENSATION).tolist(), strict=True))
        return torch.tensor([known.get(i, 1.0) for i in ids], dtype=torch.float64)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._plan = None
        for group in self.param_groups:  # of a torch.optim.SGD
            for name in ("normalize", "quantize"):
                group.setdefault(name, True)
            group.setdefault("decoupled_weight_decay", False)
            group.setdefault("maximize", False)
            group.setdefault("nesterov", False)

    def state_dict(self) -> dict:
        """torch's, with ``fastgrad``: the noise step, alpha's state and the last table."""
        state = super().state_dict()
        state["fastgrad"] = self._progress.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Loads its own state_dict, or one of ``torch.optim.SGD``."""
        super().load_state_dict(state_dict)
        if "fastgrad" in state_dict:
            self._progress.load_state_dict(state_dict["fastgrad"])

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}\n    gradients: {self.treatment.describe()}\n)"
