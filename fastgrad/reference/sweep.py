"""One sweep over a list of tensors: sections 7, 10 and 11 of docs/numerics.md put together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import normalizers
from . import scales as scaling
from .adamw import Hyper as AdamwHyper
from .adamw import States, adamw
from .factored import Factored, sums_of_squares
from .formats import FLT_MAX, ROUNDINGS, Format, decode, encode, f32, get_format, store_codes, store_float
from .moments import add, empty_moments, merge_all, moments, row_moments, shrinkage_sums, tree
from .philox import DEFAULT_SEED, noise16
from .sgd import Hyper, sgd

NORMALIZE, QUANTIZE, FIRST = 1, 2, 4
SCALES = ("none", "tensor", "block")

# The columns of the table (section 10)
COLUMNS = 16
N, MEAN, M2, MIN, MAX, NONFINITE, A, C = range(8)
SUM_YY, SUM_YQ, SUM_QQ, ZEROED, SATURATED, SCALE, ABSMAX, K = range(8, 16)


def sweep(
    grads: list[Tensor],
    *,
    flags: list[int],
    rows: list[int] | None = None,
    method: str = "none",
    eps: float = 1e-8,
    max_norm: float = 1.0,
    alpha: str = "ratio_first",
    state: Tensor | None = None,
    format: str = "fp32",
    rounding: str = "stochastic",
    scale: str = "none",
    block: int = 0,
    pow2: bool = False,
    given_scales: list[Tensor] | None = None,
    lagged: Tensor | None = None,
    seed: int = DEFAULT_SEED,
    streams: list[int] | None = None,
    inv_scale: float = 1.0,
    measure: bool = True,
    skip_nonfinite: bool = False,
    outs: list[Tensor] | None = None,
    codes: list[Tensor] | None = None,
    scales: list[Tensor] | None = None,
    params: list[Tensor] | None = None,
    momenta: list[Tensor | None] | None = None,
    hyper: Tensor | None = None,
    groups: list[int] | None = None,
    factors: list[float] | None = None,
    weight_rounding: str = "nearest",
    weight_streams: list[int] | None = None,
    states: States | None = None,
    state_streams: list[tuple[int, int]] | None = None,
    offsets: list[int] | None = None,
) -> Tensor:
    """Normalize, quantize, measure and update in one sweep; gives the table, float64 [T+1, 16] (section 11).

        x = float32(grad) * inv_scale
        y = (x - c) * a                       tensors with flag NORMALIZE
        q, codes, sums = quantize(y)          tensors with flag QUANTIZE, else q = y
        out = q; p, states = sgd(q), or adamw(q) with `states`    if asked for; flag FIRST: states without content

    Tensors are flat and dense. `state`, `outs`, `codes`, `scales`, `params`, `momenta` and `states` are written in
    place; `outs` may be `grads`. `rows[i]` is the number of dim-0 rows for centralize and factored second moments
    (0: not applied). The columns of `hyper` [G, 8] are those of `sgd.Hyper` or `adamw.Hyper` and reserved ones;
    `factors` is the compensation factor k of each tensor; `lagged` is the table of the previous step; `offsets` is
    where each tensor begins in the larger one that it is a shard of.
    """
    normalizers.check_names(method, alpha)
    fmt = get_format(format)
    for name, value, valid in (
        ("rounding", rounding, ROUNDINGS),
        ("weight_rounding", weight_rounding, ROUNDINGS),
        ("scale", scale, SCALES),
    ):
        if value not in valid:
            raise ValueError(f"{name} must be one of {', '.join(valid)}, got {value!r}")
    count = len(grads)
    xs = [_unscaled(grad, inv_scale) for grad in grads]
    normalized = [bool(flag & NORMALIZE) for flag in flags]
    quantized = [bool(flag & QUANTIZE) and fmt.name != "fp32" for flag in flags]
    row_counts = [
        rows[i] if method == "centralize" and normalized[i] and rows is not None and rows[i] > 0 else 0
        for i in range(count)
    ]

    # Moments, of the tensors and of the list
    table = torch.zeros(count + 1, COLUMNS, dtype=torch.float64, device="cpu")
    table[:, [A, SCALE, K]] = 1.0
    current_scale = scale == "tensor" and given_scales is None and lagged is None and fmt.name != "fp32"
    per_row: dict[int, Tensor] = {}
    factored = [states is not None and params is not None and states.is_factored(i) for i in range(count)]
    needs_bound = states is not None and any(factored) and states.phase != "update" and states.bounds is None
    for i, x in enumerate(xs):
        if row_counts[i]:
            per_row[i] = row_moments(x, row_counts[i])
    # Of shards only rows are measured, which are never cut: `lagged` has the moments of the whole.
    measured = measure or skip_nonfinite or current_scale or needs_bound or method != "none"
    if measured and offsets is None:
        for i, x in enumerate(xs):
            if i in per_row:
                table[i, :A] = merge_all(per_row[i])
            else:
                table[i, :A] = moments(x)
        table[count, :A] = _whole(table[:count, :A], normalized)
        table[count, NONFINITE] = table[:count, NONFINITE].sum()
    if skip_nonfinite and bool((table[:count, NONFINITE] > 0).any()):
        return table

    # The maps
    source = table if lagged is None else lagged
    maps = normalizers.coefficients(
        method,
        source[:count, :A],
        source[count, :A],
        normalized,
        eps=eps,
        max_norm=max_norm,
        alpha_rule=alpha,
        state=(0.0, 0.0) if state is None else tuple(state.tolist()),
    )
    if state is not None:
        state.copy_(torch.tensor(maps.state, dtype=torch.float64, device="cpu"))
    table[:count, A], table[:count, C] = maps.a.double(), maps.c.double()
    table[count, A] = maps.whole

    for i, x in enumerate(xs):
        n = x.numel()
        c = _row_means(per_row[i]) if i in per_row else _unsigned_zero(maps.c[i : i + 1], maps.a[i])
        y = x
        if normalized[i] and method != "none":
            y = _apply(x, c, maps.a[i])
        sums = None
        if states is not None and rows is not None and factored[i] and n > 0:
            bound = None if states.bounds is None else states.bounds[i]
            if bound is None and states.phase != "update":
                bound = float(mapped_absmax(per_row.get(i, table[i : i + 1, :A]), c, maps.a[i], y is x))
            sums = _factored_sums(y, rows[i], bound, states, i)
        if states is not None and states.phase == "sums":
            continue
        offset = 0 if offsets is None else offsets[i]
        lead, first_tile = offset % 1024, offset // 1024
        q = y
        scale_count = scaling.block_count(n, block) if scale == "block" else 1
        s = torch.ones(scale_count, dtype=torch.float32, device="cpu")
        if quantized[i]:
            if given_scales is not None and scale != "none":
                s = given_scales[i].reshape(-1)
            elif scale == "block":
                s = scaling.scale_from_absmax(scaling.block_absmax(y, block), fmt, pow2)
            elif scale == "tensor":
                if lagged is not None:
                    absmax = lagged[i, ABSMAX : ABSMAX + 1].to(torch.float32)
                else:
                    absmax = mapped_absmax(per_row.get(i, table[i : i + 1, :A]), c, maps.a[i], y is x)
                s = scaling.scale_from_absmax(absmax, fmt, pow2)
            noise = None
            if rounding == "stochastic":
                noise = noise16(seed, streams[i] if streams is not None else 0, lead + n, first_tile)[lead:]
            each = scaling.spread(s, block, n) if scale == "block" else s
            result = _quantize(y, each, fmt, rounding, noise)
            q = result.q
            front = y.new_zeros(lead)
            table[i, SUM_YY:ZEROED] = shrinkage_sums(torch.cat([front, y]), torch.cat([front, q]))
            table[i, ZEROED], table[i, SATURATED] = result.zeroed, result.saturated
            table[i, ABSMAX] = scaling.finite_magnitude(y).amax().double() if n else 0.0
            if scale == "tensor":
                table[i, SCALE] = s[0].double()
        if outs is not None:
            outs[i].copy_(store_float(q, outs[i].dtype))
        if flags[i] & QUANTIZE:
            if codes is not None:
                codes[i].copy_(store_codes(result.codes if quantized[i] else encode(y, f32(1.0), fmt), fmt))
            if scales is not None:
                scales[i].copy_(s)
        factor = factors[i] if factors is not None else 1.0
        weight_stream = weight_streams[i] if weight_streams is not None else 0
        if params is not None:
            table[i, K] = factor
        assert params is None or hyper is not None, "an update needs hyper"
        if params is not None and hyper is not None and states is not None:
            adamw(
                q,
                params[i],
                states,
                i,
                AdamwHyper.from_row(hyper[groups[i] if groups is not None else 0]),
                sums,
                factor=factor,
                first=bool(flags[i] & FIRST),
                rounding=weight_rounding,
                seed=seed,
                streams=(weight_stream, *(state_streams[i] if state_streams is not None else (0, 1))),
                offset=offset,
            )
        elif params is not None and hyper is not None:
            noise = None
            if weight_rounding == "stochastic":
                noise = noise16(seed, weight_stream, lead + n, first_tile)[lead:]
            sgd(
                q,
                params[i],
                momenta[i] if momenta is not None else None,
                Hyper.from_row(hyper[groups[i] if groups is not None else 0]),
                factor=factor,
                first=bool(flags[i] & FIRST),
                rounding=weight_rounding,
                noise=noise,
            )

    if count:
        table[count, SUM_YY:SCALE] = _sums_of_list(table[:count])
        table[count, ABSMAX] = table[:count, ABSMAX].max()
    return table


def list_row(rows: Tensor, normalized: list[bool], factor: float = 1.0) -> Tensor:
    """The list's row [16] from those of its tensors [T, 16], T > 0 (section 10); factor: alpha or the clip factor."""
    row = torch.zeros(COLUMNS, dtype=torch.float64, device="cpu")
    row[:A] = _whole(rows[:, :A], normalized)
    row[NONFINITE] = rows[:, NONFINITE].sum()
    row[SUM_YY:SCALE] = _sums_of_list(rows)
    row[ABSMAX] = rows[:, ABSMAX].max()
    row[A], row[SCALE], row[K] = factor, 1.0, 1.0
    return row


