"""SGD on normalized, stochastically rounded gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from fastgrad.ops.engines import launch
from fastgrad.ops.normalize_quantize import Alpha
from fastgrad.optim.fused import Call, FusedOptimizer, Plan
from fastgrad.optim.payload import Payload, local_of, payload_of
from fastgrad.optim.switches import refuse_switches
from fastgrad.optim.treatment import Eligible, Treatment
from fastgrad.reference.philox import DEFAULT_SEED

_HYPER = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "decoupled_weight_decay", "maximize")


class SGD(FusedOptimizer):
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

    group_options = ("lr", "momentum", "dampening", "weight_decay")

    @refuse_switches
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
            ),
            treatment,
            weight_rounding,
            capturable,
        )

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        if any(payload_of(p).scales is not None for p in self.param_groups[-1]["params"]):
            del self.param_groups[-1]
            raise TypeError("params: int8 weights are updated by fastgrad.optim.AdamW; SGD expects float parameters")

    def _options(self) -> list:
        return [
            (group["momentum"] != 0, *own) for group, own in zip(self.param_groups, super()._options(), strict=True)
        ]

    def _hyper_row(self, group: dict) -> list:
        return [*(group[name] for name in _HYPER), 0.0]

    def _kept_state(self, p: Parameter, payload: Payload, group: dict) -> dict[str, Tensor] | None:
        buffer = self.state.get(p, {}).get("momentum_buffer")
        return None if buffer is None else {"momentum_buffer": buffer}

    def _new_state(self, parameter: Parameter, payload: Payload, group: dict) -> dict[str, Tensor]:
        return {"momentum_buffer": torch.empty_like(parameter)} if group["momentum"] else {}

    def _lists(self, plan: Plan) -> dict[str, list[Tensor]]:
        momenta = []
        if any(group["momentum"] for group in self.param_groups):
            for kept, payload in zip(plan.states, plan.payloads, strict=True):
                buffer = kept.get("momentum_buffer")
                # Of a group without momentum the buffer is a stand-in that is neither read nor kept.
                momenta.append(torch.empty_like(payload.memory) if buffer is None else local_of(buffer))
        return {"params": [payload.memory for payload in plan.payloads], "momenta": momenta}

    def _launch(self, plan: Plan, call: Call) -> Tensor:
        normalization, rest = self._treatment_arguments(plan, call)
        params, momenta = plan.lists["params"], plan.lists["momenta"]
        return launch(
            "sgd_step_", params,
            params, plan.grads, momenta, call.hyper, *normalization, *rest, call.offsets,
        )  # fmt: skip

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # of a torch.optim.SGD
            group.setdefault("decoupled_weight_decay", False)
            group.setdefault("maximize", False)
            group.setdefault("nesterov", False)
