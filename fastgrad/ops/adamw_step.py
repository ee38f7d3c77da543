"""adamw_step_: normalize, quantize, measure and AdamW of a whole list in one call, on states of few bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgrad.ops import checks
from fastgrad.ops.engines import Engine, declare
from fastgrad.ops.layout import all_contiguous, changed, readable, same_layout, written
from fastgrad.ops.normalize_quantize import step_and_clock
from fastgrad.ops.state_layout import PACKED_FORMATS, check_states
from fastgrad.ops.sweeps import PHASES, WEIGHT_ROUNDINGS, empty_table, reference_sweep
from fastgrad.reference.adamw import States
from fastgrad.reference.philox import DEFAULT_SEED, signed64


def adamw_step_(
    params: list[Tensor],  # each [...], float32, bfloat16 or float16, or int8 codes with scales; written
    grads: list[Tensor],  # the same shapes; float types
    exp_avgs: list[Tensor],  # first moments (see below), written; empty where beta1 = 0
    exp_avg_scales: list[Tensor],  # float32 [n / block] or empty; written
    exp_avg_sqs: list[Tensor],  # second moments (see below), written
    exp_avg_sq_scales: list[Tensor],  # float32 [n / block], means of the columns, or empty; written
    hyper: Tensor,  # float64 [G, 8]: lr, beta1, beta2, eps, weight_decay, maximize, 0, 0
    *,
    ages: list[int],  # t of every tensor, 1 at its first step; a clock is added to it
    param_scales: list[Tensor] | None = None,  # float32 [n / block] of int8 parameters, else empty; written
    packed_format: str = "int4",  # of first moments in uint8: int4 or fp4_e2m1
    groups: list[int] | None = None,  # row of `hyper` of every tensor; default 0
    flags: list[int] | None = None,  # NORMALIZE 1 | QUANTIZE 2 | FIRST 4 of every tensor; default 3
    method: str = "none",
    norm_eps: float = 1e-8,
    max_norm: float = 1.0,
    alpha: str = "ratio_first",
    state: Tensor | None = None,  # float64 [2], written
    lagged: Tensor | None = None,  # float64 [T+1, 16]: the previous table
    two_reads: bool = False,
    format: str = "fp32",
    rounding: str = "stochastic",
    scale: str = "none",
    block: int = 128,
    pow2: bool = False,
    seed: int = DEFAULT_SEED,
    step: int | Tensor = 0,
    slot: int = 0,
    ids: list[int] | None = None,
    factors: Tensor | None = None,  # float64 [T]: k of every tensor
    inv_scale: float = 1.0,
    measure: bool = True,
    skip_nonfinite: bool = False,
    weight_rounding: str = "stochastic",
    offsets: list[int] | None = None,  # of shards: where each begins in its whole tensor
    whole_rows: list[int] | None = None,  # of shards: dim-0 rows of the whole tensor
    phase: str = "all",
    row_sums: list[Tensor] | None = None,  # float64 [R] of factored tensors, else empty; written by "sums"
    column_sums: list[Tensor] | None = None,  # float64 [C], likewise
    bounds: list[float] | None = None,  # the largest |gradient| of the whole tensor, after normalization
) -> Tensor:  # float64 [T+1, 16]
    """One step of AdamW on treated gradients (float32, no FMA; docs/numerics.md, sections 12 and 13)::

        g = quantize(a * (grad * inv_scale - c))               normalize_quantize_'s; the gradient is not written
        m = m + (1 - beta1) * (g - m)                          no m where beta1 = 0: then m = g
        v = v + (1 - beta2) * (g*g - v)
        p = p - (lr k / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps) + lr weight_decay p)

    (Loshchilov & Hutter, arXiv 1711.05101.) How a state is kept follows from its tensor:

    first moment: the parameter's shape in float32, bfloat16 or float16; or codes of n elements in int8,
        float8_e4m3fn, float8_e5m2, or packed two to a byte in uint8 (``packed_format``), with one float32 scale for
        every ``n / len(scales)`` elements.
    second moment: the parameter's shape in float32, bfloat16 or float16; or codes of its *root* in uint8, n bytes
        (8 bits each) or n / 2 (4 bits), with scales; or float32 means of the squares of the rows [R] with those of the
        columns [C] in the place of scales: Adafactor's rank-one estimate (arXiv 1804.04235) of the normalized gradient.
    parameter: float32, bfloat16, float16 (rounded by ``weight_rounding``), or int8 codes with scales.

    Blocks are of 16, 32, 64, 128 or 256 elements and do not cross dim-0 rows. What is kept in fewer bits than float32
    is rounded stochastically, each with noise of its own; the step is taken before that. With ``skip_nonfinite`` a NaN
    or infinity in any gradient leaves everything untouched, bit for bit; the table's ``nonfinite`` tells.

    Shards (``offsets``) take the noise of their whole tensor. Nothing is measured then: ``lagged`` brings the whole's
    table. ``phase="sums"`` only makes ``row_sums`` and ``column_sums`` (exact, so that they can be added over ranks in
    any order), ``"update"`` takes the step with them.

    Low-level: :class:`fastgrad.optim.AdamW` is what training code uses.
    """
    checks.normalizer(method, alpha, state)
    checks.quantizer(format, rounding, scale, block)
    checks.one_of("weight_rounding", weight_rounding, WEIGHT_ROUNDINGS)
    checks.one_of("packed_format", packed_format, PACKED_FORMATS)
    checks.one_of("phase", phase, PHASES)
    count = len(params)
    device = params[0].device if params else None
    checks.float_tensors("grads", grads, device)
    checks.hyper_rows(hyper, groups, count)
    empty = [torch.empty(0, dtype=torch.float32, device=device)] * count
    lists = {
        "grads": grads,
        "param_scales": param_scales or empty,
        "exp_avgs": exp_avgs,
        "exp_avg_scales": exp_avg_scales,
        "exp_avg_sqs": exp_avg_sqs,
        "exp_avg_sq_scales": exp_avg_sq_scales,
        "row_sums": row_sums or empty,
        "column_sums": column_sums or empty,
    }
    for name, tensors in lists.items():
        if len(tensors) != count:
            raise ValueError(f"{name}: expected {count} tensors, as many as params, got {len(tensors)}")
    check_states(params, lists, hyper, groups, phase)
    checks.not_differentiable("adamw_step_", "params", params)
    checks.per_tensor("flags", flags, count, 8)
    for name, values in (("ages", ages), ("offsets", offsets), ("whole_rows", whole_rows), ("bounds", bounds)):
        if values is not None and len(values) != count:
            raise ValueError(f"{name}: expected {count} numbers, one per tensor, got {len(values)}")
    step, clock = step_and_clock(step, params)
    if clock is None and any(age < 1 for age in ages):
        raise ValueError(f"ages: expected numbers >= 1, got {min(ages)}")
    checks.noise(seed, step, slot, ids, count)
    checks.not_negative("norm_eps", norm_eps)
    checks.not_negative("max_norm", max_norm)
    checks.lagged_table(lagged, count)
    checks.shards(offsets, method, scale, block, lagged, skip_nonfinite)
    state = checks.alpha_state(state, params)
    if count == 0:
        return reference_sweep([], flags=[])
    written_lists = {name: tensors for name, tensors in lists.items() if name != "grads"}
    checks.no_overlap({"params": params, "state": [state], **written_lists}, {"grads": grads})
    with torch.no_grad():
        return torch.ops.fastgrad.adamw_step_(
            params, lists["param_scales"], grads, exp_avgs, exp_avg_scales, exp_avg_sqs, exp_avg_sq_scales,
            lists["row_sums"], lists["column_sums"], hyper, ages, packed_format, groups, flags, method, norm_eps,
            max_norm, alpha, state, lagged, two_reads, format, rounding, scale, block, pow2, signed64(seed), step,
            clock, slot, ids, factors, inv_scale, measure and offsets is None, skip_nonfinite, weight_rounding, offsets,
            whole_rows, phase, bounds,
        )  # fmt: skip


def _dense_states(states: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """States of the parameter's shape share its storage order; codes and factors are vectors of their own."""
    return [same_layout(s, p) if s.shape == p.shape else s for s, p in zip(states, params, strict=True)]


