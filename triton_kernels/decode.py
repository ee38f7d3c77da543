"""The kernel behind dequantize: stored codes back to values. Section 4 of docs/numerics.md."""

import triton
import triton.language as tl

from .jobs import CODES, COLUMNS, OUT, OUT_TYPE, SCALES, SPAN, N
from .measure import bytes_of
from .memory import load_codes, store_values
from .rounding import NEAREST, decode
from .scales import block_numbers, given_block_scales, spread
from .tiles import TILE, element_numbers


@triton.jit
def dequantize_kernel(
    jobs,  # int64 [T, COLUMNS]
    spans,  # int64: the tensor of every program
    OUTS: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK: tl.constexpr,  # elements per scale; 0: one scale for the tensor
    ALIGNED: tl.constexpr,
    TILES: tl.constexpr,
):
    """`value = decode(code) * scale`, stored in the type of the values."""
    program = tl.program_id(0)
    job = jobs + tl.load(spans + program) * COLUMNS
    tile = (program - tl.load(job + SPAN)) * TILES
    first = tile * TILE
    count = tl.minimum(tl.load(job + N) - first, TILES * TILE).to(tl.int32)
    full = count == TILES * TILE
    at = element_numbers(TILES)
    scales = tl.load(job + SCALES)
    if BLOCK > 0:
        blocks = (count + BLOCK - 1) // BLOCK
        scale = spread(given_block_scales(scales + first // BLOCK * 4, block_numbers(0, TILES, BLOCK), blocks), BLOCK)
    else:
        scale = tl.load(scales.to(tl.pointer_type(tl.float32)))
    codes = load_codes(tl.load(job + CODES), first, at, count, full, FORMAT, ALIGNED)
    type = tl.load(job + OUT_TYPE)
    address = tl.load(job + OUT) + first * bytes_of(type, OUTS)
    store_values(address, type, at, decode(codes, scale, FORMAT), 0, count, full, OUTS, NEAREST, ALIGNED)