def _sums_of_list(rows: Tensor) -> Tensor:
    """sum_yy, sum_yq, sum_qq, zeroed and saturated of all tensors; the counts are exact in any order."""
    sums = rows[:, SUM_YY:ZEROED]
    return torch.cat([tree(sums, add, torch.zeros_like(sums[0])), rows[:, ZEROED:SCALE].sum(0)])


def _factored_sums(y: Tensor, rows: int, bound: float | None, states: States, i: int) -> Factored:
    """The sums of a factored tensor: made, or, in the second half of a step, given (section 13)."""
    whole_rows = rows if states.whole_rows is None else states.whole_rows[i]
    if states.phase == "update":
        return Factored(states.row_sums[i], states.column_sums[i], whole_rows)
    assert bound is not None, "a bound is measured or given"
    sums = sums_of_squares(y, rows, whole_rows, bound)
    if states.phase == "sums":
        states.row_sums[i].copy_(sums.rows)
        states.column_sums[i].copy_(sums.columns)
    return sums


def _unscaled(grad: Tensor, inv_scale: float) -> Tensor:
    x = grad.to(torch.float32)
    return x if inv_scale == 1.0 else x * f32(inv_scale)


def _whole(own: Tensor, normalized: list[bool]) -> Tensor:
    """Moments of the list: over the tensors flagged for normalization, over all if none is (section 10).

    A tensor that is left out is an empty leaf, so that leaf i is tensor i whatever the flags.
    """
    if not any(normalized):
        return merge_all(own)
    return merge_all(torch.where(torch.tensor(normalized, device="cpu")[:, None], own, empty_moments()))


