"""How kernels are launched."""

import triton

INTERPRETED = triton.knobs.runtime.interpret
# Tiles of a program. A GPU has warps enough for one each; the interpreter is faster with longer arrays.
TILES = 8 if INTERPRETED else 1


def warps(number: int) -> dict:
    """Never with fused multiply-adds: they round once where the contract rounds twice."""
    return {"num_warps": number, "enable_fp_fusion": False}


def warps_for(block: int) -> dict:
    """Of a program that treats so many numbers at once."""
    return warps(min(max(block // 64, 1), 8))


ONE_WARP = warps(1)
TWO_WARPS = warps(2)  # of AdamW, which holds more in registers than a warp has
