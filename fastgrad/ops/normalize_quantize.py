"""normalize_ and normalize_quantize_: one affine map per tensor, and rounding to a format, in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgrad.ops import checks
from fastgrad.ops.engines import Engine, declare, launch
from fastgrad.ops.gradient_moments import gradient_moments
from fastgrad.ops.layout import changed, fresh, readable, written
from fastgrad.ops.sweeps import FORMATS, NORMALIZE, QUANTIZE, empty_table, reference_sweep
from fastgrad.reference.philox import DEFAULT_SEED, signed64

Alpha = str | Callable[[float, Tensor], float]
STATS = ("auto", "cached", "two_reads", "lagged")


def lagged_moments(stats: str, previous: Tensor | None, count: int) -> Tensor | None:
    """The table that ``stats="lagged"`` works from, or None for this call's own statistics."""
    checks.one_of("stats", stats, STATS)
    if previous is not None and stats != "lagged":
        raise ValueError(f"previous: only read with stats='lagged'; expected None with stats={stats!r}")
    checks.lagged_table(previous, count)
    return previous


def normalize_(
    tensors: Sequence[Tensor],  # each [...], float32, bfloat16 or float16; written
    method: str,
    *,
    eps: float = 1e-8,
    max_norm: float = 1.0,
    alpha: Alpha = "ratio_first",
    state: Tensor | None = None,  # float64 [2], written: the first and the largest sigma so far
    stats: str = "auto",
    previous: Tensor | None = None,  # float64 [T+1, 16], the last call's table
) -> Tensor:  # float64 [T+1, 16], docs/numerics.md section 10
    """Normalizes gradients in place: ``y = a * (x - c)`` with a and c per tensor.

    ============ =============================== ============================ ==================================
    method       a                               c                            source
    ============ =============================== ============================ ==================================
    centre       1                               mean(x)                      zero-centring, arXiv 2509.03677
    znorm        1 / (std(x) + eps)              mean(x)                      ZNorm, arXiv 2408.01215
    clip         min(1, max_norm/(norm + 1e-6))  0                            torch.nn.utils.clip_grad_norm_
    autoscale    alpha(sigma)                    mean(x)                      arXiv 2509.03677, our reading
    centralize   1                               mean of each dim-0 row       Gradient Centralization, 2004.01461
    ============ =============================== ============================ ==================================

    ``std`` is the population std (divisor n), ``norm`` and ``sigma`` the Euclidean norm and the std of all tensors
    of the call together, before centring. Tensors with fewer than two dimensions have no rows: centralize leaves
    them as they are. Statistics are over finite elements only; a NaN stays NaN (the canonical one).

    ``alpha``, the one factor of autoscale, is a named rule. The paper's formula could not be established; the
    default ``ratio_first`` = sigma_t / sigma_1 is *our reading* of it. Others: ``ratio_max`` = sigma_t / max sigma,
    ``sigma``, ``inverse_log`` = 1/(-log sigma), ``log`` = -log sigma, ``one_plus`` = 1 + sigma, ``one`` = 1; or any
    callable ``(sigma, state) -> float``. ``state`` carries the first and largest sigma from step to step; without
    it every call is a first step. ``given`` takes ``state[0]`` itself as the factor, and is refused without a state.

    ``stats`` says when a tensor's own statistics are made:

    - ``cached`` (= ``auto``): tensors are taken in groups that fit into the cache, each read once from memory: its
      statistics, then the rest from cache. Methods of the whole list (clip, autoscale) need all tensors first.
    - ``two_reads``: all statistics first, then the rest. Same bits.
    - ``lagged``: a and c come from ``previous``, while this call's moments are measured in the same, single pass.
      A different algorithm (statistics one step old); without ``previous`` the call uses its own.

    Returns the table of the call (moments of x, a, c, ...). Same bits on every backend and thread count.

    Errors: TypeError or ValueError naming the argument: unknown method (the message lists them), dtypes, sparse
    tensors, tensors that overlap, tensors that require grad outside no_grad.
    """
    return normalize_quantize_(
        tensors, method, "fp32", eps=eps, max_norm=max_norm, alpha=alpha, state=state, stats=stats, previous=previous
    )