def _row_means(per_row: Tensor) -> Tensor:
    """c of every row for centralize, float32; a row without a finite element has mean 0."""
    return per_row[:, MEAN].to(torch.float32)


def _unsigned_zero(c: Tensor, a: Tensor) -> Tensor:
    """c, but +0 for -0 where a is 1: y is then x, and x - (-0) would make +0 of an x that is -0 (section 7)."""
    return torch.where((a == 1.0) & (c == 0.0), 0.0, c)


def _apply(x: Tensor, c: Tensor, a: Tensor) -> Tensor:
    """y = (x - c) * a, float32, with one c for the tensor or one for each of its rows (section 7)."""
    return ((x.view(c.numel(), -1) - c[:, None]) * a).view(-1) if x.numel() else x


def mapped_absmax(parts: Tensor, c: Tensor, a: Tensor, identity: bool) -> Tensor:
    """A of a tensor after the map: max(|f(min)|, |f(max)|) <= FLT_MAX over its rows [R, 6] (sections 7, 10).

    0 where there is no finite element; |f| is 0 where it is not a number (infinite difference, a = 0).
    """
    ends = parts[:, [MIN, MAX]].to(torch.float32)
    if not identity:
        ends = (ends - c[:, None]) * a
    ends = torch.where(torch.isnan(ends) | (parts[:, N:MEAN] == 0), 0.0, ends.abs())
    return torch.minimum(ends.amax(), f32(FLT_MAX)).view(1)


@dataclass
class _Quantized:
    codes: Tensor
    q: Tensor
    zeroed: int
    saturated: int


def _quantize(y: Tensor, s: Tensor, fmt: Format, rounding: str, noise: Tensor | None) -> _Quantized:
    """Codes, values and counts of a flat tensor under the scales s (section 4)."""
    inv = scaling.inverse_scale(s)
    codes = encode(y, inv, fmt, rounding, noise)
    q = decode(codes, s, fmt)
    finite = torch.isfinite(y)
    zeroed = finite & (y != 0) & (q == 0)
    saturated = finite & ((y * inv).abs() > f32(fmt.largest))
    return _Quantized(codes, q, int(zeroed.sum()), int(saturated.sum()))
