"""Kernels that measure moments and merge them. Sections 1 and 6 of docs/numerics.md."""

import triton
import triton.language as tl

from . import formats
from .jobs import COLUMNS, GRAD, GRAD_TYPE, INV_SCALE, LENGTH, PART_SPAN, PART_TILE, double_in
from .memory import MIXED, load_values
from .moments import merge_leaves, store_six, tile_moments
from .tiles import TILE, element_numbers


@triton.jit
def load_gradient(
    job, header, first, at, count, full, TYPE: tl.constexpr, UNSCALE: tl.constexpr, ALIGNED: tl.constexpr
):
    """x = float32(grad) * inv_scale of the elements `first + at` (section 11)."""
    type = tl.load(job + GRAD_TYPE)
    address = tl.load(job + GRAD) + first * bytes_of(type, TYPE)
    x = load_values(address, type, at, count, full, TYPE, ALIGNED)
    if UNSCALE:
        x = x * double_in(header, INV_SCALE).to(tl.float32)
    return x


@triton.jit
def bytes_of(type, TYPE: tl.constexpr):
    """Of one element of a tensor."""
    if TYPE == MIXED:
        return tl.where(type == formats.FP32, 4, 2)
    elif TYPE == formats.FP32:
        return 4
    else:
        return 2


@triton.jit(do_not_specialize=["tiles"])
def measure_kernel(
    jobs,  # int64 [T, COLUMNS]
    spans,  # int64: the tensor of every program
    header,
    tile_moments_,  # float64 [6, tiles], written
    tiles,
    GRADS: tl.constexpr,  # type of the gradients
    UNSCALE: tl.constexpr,
    ALIGNED: tl.constexpr,
    TILES: tl.constexpr,
):
    """Moments of every tile of every part (a tensor, or a dim-0 row for centralize)."""
    program = tl.program_id(0)
    job = jobs + tl.load(spans + program) * COLUMNS
    length = tl.load(job + LENGTH)
    tiles_of_part = (length + (TILE - 1)) // TILE
    spans_of_part = (tiles_of_part + (TILES - 1)) // TILES
    span = program - tl.load(job + PART_SPAN)
    part = span // spans_of_part
    tile = (span % spans_of_part) * TILES

    at = element_numbers(TILES)
    count = tl.minimum(length - tile * TILE, TILES * TILE).to(tl.int32)
    first = part * length + tile * TILE
    x = load_gradient(job, header, first, at, count, count == TILES * TILE, GRADS, UNSCALE, ALIGNED)
    own = tl.arange(0, TILES)
    place = tl.load(job + PART_TILE) + part * tiles_of_part + tile + own
    store_six(tile_moments_, tiles, place, tile + own < tiles_of_part, tile_moments(x, at < count))


@triton.jit(do_not_specialize=["leaf_total", "group_total"])
def merge_kernel(
    leaves,  # float64 [6, leaf_total], written: its contents are used up
    bounds,  # int64 [groups + 1]: group g is made of the leaves bounds[g] .. bounds[g + 1] - 1
    groups,  # float64 [6, group_total], written
    leaf_total,
    group_total,
    MOMENTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The halving tree of every group: tiles to a chunk, chunks to a part, parts to a tensor."""
    group, one = tl.program_id(0), tl.arange(0, 1)
    start = tl.load(bounds + group)
    six = merge_leaves(leaves, leaf_total, start, tl.load(bounds + group + 1) - start, MOMENTS, BLOCK)
    store_six(groups, group_total, group + one, one == 0, six)
