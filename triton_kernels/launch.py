"""The Triton twins of fastgrad.ops.sweeps.native_sweep and of dequantize: what is launched, and in which order.

Nothing here waits for the device or reads what it made. The number of launches does not depend on how many tensors
there are, nor on how large they are:

    measure, merge tiles, merge chunks [, merge rows]     where something depends on the moments
    [largest of the rows,] coefficients                   where there is a map, a scale of tensors, or a skip
    [constants, clear, squares, means]                    what AdamW needs, see states.py
    process                                               where something is written, quantized or measured
    merge tiles, merge chunks                             of the moments, where `process` measured them
    merge tiles, merge chunks                             of the shrinkage sums, where something is quantized
    table

from 4 (moments alone) to 8 (normalize and quantize), 10 at most; of AdamW four more, and one `process` for each way in
which parameters and states of the list are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from fastgrad.reference import formats as reference_formats
from fastgrad.reference import normalizers as reference_normalizers
from fastgrad.reference import philox
from fastgrad.reference import sweep as reference
from fastgrad.reference.adamw import States

from . import jobs as job
from . import tables
from .decode import dequantize_kernel
from .measure import measure_kernel, merge_kernel
from .normalizers import coefficients_kernel, part_absmax_kernel
from .options import ONE_WARP, TILES, TWO_WARPS, warps_for
from .process import process_kernel
from .states import NO_STATES, Adamw
from .table import table_kernel
from .tables import Bounds, Jobs, common_type, float64_bits, is_aligned


def _leaves(tensors: int) -> int:
    return max(64, triton.next_power_of_2(tensors))


def _merge(leaves: Tensor, levels: Sequence[tuple[Bounds, Tensor]], moments: bool) -> list[Tensor]:
    """float64 [6, groups] of every level of a grid's trees, from the tiles' [6, tiles]."""
    results = []
    for level, bounds in levels:
        groups = leaves.new_empty(6, level.groups)
        block = 32 if level.largest <= 64 else 256
        if level.groups:
            merge_kernel[(level.groups,)](
                leaves, bounds, groups, level.leaves, level.groups, MOMENTS=moments, BLOCK=block, **warps_for(block)
            )
        results.append(groups)
        leaves = groups.clone() if len(results) == 2 < len(levels) else groups  # the means of parts are needed
    return results


def sweep(
    grads: Sequence[Tensor],
    *,
    flags: Sequence[int],
    rows: Sequence[int] | None = None,
    outs: Sequence[Tensor] | None = None,
    codes: Sequence[Tensor] | None = None,
    scales: Sequence[Tensor] | None = None,
    given_scales: Sequence[Tensor] | None = None,
    params: Sequence[Tensor] | None = None,
    momenta: Sequence[Tensor] | None = None,
    groups: Sequence[int] | None = None,
    factors: Tensor | None = None,
    ids: Sequence[int] | None = None,
    method: str = "none",
    alpha: str = "ratio_first",
    state: Tensor | None = None,
    format: str = "fp32",
    rounding: str = "stochastic",
    scale: str = "none",
    block: int = 0,
    pow2: bool = False,
    lagged: Tensor | None = None,
    hyper: Tensor | None = None,
    seed: int = philox.DEFAULT_SEED,
    step: int | Tensor = 0,
    slot: int = 0,
    purpose: str = "gradient",
    inv_scale: float = 1.0,
    eps: float = 1e-8,
    max_norm: float = 1.0,
    measure: bool = True,
    skip_nonfinite: bool = False,
    weight_rounding: str = "nearest",
    states: States | None = None,
    offsets: Sequence[int] | None = None,
    two_reads: bool = False,  # an order of work for caches; here it changes nothing
) -> Tensor:
    """Normalize, quantize, measure and update in one sweep; gives the table, float64 [T+1, 16], on the device.

    The keywords are those of :func:`fastgrad.reference.sweep.sweep`, with noise given as ``seed, step, slot,
    purpose, ids``; the results are the same bits. Tensors are dense, of any layout; ``state``, ``lagged``,
    ``hyper`` and ``factors`` may be on any device, and so may ``step``, an int or an int64 tensor of one element.
    """
    if not grads:
        return reference.sweep([], flags=[], measure=measure)
    device, count = grads[0].device, len(grads)
    sizes = tables.sizes_of(grads, outs=outs, params=params, momenta=momenta or None)
    names = _names(method, alpha, format, rounding, scale, weight_rounding)
    ids = range(count) if ids is None else ids
    philox.pack_stream(purpose, max(ids), 0 if isinstance(step, Tensor) else step, slot)  # refuses what is out of range

    # What has to be done, and in which order
    adamw = None if states is None or params is None else Adamw(params, states, rows)
    phase = "all" if adamw is None else states.phase
    needs_bounds = adamw is not None and adamw.needs_bounds
    sharded = offsets is not None  # of shards only rows are measured, which are never cut
    quantizes, lags = format != "fp32", lagged is not None
    scaled = quantizes and scale == "tensor"
    current_scale = scaled and given_scales is None and not lags
    row_counts = [0] * count
    if method == "centralize" and rows is not None:
        row_counts = [r if f & reference.NORMALIZE and r > 0 else 0 for r, f in zip(rows, flags, strict=True)]
    by_rows = any(row_counts)
    skip_nonfinite = skip_nonfinite and not sharded
    measured = not sharded and (measure or skip_nonfinite or current_scale or needs_bounds or method != "none")
    maps = method in ("centre", "znorm", "clip", "autoscale")
    depends = skip_nonfinite or current_scale or needs_bounds or (maps and not lags) or phase == "sums"
    moments_first = by_rows or (measured and depends)
    moments_in_pass = measured and not moments_first
    scaled = scaled and phase != "sums"
    coefficients_needed = (
        maps or scaled or skip_nonfinite or needs_bounds or (scales is not None and scale != "block")
    )
    processes = quantizes or any(t is not None for t in (outs, codes, params)) or moments_in_pass
    processes = processes and phase != "sums"

    leads = [offset % tables.TILE for offset in offsets] if sharded else [0] * count
    own = tables.whole_grid([lead + n if n else 0 for lead, n in zip(leads, sizes, strict=True)], TILES)
    kinds = [None] * count if adamw is None else adamw.kinds
    spans, starts, runs = tables.runs_of(own, kinds)
    part_counts = [(r or 1) if n else 0 for r, n in zip(row_counts, sizes, strict=True)]
    lengths = [n // max(p, 1) for n, p in zip(sizes, part_counts, strict=True)]
    parts = tables.make_grid(tuple(lengths), tuple(part_counts), TILES) if by_rows else own
    factored = [] if adamw is None else adamw.factored
    told = Jobs(sizes)
    told.set_tensors(grads, job.GRAD, job.GRAD_TYPE)
    told.set_tensors(outs, job.OUT, job.OUT_TYPE)
    told.set_tensors(codes, job.CODES)
    told.set_tensors(scales, job.SCALES)
    told.set_tensors(given_scales, job.GIVEN_SCALES)
    told.set_tensors(params, job.PARAM, job.PARAM_TYPE if adamw is None else None)
    told.set_tensors(momenta, job.MOMENTUM, job.MOMENTUM_TYPE)
    told.set(job.FLAGS, list(flags))
    told.set(job.ID, list(ids))
    told.set(job.GROUP, [0] * count if groups is None else list(groups))
    told.set(job.BY_ROWS, [int(r > 0) for r in row_counts])
    told.set_places(own, starts, parts, lengths, part_counts)
    if sharded:
        told.set(job.OFFSET, list(offsets))
    square_spans = torch.empty(0, dtype=torch.int64, device="cpu") if adamw is None else adamw.tell(told)
    header = tables.header(
        (job.SEED, philox.signed64(seed)),
        (job.STEP, 0 if isinstance(step, Tensor) else step),
        (job.SLOT, slot),
        (job.PURPOSE, philox.PURPOSES[purpose]),
        (job.INV_SCALE, float64_bits(inv_scale)),
        (job.EPS, float64_bits(eps)),
        (job.MAX_NORM, float64_bits(max_norm)),
    )

    with torch.cuda.device_of(grads[0]):
        lists = [told.rows, spans, parts.spans, square_spans, torch.tensor(factored, dtype=torch.int64, device="cpu")]
        header, rows_, spans, part_spans, square_spans, factored_, *bounds = tables.upload(
            [header, *lists, *(b.bounds for g in (own, parts) for b in g.levels)], device
        )
        own_levels = list(zip(own.levels, bounds, strict=False))
        part_levels = list(zip(parts.levels, bounds[len(own.levels) :], strict=True))
        step_ = header[job.STEP.value :]
        if isinstance(step, Tensor):
            step_ = step.to(device, torch.int64, non_blocking=True)
        lagged, hyper, factors = (
            None if t is None else t.to(device, torch.float64, non_blocking=True).contiguous()
            for t in (lagged, hyper, factors if params is not None else None)
        )
        device_state = None
        if method == "autoscale":
            device_state = torch.zeros(2, dtype=torch.float64, device=device)
            if state is not None:
                device_state = state.to(device, non_blocking=True).contiguous()

        def empty(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.empty(*shape, dtype=dtype, device=device)

        common = {
            "GRADS": common_type(grads),
            "UNSCALE": inv_scale != 1.0,
            "TILES": TILES,
        }
        moments = part_moments = None
        if moments_first:
            tile_moments = empty(6, parts.tiles)
            aligned = is_aligned(grads) and (not by_rows or all(n % 8 == 0 for n in lengths))
            if parts.spans.numel():
                measure_kernel[(parts.spans.numel(),)](
                    rows_, part_spans, header, tile_moments, parts.tiles, **common, ALIGNED=aligned, **ONE_WARP
                )
            *_, part_moments, moments = _merge(tile_moments, part_levels, True)
            part_moments = part_moments if parts.by_parts else moments
            moments = None if sharded else moments
        part_absmax = None
        if by_rows and (current_scale or needs_bounds):
            part_absmax = empty(count, dtype=torch.float32)
            part_absmax_kernel[(count,)](
                rows_, part_moments, part_absmax, parts.parts, BLOCK=256, **warps_for(256)
            )

        scratch = empty(6, count)
        coefficients = factor = skip = None
        if coefficients_needed:
            coefficients = empty(5 if needs_bounds else 4, count, dtype=torch.float32)
            factor, skip = empty(1, dtype=torch.float32), empty(1, dtype=torch.int32)
            coefficients_kernel[(1,)](
                rows_, header, moments, part_absmax, lagged, device_state, coefficients, factor, skip, scratch,
                count,
                METHOD=names["method"],
                ALPHA=names["alpha"],
                OWN=(maps or (scaled and given_scales is None)) and (lags or moments is not None),
                LAGGED=lags,
                SKIP=skip_nonfinite,
                SCALED=scaled,
                GIVEN_SCALE=given_scales is not None,
                STORE_SCALES=scales is not None and scale != "block",
                BY_PARTS=part_absmax is not None,
                BOUND=needs_bounds,
                MEASURED=moments is not None,
                FORMAT=names["format"],
                POW2=pow2,
                LEAVES=_leaves(count),
                **warps_for(_leaves(count)),
            )  # fmt: skip

        constants = None
        means = part_moments[1] if by_rows else None
        if adamw is not None:
            stops = skip if skip_nonfinite else None
            if phase != "sums":
                clock = step_ if isinstance(step, Tensor) else None
                constants = adamw.make_constants(rows_, clock, hyper, factors)
            if adamw.makes_sums:
                adamw.sum_squares(
                    rows_, factored_, square_spans, header, grads, coefficients, stops, means, inv_scale != 1.0, maps
                )
            if factored:
                adamw.move_means(rows_, factored_, coefficients, constants, stops)

        sums = None
        if processes:
            tile_moments = empty(6, own.tiles) if moments_in_pass else None
            tile_sums = empty(6, own.tiles) if quantizes else None
            for run in runs:
                mine = [[t[i] for i in run.tensors] if t else None for t in (grads, outs, codes, params, momenta)]
                aligned = is_aligned(*mine) and all(leads[i] % 32 == 0 for i in run.tensors)
                if adamw is None:
                    kept, options = {**NO_STATES, "PARAMS": common_type(params)}, ONE_WARP
                else:
                    kept, options = dict(run.kind), TWO_WARPS
                    aligned = aligned and adamw.is_aligned(run.tensors)
                process_kernel[(run.programs,)](
                    rows_, spans[run.first :], header, step_, coefficients, skip, means,
                    hyper, factors, constants, tile_moments, tile_sums, count, own.tiles,
                    **common,
                    **kept,
                    OUTS=common_type(outs),
                    MOMENTA=common_type(momenta),
                    MEASURE=moments_in_pass,
                    MAPPED=maps,
                    CENTRALIZED=by_rows,
                    FORMAT=names["format"],
                    ROUNDING=names["rounding"],
                    SCALE=names["scale"],
                    BLOCK=block if scale == "block" else 0,
                    POW2=pow2,
                    GIVEN_SCALE=given_scales is not None,
                    STORE_CODES=codes is not None,
                    STORE_SCALES=scales is not None,
                    SKIP=skip_nonfinite,
                    SHARDED=sharded,
                    FACTORS=factors is not None,
                    WEIGHT_ROUNDING=names["weight_rounding"],
                    ALIGNED=aligned,
                    **options,
                )  # fmt: skip
            if moments_in_pass:
                moments = _merge(tile_moments, own_levels, True)[-1]
            if quantizes:
                sums = _merge(tile_sums, own_levels, False)[-1]

        table = empty(count + 1, reference.COLUMNS)
        table_kernel[(1,)](
            rows_, moments, sums, coefficients, factor, skip, factors, scratch, table, count,
            MEASURED=moments is not None,
            SUMMED=sums is not None,
            COEFFICIENTS=coefficients is not None,
            SKIP=skip_nonfinite,
            FACTORS=factors is not None and phase != "sums",
            LEAVES=_leaves(count),
            **warps_for(_leaves(count)),
        )  # fmt: skip
        if device_state is not None and state is not None and device_state is not state:
            state.copy_(device_state, non_blocking=True)
    return table


def _names(method: str, alpha: str, format: str, rounding: str, scale: str, weight_rounding: str) -> dict[str, int]:
    """The names as the kernels' numbers."""
    formats = tuple(reference_formats.FORMATS)
    roundings = reference_formats.ROUNDINGS
    numbers = {}
    for name, value, valid in (
        ("method", method, reference_normalizers.METHODS),
        ("alpha", alpha, reference_normalizers.ALPHAS),
        ("format", format, formats),
        ("rounding", rounding, roundings),
        ("scale", scale, reference.SCALES),
        ("weight_rounding", weight_rounding, roundings),
    ):
        if value not in valid:
            raise ValueError(f"{name}: expected one of {', '.join(valid)}; got {value!r}")
        numbers[name] = valid.index(value)
    return numbers


def dequantize(
    codes: Sequence[Tensor], scales: Sequence[Tensor], format: str, block: int, values: Sequence[Tensor]
) -> None:
    """``values[i] = decode(codes[i]) * scales[i]``, in one launch; codes are stored as section 3 says."""
    if not values:
        return
    grid = tables.whole_grid([v.numel() for v in values], TILES)
    told = Jobs([v.numel() for v in values])
    told.set_tensors(codes, job.CODES)
    told.set_tensors(scales, job.SCALES)
    told.set_tensors(values, job.OUT, job.OUT_TYPE)
    told.set(job.SPAN, grid.first_span)
    if not grid.spans.numel():
        return
    with torch.cuda.device_of(values[0]):
        rows_, spans = tables.upload([told.rows, grid.spans], values[0].device)
        dequantize_kernel[(grid.spans.numel(),)](
            rows_,
            spans,
            OUTS=common_type(values),
            FORMAT=tuple(reference_formats.FORMATS).index(format),
            BLOCK=block,
            ALIGNED=is_aligned(codes, values),
            TILES=TILES,
            **ONE_WARP,
        )
