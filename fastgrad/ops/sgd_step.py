"""sgd_step_: normalize, quantize, measure, decay, momentum and update of a whole list in one sweep."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgrad.ops import checks
from fastgrad.ops.engines import Engine, declare
from fastgrad.ops.layout import all_contiguous, changed, readable, same_layout, written
from fastgrad.ops.normalize_quantize import step_and_clock
from fastgrad.ops.sweeps import WEIGHT_ROUNDINGS, empty_table, reference_sweep
from fastgrad.reference.philox import DEFAULT_SEED, signed64


def sgd_step_(
    params: list[Tensor],  # each [...], float32, bfloat16 or float16; written
    grads: list[Tensor],  # the same shapes; float types
    momenta: list[Tensor],  # the same shapes, or empty: no momentum; written
    hyper: Tensor,  # float64 [G, 8]: lr, momentum, dampening, weight_decay, nesterov, decoupled, maximize, 0
    *,
    groups: list[int] | None = None,  # row of `hyper` of every tensor; default 0
    flags: list[int] | None = None,  # NORMALIZE 1 | QUANTIZE 2 | FIRST 4 of every tensor; default 3
    method: str = "none",
    eps: float = 1e-8,
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
    weight_rounding: str = "nearest",
    offsets: list[int] | None = None,  # of shards: where each begins in its whole tensor
) -> Tensor:  # float64 [T+1, 16]
    """One step of SGD on treated gradients (float32 arithmetic, no FMA; docs/numerics.md, section 9)::

        g = quantize(a * (grad * inv_scale - c))     normalize_quantize_'s; the gradient itself is not written
        d = g + weight_decay * p                     coupled decay
        m = momentum * m + (1 - dampening) * d       m = d at a tensor's FIRST step
        u = d + momentum * m  (nesterov)  or  m
        p = p * (1 - lr * weight_decay) - lr * k * u    decoupled decay; k: compensation factor, 1 by default

    hyper, factors and step (an int64 tensor of one element) are read by the kernel where they are on a CUDA device, so
    that a captured graph follows them. ``lr`` is per step. bfloat16 and float16 parameters are stored rounded to
    nearest, or stochastically with noise of their own (``weight_rounding="stochastic"``). With ``skip_nonfinite`` a NaN
    or infinity in any gradient leaves every parameter and buffer untouched, bit for bit; the table's ``nonfinite``
    tells. Shards (``offsets``) take the noise of their whole tensor; nothing is measured then, ``lagged`` brings the
    whole's table.

    Reads g once (twice where statistics are needed first and do not fit the cache), p and m once, writes p and m
    once. Low-level: :class:`fastgrad.optim.SGD` is what training code uses.
    """
    checks.normalizer(method, alpha, state)
    checks.quantizer(format, rounding, scale, block)
    checks.one_of("weight_rounding", weight_rounding, WEIGHT_ROUNDINGS)
    count = len(params)
    for name, tensors in (("params", params), ("grads", grads), *([("momenta", momenta)] if momenta else [])):
        checks.float_tensors(name, tensors, params[0].device if params else None)
        if len(tensors) != count:
            raise ValueError(f"{name}: expected {count} tensors, as many as params, got {len(tensors)}")
        _check_shapes(name, tensors, params)
    checks.not_differentiable("sgd_step_", "params", params)
    checks.hyper_rows(hyper, groups, count)
    if not momenta and hyper.device.type == "cpu" and bool((hyper[:, 1] != 0).any()):
        raise ValueError("momenta: expected buffers, because hyper has a momentum")
    checks.per_tensor("flags", flags, count, 8)
    step, clock = step_and_clock(step, params)
    checks.noise(seed, step, slot, ids, count)
    checks.not_negative("eps", eps)
    checks.not_negative("max_norm", max_norm)
    checks.lagged_table(lagged, count)
    checks.shards(offsets, method, scale, block, lagged, skip_nonfinite)
    state = checks.alpha_state(state, params)
    if count == 0:
        return reference_sweep([], flags=[])
    checks.no_overlap({"params": params, "momenta": momenta, "state": [state]}, {"grads": grads})
    with torch.no_grad():
        return torch.ops.fastgrad.sgd_step_(
            params, grads, momenta, hyper, groups, flags, method, eps, max_norm, alpha, state, lagged, two_reads,
            format, rounding, scale, block, pow2, signed64(seed), step, clock, slot, ids, factors, inv_scale,
            measure and offsets is None, skip_nonfinite, weight_rounding, offsets,
        )  # fmt: skip


def _check_shapes(name: str, tensors: list[Tensor], params: list[Tensor]) -> None:
    for i, (t, p) in enumerate(zip(tensors, params, strict=True)):
        if t.shape != p.shape:
            raise ValueError(f"{name}[{i}]: expected the shape of params[{i}], {list(p.shape)}; got {list(t.shape)}")


def _implementation(
    engine: Engine,
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    hyper: Tensor,
    groups: list[int] | None,
    flags: list[int] | None,
    method: str,
    eps: float,
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
    offsets: list[int] | None = None,
) -> Tensor:
    dense_p, dense_g, dense_m = params, grads, momenta
    if not all_contiguous(params, grads, momenta):
        # All three share one storage order, that of the parameter; what differs is copied.
        dense_p = readable(params, by_rows=method == "centralize")
        dense_g = [same_layout(g, p) for g, p in zip(grads, dense_p, strict=True)]
        dense_m = [same_layout(m, p) for m, p in zip(momenta, dense_p, strict=True)] if momenta else []
    table = engine.sweep(
        dense_g,
        flags=[3] * len(params) if flags is None else flags,
        rows=checks.dim0_rows(params) if method == "centralize" else None,
        params=dense_p,
        momenta=dense_m or None,
        hyper=hyper,
        groups=groups,
        method=method,
        eps=eps,
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
        **({} if offsets is None else {"offsets": offsets}),
    )
    written(params, dense_p)
    if momenta:
        written(momenta, dense_m)
    changed([state])
    return table


def _fake(params: list[Tensor], *arguments: object) -> Tensor:
    return empty_table(len(params), params[0].device)


declare(
    "sgd_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momenta, Tensor hyper, int[]? groups, int[]? flags, "
    "str method, float eps, float max_norm, str alpha, Tensor(c!) state, Tensor? lagged, bool two_reads, str format, "
    "str rounding, str scale, int block, bool pow2, SymInt seed, SymInt step, Tensor? clock, SymInt slot, int[]? ids, "
    "Tensor? factors, float inv_scale, bool measure, bool skip_nonfinite, str weight_rounding, int[]? offsets=None) "
    "-> Tensor",
    _implementation,
    _fake,
)