def _implementation(
    engine: Engine,
    params: list[Tensor],
    param_scales: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_scales: list[Tensor],
    exp_avg_sqs: list[Tensor],
    exp_avg_sq_scales: list[Tensor],
    row_sums: list[Tensor],
    column_sums: list[Tensor],
    hyper: Tensor,
    ages: list[int],
    packed_format: str,
    groups: list[int] | None,
    flags: list[int] | None,
    method: str,
    norm_eps: float,
    max_norm: float,
    alpha: str,
    state: Tensor,
    lagged: Tensor | None,
    two_reads: bool,
    format: str,
    rounding: str,
    scale: str,
    block: int,
    pow2: bool,
    seed: int,
    step: int,
    clock: Tensor | None,
    slot: int,
    ids: list[int] | None,
    factors: Tensor | None,
    inv_scale: float,
    measure: bool,
    skip_nonfinite: bool,
    weight_rounding: str,
    offsets: list[int] | None,
    whole_rows: list[int] | None,
    phase: str,
    bounds: list[float] | None,
) -> Tensor:
    dense_p, dense_g, dense_m, dense_v = params, grads, exp_avgs, exp_avg_sqs
    if not all_contiguous(params, grads, exp_avgs, exp_avg_sqs):
        dense_p = readable(params, by_rows=True)
        dense_g = [same_layout(g, p) for g, p in zip(grads, dense_p, strict=True)]
        dense_m, dense_v = _dense_states(exp_avgs, dense_p), _dense_states(exp_avg_sqs, dense_p)
    states = States(
        param_scales=param_scales,
        exp_avgs=dense_m,
        exp_avg_scales=exp_avg_scales,
        exp_avg_sqs=dense_v,
        exp_avg_sq_scales=exp_avg_sq_scales,
        ages=ages,
        packed_format=packed_format,
        phase=phase,
        row_sums=row_sums,
        column_sums=column_sums,
        bounds=bounds,
        whole_rows=whole_rows,
    )
    by_rows = method == "centralize" or any(map(Tensor.numel, exp_avg_sq_scales))  # some may be means of columns
    table = engine.sweep(
        dense_g,
        flags=[3] * len(params) if flags is None else flags,
        rows=checks.dim0_rows(params) if by_rows else None,
        params=dense_p,
        states=states,
        hyper=hyper,
        groups=groups,
        method=method,
        eps=norm_eps,
        max_norm=max_norm,
        alpha=alpha,
        state=state,
        lagged=lagged,
        two_reads=two_reads,
        format=format,
        rounding=rounding,
        scale=scale,
        block=block,
        pow2=pow2,
        seed=seed,
        step=step if clock is None else clock,
        slot=slot,
        ids=ids,
        factors=factors,
        inv_scale=inv_scale,
        measure=measure,
        skip_nonfinite=skip_nonfinite,
        weight_rounding=weight_rounding,
        offsets=offsets,
    )
    written(params, dense_p)
    written(exp_avgs, dense_m)
    written(exp_avg_sqs, dense_v)
    for tensors in (param_scales, exp_avg_scales, exp_avg_sq_scales, row_sums, column_sums, [state]):
        changed(tensors)
    return table


def _fake(params: list[Tensor], *arguments: object) -> Tensor:
    return empty_table(len(params), params[0].device)


declare(
    "adamw_step_(Tensor(a!)[] params, Tensor(b!)[] param_scales, Tensor[] grads, Tensor(c!)[] exp_avgs, "
    "Tensor(d!)[] exp_avg_scales, Tensor(e!)[] exp_avg_sqs, Tensor(f!)[] exp_avg_sq_scales, Tensor(g!)[] row_sums, "
    "Tensor(h!)[] column_sums, Tensor hyper, int[] ages, str packed_format, int[]? groups, int[]? flags, str method, "
    "float norm_eps, float max_norm, str alpha, Tensor(i!) state, Tensor? lagged, bool two_reads, str format, "
    "str rounding, str scale, int block, bool pow2, SymInt seed, SymInt step, Tensor? clock, SymInt slot, int[]? ids, "
    "Tensor? factors, float inv_scale, bool measure, bool skip_nonfinite, str weight_rounding, int[]? offsets, "
    "int[]? whole_rows, str phase, float[]? bounds) -> Tensor",
    _implementation,
    _fake,
)