def normalize_quantize_(
    tensors: Sequence[Tensor],  # each [...], float32, bfloat16 or float16; written
    method: str,
    format: str,
    *,
    eps: float = 1e-8,
    max_norm: float = 1.0,
    alpha: Alpha = "ratio_first",
    state: Tensor | None = None,  # float64 [2], written
    stats: str = "auto",
    previous: Tensor | None = None,  # float64 [T+1, 16]
    rounding: str = "stochastic",
    scale: str | None = None,
    block: int = 128,
    pow2: bool = False,
    seed: int = DEFAULT_SEED,
    step: int | Tensor = 0,
    slot: int = 0,
    ids: Sequence[int] | None = None,
    flags: Sequence[int] | None = None,
    skip_nonfinite: bool = False,
    offsets: Sequence[int] | None = None,  # of shards: where each begins in its whole tensor
) -> Tensor:  # float64 [T+1, 16]
    """Normalizes and rounds gradients in place, measuring the shrinkage, in one sweep.

        y = a * (x - c);   q = dequantize(quantize(y));   x <- q

    The map is that of :func:`normalize_` (``method="none"``: y = x), the rounding that of
    :func:`fastgrad.quantize`, with the values kept in the tensors' own dtype ("fake" quantization; a value that
    does not fit a bfloat16 or float16 tensor is rounded to nearest once more). ``q_k`` and the other measures
    follow from the returned table: see :mod:`fastgrad.shrinkage`.

    With ``stats="lagged"`` a per-tensor scale is made of the previous table's absmax (delayed scaling).

    step: a number, or an int64 tensor of one element, which a captured CUDA graph reads anew at every replay.

    flags: per tensor, NORMALIZE (1) | QUANTIZE (2), default both. A tensor without NORMALIZE counts in no statistics
    of the whole list. skip_nonfinite: a NaN or infinity in any tensor leaves all of them as they are, bit for bit;
    the ``nonfinite`` column of the table tells. Shards (``offsets``) take the noise of their whole tensor; nothing is
    measured then, ``previous`` with ``stats="lagged"`` brings the whole's table.
    """
    tensors = checks.tensor_list("tensors", tensors)
    checks.normalizer(method, "one" if callable(alpha) else alpha, state)
    checks.not_negative("eps", eps)
    checks.not_negative("max_norm", max_norm)
    checks.one_of("format", format, FORMATS)
    scale = default_scale(format) if scale is None else scale
    checks.quantizer(format, rounding, scale, block)
    checks.float_tensors("tensors", tensors)
    checks.not_differentiable("normalize_quantize_", "tensors", tensors)
    step, clock = step_and_clock(step, tensors)
    checks.noise(seed, step, slot, ids, len(tensors))
    checks.per_tensor("flags", flags, len(tensors), 4)
    state = checks.alpha_state(state, tensors)
    lagged = lagged_moments(stats, previous, len(tensors))
    checks.per_tensor("offsets", offsets, len(tensors), 2**62)
    checks.shards(offsets, method, scale, block, lagged, skip_nonfinite)
    checks.no_overlap({"tensors": tensors, "state": [state]})
    if not tensors:
        return reference_sweep([], flags=[])
    with torch.no_grad():
        alpha, state = resolve_alpha(tensors, method, alpha, state, lagged)
        return launch(
            "normalize_quantize_", tensors,
            tensors, flags, method, eps, max_norm, alpha, state, lagged, stats == "two_reads",
            format, rounding, scale, block, pow2, signed64(seed), step, clock, slot, "gradient", ids, skip_nonfinite,
            offsets,
        )  # fmt: skip


def default_scale(format: str) -> str:
    """No scale where the format has the range of gradients, else one per tensor."""
    return "none" if format in ("fp32", "bf16", "fp16") else "tensor"


