"""Compiles every kernel without a device, in typical specializations: for reading its machine code.

Not under TRITON_INTERPRET, where kernels are not compiled at all.
"""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from . import formats
from .adamw import CODES4, CODES8, FACTORED, constants_kernel
from .decode import dequantize_kernel
from .factored import clear_kernel, means_kernel, squares_kernel
from .measure import measure_kernel, merge_kernel
from .memory import MIXED
from .normalizers import ALPHAS, METHODS, coefficients_kernel, part_absmax_kernel
from .options import ONE_WARP, TWO_WARPS, warps, warps_for
from .process import process_kernel
from .sgd import ABSENT
from .states import CONSTANTS_BLOCK, MEANS_BLOCK, NO_STATES, SQUARE_REPEATS, SQUARE_ROWS
from .table import table_kernel

TARGETS = tuple(GPUTarget("cuda", capability, 32) for capability in (80, 90, 100))

POINTERS = {
    **dict.fromkeys(("jobs", "spans", "tensors", "header", "bounds", "step_"), "*i64"),
    **dict.fromkeys(("coefficients", "factor", "part_absmax", "absmax"), "*fp32"),
    "skip": "*i32",
    **dict.fromkeys(("count", "count_of_tensors", "tiles", "parts", "leaf_total", "group_total"), "i32"),
}  # the others are float64

PLAIN = {
    "GRADS": formats.FP32.value,
    "UNSCALE": False,
    "ALIGNED": True,
    "TILES": 1,
    "OUTS": ABSENT.value,
    "PARAMS": ABSENT.value,
    "MOMENTA": ABSENT.value,
    **NO_STATES,
    "MEASURE": False,
    "MAPPED": True,
    "CENTRALIZED": False,
    "FORMAT": formats.FP32.value,
    "ROUNDING": 0,
    "SCALE": 0,
    "BLOCK": 0,
    "POW2": False,
    "GIVEN_SCALE": False,
    "STORE_CODES": False,
    "STORE_SCALES": False,
    "SKIP": False,
    "SHARDED": False,
    "FACTORS": False,
    "WEIGHT_ROUNDING": 1,
}
STEP = {"PARAMS": formats.FP32.value, "MOMENTA": formats.FP32.value}
COEFFICIENTS = {
    "ALPHA": 0,
    "OWN": True,
    "LAGGED": False,
    "SKIP": True,
    "SCALED": True,
    "GIVEN_SCALE": False,
    "STORE_SCALES": False,
    "BY_PARTS": False,
    "BOUND": False,
    "MEASURED": True,
    "POW2": False,
    "FORMAT": formats.NAMES.index("fp8_e4m3"),
    "LEAVES": 64,
}


def _format(name: str) -> int:
    return formats.NAMES.index(name)


# How AdamW keeps parameters and states: one kernel for each.
WAYS = {
    "fp32": {"SECONDS": formats.FP32.value, "FIRSTS": formats.FP32.value},
    "bf16": {"SECONDS": formats.BF16.value, "FIRSTS": formats.BF16.value, "PARAMS": formats.BF16.value},
    "fp16": {"SECONDS": formats.FP16.value, "FIRSTS": formats.FP16.value, "PARAMS": formats.FP16.value},
    **{
        name: {"FIRSTS": formats.NAMES.index(name), "FIRST_BLOCK": 128, "SECONDS": CODES8.value, "SECOND_BLOCK": 128}
        for name in ("int8", "fp8_e4m3", "fp8_e5m2")
    },
    **{
        name: {"FIRSTS": formats.NAMES.index(name), "FIRST_BLOCK": 128, "SECONDS": CODES4.value, "SECOND_BLOCK": 128}
        for name in ("int4", "fp4_e2m1")
    },
    "int8_weights": {
        "PARAMS": formats.NAMES.index("int8"), "PARAM_BLOCK": 128,
        "FIRSTS": formats.NAMES.index("int8"), "FIRST_BLOCK": 128, "SECONDS": CODES8.value, "SECOND_BLOCK": 128,
    },
    "factored": {"FIRSTS": formats.BF16.value, "SECONDS": FACTORED.value},
    "factored_alone": {"SECONDS": FACTORED.value},
}  # fmt: skip


