"""AdamW in few bytes per parameter, on normalized, stochastically rounded gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from fastgrad.ops import checks
from fastgrad.ops.checks import is_dense, rows_are_outermost
from fastgrad.ops.engines import launch
from fastgrad.ops.normalize_quantize import Alpha
from fastgrad.ops.state_layout import PACKED_FORMATS, check_states
from fastgrad.ops.sweeps import BLOCKS
from fastgrad.optim.fused import Call, FusedOptimizer, Plan
from fastgrad.optim.payload import Payload, local_of, none_like, payload_of
from fastgrad.optim.sharding import empty_state
from fastgrad.optim.switches import refuse_switches
from fastgrad.optim.treatment import Eligible, Treatment
from fastgrad.reference.philox import DEFAULT_SEED

STATE_FORMATS = ("fp32", "bf16", "fp16", "int8", "fp8_e4m3", "fp8_e5m2", "int4", "fp4_e2m1")
_PLAIN = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Squares of gradients below 2e-4 are below fp16's smallest number: stored there, denominators would become zero.
_PLAIN_SQUARES = {**_PLAIN, "fp16": torch.bfloat16}
_CODES = {"int8": torch.int8, "fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
_ORDER = "storage_order"
_FIRST_MOMENT = {"exp_avg", "exp_avg_scale"}
SMALLEST_QUANTIZED = 4096  # elements; what has fewer costs nothing in float32


class AdamW(FusedOptimizer):
    """A drop-in for ``torch.optim.AdamW`` whose states and weights may be of few bits, in one native call a step.

        g = quantize(a * (grad - c));  m = m + (1 - beta1) (g - m);  v = v + (1 - beta2) (g*g - v)
        p = p - lr k m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) - lr weight_decay p

    (Loshchilov & Hutter, arXiv 1711.05101; docs/numerics.md, sections 12 and 13.) With the defaults it is torch's AdamW
    in float32, and their state_dicts load into each other.

    Memory per parameter, beside the weight itself (gradients: :func:`fastgrad.release_gradients`):

    ==================== ============================ ============================
    ``state_format``     first moment                 second moment
    ==================== ============================ ============================
    fp32                 4 bytes                      4 bytes
    bf16                 2                            2
    fp16                 2                            2 (bf16, as squares do not fit fp16's range)
    int8, fp8_e4m3, _e5m2 1 + 4/block                 1 + 4/block (its root, 8 bits)
    int4, fp4_e2m1       0.5 + 4/block                0.5 + 4/block (its root, 4 bits)
    ``factored=True``                                 4/rows + 4/columns
    ``betas=(0, beta2)`` none
    ==================== ============================ ============================

    state_format: how both moments are kept; what is narrower than float32 is rounded stochastically. In blocks only for
        weights of two or more dimensions and at least 4,096 elements whose dim-0 rows are whole multiples of 16; what
        else there is stays float32. ``state_block`` is the largest block; a weight takes the largest of 256, 128, 64,
        32 and 16 up to it that divides its rows.
    factored: the second moment of such weights as means over rows and columns (Adafactor, arXiv 1804.04235).
    weight_rounding: how bfloat16, float16 and int8 weights (:func:`fastgrad.quantize_weights_`) are stored:
        ``stochastic``, which keeps steps that are smaller than a gap in expectation and needs no float32 copy, or
        ``nearest``.
    capturable: as of :class:`fastgrad.optim.SGD`.

    normalize, alpha, norm_eps, max_norm, grad_format, rounding, scale, block, pow2, stats, nonfinite, compensate,
    eligible, seed: gradient treatment, as of :class:`fastgrad.optim.SGD` (``norm_eps`` is its ``eps``). ``nonfinite``
    is ``propagate`` by default, but ``skip`` with int8 weights, whose codes have no NaN.
    """

    group_options = ("lr", "betas", "eps", "weight_decay")
    copied = (*FusedOptimizer.copied, "state_format", "state_block", "factored", "_given_nonfinite")

    @refuse_switches
    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
        state_format: str = "fp32",
        state_block: int = 128,
        factored: bool = False,
        weight_rounding: str = "stochastic",
        normalize: str | None = None,
        alpha: Alpha = "ratio_first",
        norm_eps: float = 1e-8,
        max_norm: float = 1.0,
        grad_format: str | None = None,
        rounding: str = "stochastic",
        scale: str | None = None,
        block: int = 128,
        pow2: bool = False,
        stats: str = "auto",
        nonfinite: str | None = None,
        compensate: str | None = None,
        eligible: Eligible | None = None,
        capturable: bool = False,
        seed: int = DEFAULT_SEED,
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)
        self._check_group("", defaults)
        checks.one_of("state_format", state_format, STATE_FORMATS)
        checks.one_of("state_block", state_block, BLOCKS)
        self.state_format, self.state_block, self.factored = state_format, state_block, factored
        self._given_nonfinite = nonfinite
        treatment = Treatment(
            normalize=normalize,
            alpha=alpha,
            eps=norm_eps,
            max_norm=max_norm,
            grad_format=grad_format,
            rounding=rounding,
            scale=scale,
            block=block,
            pow2=pow2,
            stats=stats,
            nonfinite=nonfinite or "propagate",
            compensate=compensate,
            eligible=eligible,
            seed=seed,
        )
        super().__init__(params, defaults, treatment, weight_rounding, capturable)

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        if any(payload_of(p).scales is not None for p in self.param_groups[-1]["params"]):
            if self.capturable:
                del self.param_groups[-1]
                raise ValueError("capturable: steps of int8 weights are skipped by the host; expected capturable=False")
            if self._given_nonfinite == "propagate":
                del self.param_groups[-1]
                raise ValueError("nonfinite: int8 weights cannot hold a NaN; expected 'skip' or 'error'")
            self.treatment = self.treatment.with_nonfinite(self._given_nonfinite or "skip")

    def block_of(self, parameter: Tensor) -> int:
        """Elements of a block of the parameter's states; 0 where they are float32."""
        if parameter.dim() < 2 or parameter.numel() < SMALLEST_QUANTIZED:
            return 0
        length = parameter.numel() // parameter.shape[0]
        return next((b for b in sorted(BLOCKS, reverse=True) if b <= self.state_block and length % b == 0), 0)

    def memory(self) -> dict[str, float]:
        """Bytes per parameter that are kept from step to step on this rank: weights, states, and both together."""
        owned = [payload_of(p) for group in self.param_groups for p in group["params"]]
        weights = sum(t.nbytes for payload in owned for t in (payload.memory, payload.scales) if t is not None)
        states = sum(local_of(t).nbytes for s in self.state.values() for t in s.values() if isinstance(t, Tensor))
        count = max(sum(payload.memory.numel() for payload in owned), 1)
        return {"weights": weights / count, "states": states / count, "persistent": (weights + states) / count}

    def _check_group(self, name: str, group: dict) -> None:
        prefix = f"{name}: " if name else ""
        for option in ("lr", "eps", "weight_decay"):
            if not float(group[option]) >= 0.0:
                raise ValueError(f"{prefix}{option}: expected a number >= 0, got {group[option]}")
        for i, beta in enumerate(group["betas"]):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"{prefix}betas[{i}]: expected a number in [0, 1), got {beta}")
        # What groups of torch's Adam and AdamW say of them.
        if group.get("amsgrad"):
            raise ValueError(f"{prefix}amsgrad: expected False; no largest second moment is kept")
        if not group.get("decoupled_weight_decay", True) and group["weight_decay"]:
            raise ValueError(f"{prefix}decoupled_weight_decay: expected True; Adam's decay is not that of AdamW")

    def _options(self) -> list:
        return [
            (group["betas"][0] != 0, *own) for group, own in zip(self.param_groups, super()._options(), strict=True)
        ]

    def _hyper_row(self, group: dict) -> list:
        beta1, beta2 = group["betas"]
        return [group["lr"], beta1, beta2, group["eps"], group["weight_decay"], group["maximize"], 0.0, 0.0]

    def _kept_state(self, p: Parameter, payload: Payload, group: dict) -> dict[str, Tensor] | None:
        kept = super()._kept_state(p, payload, group)
        if kept is None:
            return None
        _check_order("states", p, kept)
        if group["betas"][0] == 0.0:  # where it once was not
            for name in _FIRST_MOMENT & kept.keys():
                del kept[name], self.state[p][name]
        elif "exp_avg" not in kept:  # where beta1 once was 0
            made = {k: v for k, v in self._new_state(p, payload, group).items() if k in _FIRST_MOMENT}
            for t in map(local_of, made.values()):
                t.view(torch.uint8).zero_() if t.dtype in _CODES.values() else t.zero_()
            kept.update(made)
            self.state[p].update(made)
        return kept

    def _accepted_state(self, name: str, p: Parameter, state: dict, group: dict) -> dict:
        _check_order(f"state_dict: {name}", p, state)
        # torch keeps one also where beta1 = 0: the last gradient.
        dropped = () if group["betas"][0] else _FIRST_MOMENT
        return {key: value for key, value in state.items() if key not in dropped}

    def _new_state(self, parameter: Parameter, payload: Payload, group: dict) -> dict[str, Tensor]:
        block = self.block_of(parameter)
        state = {"step": torch.zeros((), dtype=torch.float32, device="cpu")}
        rows = parameter.shape[0] if parameter.dim() > 1 else 1
        columns = parameter.numel() // rows if rows else 0

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return empty_state(parameter, shape, dtype)

        def whole(name: str, dtypes: dict[str, torch.dtype]) -> None:
            """The parameter's own shape and layout."""
            dtype = dtypes.get(self.state_format, torch.float32)
            state[name] = torch.empty_like(local_or_self(parameter, payload), dtype=dtype)

        packed = self.state_format in PACKED_FORMATS
        factored = self.factored and parameter.dim() > 1 and parameter.numel() >= SMALLEST_QUANTIZED
        order = storage_order(parameter)
        if order is not None and (factored or (block and self.state_format not in _PLAIN)):
            state[_ORDER] = order
        if group["betas"][0] != 0.0:
            if block and self.state_format not in _PLAIN:
                dtype = torch.uint8 if packed else _CODES[self.state_format]
                state["exp_avg"] = empty(rows, columns // 2 if packed else columns, dtype=dtype)
                state["exp_avg_scale"] = empty(rows, columns // block)
            else:
                whole("exp_avg", _PLAIN)
        if factored:
            state["exp_avg_sq_row"] = empty(rows)
            state["exp_avg_sq_col"] = empty_state(parameter, (columns,), torch.float32, whole=True)
        elif block and self.state_format not in _PLAIN:
            state["exp_avg_sq"] = empty(rows, columns // 2 if packed else columns, dtype=torch.uint8)
            state["exp_avg_sq_scale"] = empty(rows, columns // block)
        else:
            whole("exp_avg_sq", _PLAIN_SQUARES)
        return state

    def _lists(self, plan: Plan) -> dict[str, list[Tensor]]:
        names = ("params", "param_scales", "exp_avgs", "exp_avg_scales", "exp_avg_sqs", "exp_avg_sq_scales")
        lists: dict[str, list[Tensor]] = {name: [] for name in names}
        for kept, payload in zip(plan.states, plan.payloads, strict=True):
            none = none_like(payload.memory)
            own = {name: local_of(value) for name, value in kept.items()}
            lists["params"].append(payload.memory)
            lists["param_scales"].append(none if payload.scales is None else payload.scales)
            lists["exp_avgs"].append(own.get("exp_avg", none))
            lists["exp_avg_scales"].append(own.get("exp_avg_scale", none))
            lists["exp_avg_sqs"].append(own["exp_avg_sq_row"] if "exp_avg_sq_row" in own else own["exp_avg_sq"])
            lists["exp_avg_sq_scales"].append(own.get("exp_avg_sq_col", own.get("exp_avg_sq_scale", none)))
        lists["none"] = [none_like(payload.memory) for payload in plan.payloads]
        # The op itself believes what it is told, and users can replace states.
        check_states(
            lists["params"],
            {**lists, "grads": lists["params"], "row_sums": lists["none"], "column_sums": lists["none"]},
            torch.tensor([[0.0, *group["betas"]] for group in self.param_groups], dtype=torch.float64, device="cpu"),
            plan.groups,
            "all",
        )
        lists["steps"] = [kept["step"] for kept in plan.states]
        return lists

    def _launch(self, plan: Plan, call: Call) -> Tensor:
        lists, sharded = plan.lists, call.sharded
        normalization, rest = self._treatment_arguments(plan, call)
        # The op adds the clock to these.
        passed = 0 if call.clock is None else self._progress.step
        ages = [int(steps) + 1 - passed for steps in map(Tensor.item, lists["steps"])]
        packed_format = self.state_format if self.state_format == "fp4_e2m1" else "int4"

        def run(phase: str, row_sums: list[Tensor], column_sums: list[Tensor]) -> Tensor:
            return launch(
                "adamw_step_", lists["params"],
                lists["params"], lists["param_scales"], plan.grads, lists["exp_avgs"], lists["exp_avg_scales"],
                lists["exp_avg_sqs"], lists["exp_avg_sq_scales"], row_sums, column_sums, call.hyper, ages,
                packed_format, *normalization, *rest, call.offsets,
                None if sharded is None else sharded.whole_rows, phase,
                None if sharded is None else sharded.bounds,
            )  # fmt: skip

        if sharded is None or not self.factored:
            return run("all", lists["none"], lists["none"])
        row_sums, column_sums = sharded.empty_sums(plan.states, [payload.rows for payload in plan.payloads])
        run("sums", row_sums, column_sums)
        sharded.add_over_ranks(column_sums)
        return run("update", row_sums, column_sums)

    def _taken(self, plan: Plan, steps: int = 1) -> None:
        taken = plan.lists["steps"]
        if not taken[0].is_cpu:
            torch._foreach_add_(taken, steps)
            return
        # As torch's own optimizers do, four times as fast as adding a number: that would be converted for each of them.
        torch._foreach_add_(taken, torch.tensor(float(steps), dtype=torch.float32, device="cpu"), alpha=1.0)

    def __repr__(self) -> str:
        blocks = "" if self.state_format in _PLAIN else f" in blocks of {self.state_block}"
        factored = ", second moments factored" if self.factored else ""
        return f"{super().__repr__()[:-1]}    states: {self.state_format}{blocks}{factored}\n)"

    def _format(self) -> dict:
        return {"state_format": self.state_format, "factored": self.factored}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # of a torch.optim.AdamW
            group.setdefault("maximize", False)


def storage_order(parameter: Tensor) -> Tensor | None:
    """Dims from the outermost in memory, where that is not their own order (channels_last): that of codes and means."""
    if parameter.is_contiguous() or not (is_dense(parameter) and rows_are_outermost(parameter)):
        return None
    longer = [d for d in range(parameter.dim()) if parameter.shape[d] > 1]
    return torch.tensor(sorted(longer, key=parameter.stride, reverse=True), device="cpu")


def _check_order(name: str, p: Tensor, state: dict) -> None:
    """Refuses codes and means of another storage order than the parameter has now."""
    if not {"exp_avg_scale", "exp_avg_sq_scale", "exp_avg_sq_row"} & state.keys():
        return
    now, then = (None if t is None else t.tolist() for t in (storage_order(p), state.get(_ORDER)))
    if now != then:
        raise ValueError(
            f"{name}: lie in the order of a parameter {'that is contiguous' if then is None else f'with dims {then}'} "
            f"in memory (its memory format), got one of shape {list(p.shape)} with strides {p.stride()}"
        )


def local_or_self(parameter: Tensor, payload: Payload) -> Tensor:
    """What a state of the parameter's own shape is like: the parameter, or, where that is int8 codes, the codes."""
    return parameter if payload.scales is None else payload.memory