def step_and_clock(step: int | Tensor, tensors: Sequence[Tensor]) -> tuple[int, Tensor | None]:
    """A step as the ops take it: a number, or one int64 in memory, on the device of the tensors or on the CPU."""
    if not isinstance(step, Tensor):
        return step, None
    if step.dtype != torch.int64 or step.numel() != 1:
        raise ValueError(f"step: expected an int64 tensor of one element, got {step.dtype} {list(step.shape)}")
    if tensors and step.device.type != "cpu" and step.device != tensors[0].device:
        raise ValueError(f"step: expected device {tensors[0].device}, got {step.device}")
    return 0, step


def resolve_alpha(
    tensors: Sequence[Tensor], method: str, alpha: Alpha, state: Tensor | None, lagged: Tensor | None
) -> tuple[str, Tensor]:
    """The name and state to hand to the sweep. A callable is asked here, with sigma and the state."""
    state = checks.alpha_state(state, tensors)
    if isinstance(alpha, str) or method != "autoscale":
        return (alpha if isinstance(alpha, str) else "one"), state
    everything = (gradient_moments(tensors) if lagged is None else lagged)[-1]
    n, m2 = float(everything[0]), float(everything[2])
    factor = float(alpha(math.sqrt(m2 / n) if n else 0.0, state))
    checks.not_negative("alpha", factor)
    return "given", torch.tensor([factor, 0.0], dtype=torch.float64, device=everything.device)


def _treat(
    engine: Engine,
    dense: list[Tensor],
    outs: list[Tensor],
    rows: list[int] | None,
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
    purpose: str,
    ids: list[int] | None,
    skip_nonfinite: bool,
    offsets: list[int] | None = None,
) -> Tensor:
    table = engine.sweep(
        dense,
        flags=[NORMALIZE | QUANTIZE] * len(dense) if flags is None else flags,
        rows=rows,
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
        purpose=purpose,
        ids=ids,
        skip_nonfinite=skip_nonfinite,
        outs=outs,
        **({} if offsets is None else {"offsets": offsets}),
    )
    changed([state])
    return table


def _in_place(engine: Engine, tensors: list[Tensor], flags: list[int] | None, method: str, *options: Any) -> Tensor:
    dense = readable(tensors, by_rows=method == "centralize")
    rows = checks.dim0_rows(tensors) if method == "centralize" else None
    table = _treat(engine, dense, dense, rows, flags, method, *options)
    written(tensors, dense)
    return table


def _out_of_place(
    engine: Engine, tensor: Tensor, flags: list[int] | None, method: str, *options: Any
) -> tuple[Tensor, Tensor]:
    dense = readable([tensor], by_rows=method == "centralize")
    out = torch.empty_like(dense[0])
    fresh([out])
    return out, _treat(engine, dense, [out], checks.dim0_rows([tensor]), flags, method, *(*options, False))


def _fake_in_place(tensors: list[Tensor], *options: Any) -> Tensor:
    return empty_table(len(tensors), tensors[0].device)


def _fake(tensor: Tensor, flags: list[int] | None, method: str, *options: Any) -> tuple[Tensor, Tensor]:
    (dense,) = readable([tensor], by_rows=method == "centralize")
    return torch.empty_like(dense), empty_table(1, tensor.device)


# clock: a step in memory, int64 [1], which a compiled or captured graph reads anew; `step` is then not used.
_ARGUMENTS = (
    "int[]? flags, str method, float eps, float max_norm, str alpha, Tensor({}!) state, Tensor? lagged, "
    "bool two_reads, str format, str rounding, str scale, int block, bool pow2, SymInt seed, SymInt step, "
    "Tensor? clock, SymInt slot, str purpose, int[]? ids"
)
declare(
    f"normalize_quantize_(Tensor(a!)[] tensors, {_ARGUMENTS.format('b')}, bool skip_nonfinite, "
    "int[]? offsets=None) -> Tensor",
    _in_place,
    _fake_in_place,
)
# Of one tensor, for backward passes.
declare(
    f"normalize_quantize(Tensor tensor, {_ARGUMENTS.format('a')}) -> (Tensor out, Tensor table)",
    _out_of_place,
    _fake,
)