def _adamw_cases() -> list[tuple[str, object, dict, dict]]:
    fp8 = {"FORMAT": _format("fp8_e4m3"), "SCALE": 1}
    found = []
    for name, way in WAYS.items():
        case = {**PLAIN, "PARAMS": formats.FP32.value, **way, "MAPPED": False, "WEIGHT_ROUNDING": 0}
        found.append((f"process_adamw_{name}", process_kernel, case, TWO_WARPS))
        if name in ("fp32", "int8"):
            found.append((f"process_adamw_{name}_fp8", process_kernel, {**case, **fp8, "MAPPED": True}, TWO_WARPS))
            found.append((f"process_adamw_{name}_shard", process_kernel, {**case, "SHARDED": True}, TWO_WARPS))
    squares = {**PLAIN, "MAPPED": False, "GIVEN_BOUND": False, "ROWS": SQUARE_ROWS, "REPEATS": SQUARE_REPEATS}
    unaligned = {"GRADS": MIXED.value, "ALIGNED": False, "CENTRALIZED": True, "GIVEN_BOUND": True, "SKIP": True}
    constants = {"CLOCK": True, "FACTORS": True, "BLOCK": CONSTANTS_BLOCK}
    means = {"SKIP": True, "BLOCK": MEANS_BLOCK, "COUNTED": True, "STEPS": True, "GIVEN_BOUND": False}
    return [
        *found,
        ("adamw_constants", constants_kernel, constants, warps_for(CONSTANTS_BLOCK)),
        ("factored_clear", clear_kernel, means, warps_for(MEANS_BLOCK)),
        ("factored_squares", squares_kernel, squares, ONE_WARP),
        ("factored_squares_mapped", squares_kernel, {**squares, "MAPPED": True}, ONE_WARP),
        ("factored_squares_unaligned", squares_kernel, {**squares, **unaligned}, ONE_WARP),
        ("factored_means", means_kernel, means, warps(8)),
        ("factored_sums", means_kernel, {**means, "STEPS": False, "GIVEN_BOUND": True}, warps(8)),
        ("factored_given_sums", means_kernel, {**means, "COUNTED": False}, warps(8)),
    ]


def cases() -> list[tuple[str, object, dict, dict]]:
    """Name, kernel, compile-time arguments and launch options of everything that is compiled."""
    few, many = warps_for(64), warps_for(256)
    found = [
        ("measure", measure_kernel, PLAIN, ONE_WARP),
        ("measure_bf16", measure_kernel, {**PLAIN, "GRADS": formats.BF16.value}, ONE_WARP),
        ("measure_mixed", measure_kernel, {**PLAIN, "GRADS": MIXED.value, "ALIGNED": False, "UNSCALE": True}, ONE_WARP),
    ]
    for moments, name in ((True, "moments"), (False, "sums")):
        found.append((f"merge_{name}", merge_kernel, {"MOMENTS": moments, "BLOCK": 32}, warps_for(32)))
        found.append((f"merge_many_{name}", merge_kernel, {"MOMENTS": moments, "BLOCK": 256}, many))
    found.append(("part_absmax", part_absmax_kernel, {"BLOCK": 256}, many))
    for number, name in enumerate(METHODS):
        found.append((f"coefficients_{name}", coefficients_kernel, {**COEFFICIENTS, "METHOD": number}, few))
    for number, name in enumerate(ALPHAS):
        case = {**COEFFICIENTS, "METHOD": METHODS.index("autoscale"), "ALPHA": number, "POW2": True}
        found.append((f"coefficients_autoscale_{name}", coefficients_kernel, case, few))
    for rounding, name in ((0, "stochastic"), (1, "nearest"), (2, "truncate")):
        case = {**PLAIN, "FORMAT": _format("fp8_e4m3"), "ROUNDING": rounding, "SCALE": 1, "STORE_CODES": True}
        found.append((f"process_quantize_{name}", process_kernel, case, ONE_WARP))
    for name in formats.NAMES:
        case = {**PLAIN, "FORMAT": _format(name), "STORE_CODES": True, "STORE_SCALES": True, "MAPPED": False}
        if name != "fp32":
            case.update(SCALE=2, BLOCK=32, POW2=True)
        found.append((f"process_codes_{name}", process_kernel, case, ONE_WARP))
        case = {"OUTS": formats.FP32.value, "FORMAT": _format(name), "BLOCK": 0, "ALIGNED": True, "TILES": 1}
        found.append((f"dequantize_{name}", dequantize_kernel, case, ONE_WARP))
    bf16_step = {**STEP, "PARAMS": formats.BF16.value, "GRADS": formats.BF16.value, "WEIGHT_ROUNDING": 0}
    mixed = {**dict.fromkeys(("GRADS", "OUTS", "PARAMS", "MOMENTA"), MIXED.value), "ALIGNED": False, "MEASURE": True}
    bf16 = {"FORMAT": formats.BF16.value, "GRADS": formats.BF16.value}
    fp8 = {"FORMAT": _format("fp8_e4m3"), "SCALE": 1}
    found += [
        ("process_values_fp8", process_kernel, {**PLAIN, **fp8, "OUTS": formats.FP32.value}, ONE_WARP),
        ("process_values_bf16", process_kernel, {**PLAIN, **bf16, "OUTS": formats.BF16.value}, ONE_WARP),
        ("process_normalize", process_kernel, {**PLAIN, "OUTS": formats.FP32.value}, ONE_WARP),
        ("process_sgd", process_kernel, {**PLAIN, **STEP, "MAPPED": False}, ONE_WARP),
        ("process_sgd_fp8", process_kernel, {**PLAIN, **STEP, **fp8}, ONE_WARP),
        ("process_sgd_fp8_lagged", process_kernel, {**PLAIN, **STEP, **fp8, "MEASURE": True}, ONE_WARP),
        ("process_sgd_bf16", process_kernel, {**PLAIN, **bf16_step, "FORMAT": formats.BF16.value}, ONE_WARP),
        ("process_sgd_mixed", process_kernel, {**PLAIN, **fp8, **mixed, "FACTORS": True, "SKIP": True}, ONE_WARP),
        ("process_centralize", process_kernel, {**PLAIN, **STEP, **fp8, "CENTRALIZED": True}, ONE_WARP),
        ("table", table_kernel, dict.fromkeys(("MEASURED", "SUMMED", "COEFFICIENTS", "SKIP", "FACTORS"), True)
         | {"LEAVES": 64}, few),
        ("coefficients_bound", coefficients_kernel, {**COEFFICIENTS, "METHOD": 2, "BOUND": True}, few),
        ("process_sgd_shard", process_kernel, {**PLAIN, **STEP, **fp8, "SHARDED": True}, ONE_WARP),
    ]  # fmt: skip
    return found + _adamw_cases()


def compile_case(kernel, constants: dict, options: dict, target: GPUTarget) -> CompiledKernel:
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {name: "constexpr" if name in constants else POINTERS.get(name, "*fp64") for name in kernel.arg_names}
    aligned = [["tt.divisibility", 16]]
    attributes = {(i,): aligned for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*")}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target, options=options)


def compiled(target: GPUTarget, every: int = 1) -> list[tuple[str, CompiledKernel]]:
    """Kernels for a target (one in ``every``), by name; `.asm["ptx"]` and `.asm["cubin"]` hold their code."""
    return [
        (name, compile_case(kernel, constants, options, target))
        for name, kernel, constants, options in cases()[::every]
    ]
