"""Every op on every native backend: registered, clean by torch's own checker, the reference's bits.

Here: registration, opcheck, gradient_moments, quantize and dequantize. The others have a file each
(test_contract_normalize.py, test_contract_sgd.py, test_contract_layouts.py).
"""

from __future__ import annotations

import pytest
import torch
from adamw_states import new_states
from contract_backends import OPS, agree, needs_native, reference_running
from contract_bits import assert_same_bits
from contract_cases import grid, name, pairwise
from contract_data import DTYPES, KINDS, LARGE_SIZES, SMALL_SIZES, shaped, tensor

import fastgrad
from fastgrad import library
from fastgrad.ops import sweeps

# Together all of SMALL_SIZES and the first of LARGE_SIZES, a few to a list.
SIZES = ((1, 127, 1025), (17, 1000, 128), (129, 1024), (LARGE_SIZES[0], 17))
SCALES = (
    "none",
    "tensor",
    "tensor pow2",
    "given",
    *(f"block {b}{p}" for b in sweeps.BLOCKS for p in ("", " pow2")),
)
AXES = {
    "format": sweeps.FORMATS,
    "rounding": sweeps.ROUNDINGS,
    "scale": SCALES,
    "dtype": DTYPES,
    "kind": KINDS,
    "sizes": SIZES,
    "purpose": sweeps.PURPOSES,
    "moments": (True, False),
}


def legal(case):
    return case if case["format"] != "fp32" else {**case, "scale": "none"}


def test_sizes_are_all_used():
    assert {n for sizes in SIZES for n in sizes} == {*SMALL_SIZES, LARGE_SIZES[0]}


@needs_native
@pytest.mark.parametrize("op", OPS)
def test_registered(op):
    """A native kernel at CPU, above the reference, which is thus not compared with itself."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastgrad::{op}", "CPU")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastgrad::{op}", "CompositeExplicitAutograd")


@needs_native
def test_reference_and_native_are_told_apart():
    """The two contexts the comparisons stand on do what they say."""
    from contract_backends import CPU_BACKENDS

    with reference_running():
        assert library.native is None
        fastgrad.quantize(torch.ones(3), "bf16")
    assert library.native is not None
    with CPU_BACKENDS[0].running(), pytest.raises(AssertionError, match="reference was called"):
        sweeps.reference_sweep([torch.ones(3)], flags=[0])


def test_memory_is_poisoned():
    assert bool(torch.isnan(sweeps.torch.empty(4, dtype=torch.bfloat16)).all())
    assert sweeps.torch.empty(2, dtype=torch.uint8).tolist() == [0xAB, 0xAB]
    assert bool(torch.isnan(torch.zeros(1).new_empty(3)).all())


def op_arguments(requires_grad: bool) -> dict[str, tuple]:
    """Arguments of every op as the dispatcher takes them."""

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape).requires_grad_(requires_grad)

    def state() -> torch.Tensor:
        return torch.zeros(2, dtype=torch.float64)

    hyper = torch.tensor([[0.1, 0.9, 0.0, 1e-3, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    # In-place ops may not write leaves that require grad; their gradients may well require it.
    lists = [torch.randn(5, 7), torch.randn(1100)]
    quantized, _ = fastgrad.quantize(lists, "int4", scale="block", block=32)
    quantizing = (False, None, 5, 6, 7, "gradient", None, True)  # pow2 ... moments
    stored, _ = fastgrad.quantize(lists, "int8", scale="block", block=64)
    plain = (1e-8, 1.0, "sigma", state(), None, False)  # eps ... two_reads
    written = [[torch.randn(5, 7), torch.randn(1100)] for _ in range(2)]  # parameters, momenta
    noise = (False, 1, 2, None, 3)  # pow2, seed, step, clock, slot
    out_of_place = (False, 1, 0, torch.tensor(2), 3)
    adamw = torch.tensor([[0.1, 0.9, 0.99, 1e-8, 0.1, 0.0, 0.0, 0.0]], dtype=torch.float64)
    states = new_states([torch.randn(16, 128), torch.randn(5, 7)], torch.bfloat16, "int8", 0.9)
    none = [torch.empty(0), torch.empty(0)]  # of no factored tensor
    return {
        "gradient_moments": ([made(5, 7), made(1100)],),
        "quantize": ([made(5, 7), made(1100)], "fp8_e4m3", "stochastic", "block", 64, *quantizing),
        "quantize_": (
            [made(5, 7), made(1100)],
            [q.codes for q in stored],
            [q.scale for q in stored],
            *("int8", "nearest", "block", 64, *quantizing),
        ),
        "dequantize": (
            [q.codes for q in quantized],
            [q.scale for q in quantized],
            *("int4", 32, [5, 7, 1100], [7, 1, 1], [2, 1], torch.bfloat16),
        ),
        "dequantize_": (
            [q.codes for q in quantized],
            [q.scale for q in quantized],
            *("int4", 32, [torch.empty(5, 7), torch.empty(1100)]),
        ),
        "normalize_quantize_": (
            *(
                lists,
                None,
                "autoscale",
                *plain,
                "int8",
                "nearest",
                "tensor",
                0,
                *noise,
                "gradient",
                None,
                False,
            ),
        ),
        "normalize_quantize": (
            *(
                made(5, 7),
                None,
                "centralize",
                *plain,
                "int4",
                "stochastic",
                "block",
                16,
                *out_of_place,
            ),
            *("activation", None),
        ),
        "sgd_step_": (
            *(written[0], [made(5, 7), made(1100)], written[1], hyper, None, None, "znorm", *plain),
            *("bf16", "stochastic", "none", 0, *noise, None, None, 1.0, True, False, "nearest"),
        ),
        "adamw_step_": (
            *(states[name] for name in ("params", "param_scales")),
            [made(16, 128), made(5, 7)],
            *(states[name] for name in ("exp_avgs", "exp_avg_scales", "exp_avg_sqs", "exp_avg_sq_scales")),
            *(none, [torch.empty(0) for _ in none], adamw, [3, 3], "int4", None, None, "znorm", *plain),
            *("bf16", "stochastic", "none", 0, *noise, None, None, 1.0, True, False, "nearest"),
            *(None, None, "all", None),  # no shards
        ),
    }


@pytest.mark.parametrize("requires_grad", (False, True), ids=("plain", "requires_grad"))
@pytest.mark.parametrize("op", OPS)
def test_opcheck(op, requires_grad, request):
    if requires_grad and library.native is None and op not in ("dequantize", "dequantize_", "normalize_quantize_"):
        reason = "the references run with grad mode on: called by the dispatcher, they record a graph"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    overload = getattr(torch.ops.fastgrad, op).default
    torch.library.opcheck(overload, op_arguments(requires_grad)[op])


@needs_native
@pytest.mark.parametrize("inv", (False, True), ids=("one list", "each alone"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_moments(kind, dtype, inv):
    def run():
        tensors = [shaped(tensor(kind, n, dtype)) for n in (*SMALL_SIZES, *LARGE_SIZES)]
        return [fastgrad.gradient_moments([t]) for t in tensors] if inv else [fastgrad.gradient_moments(tensors)]

    agree(run, f"gradient_moments {kind} {dtype}")


def quantize_and_back(case) -> list[torch.Tensor]:
    kind, _, extra = case["scale"].partition(" ")
    tensors = [shaped(tensor(case["kind"], n, case["dtype"])) for n in case["sizes"]]
    options = {"scale": kind, "pow2": extra.endswith("pow2")}
    if kind == "given":
        # one that fits the data, one that saturates or flushes it
        options["scale"] = [torch.tensor([1e-5 if i % 2 else 3e4]) for i in range(len(tensors))]
    if kind == "block":
        options["block"] = int(extra.split()[0])
    quantized, table = fastgrad.quantize(
        tensors,
        case["format"],
        rounding=case["rounding"],
        purpose=case["purpose"],
        moments=case["moments"],
        seed=-3,
        step=2**31 - 1,
        slot=4095,
        ids=[2**18 - 1 - i for i in range(len(tensors))],
        **options,
    )
    values = [value for dtype in DTYPES for value in fastgrad.dequantize(quantized, dtype)]
    kept = [torch.full_like(t, torch.nan, dtype=DTYPES[i % 3]) for i, t in enumerate(tensors)]
    assert all(a is b for a, b in zip(fastgrad.dequantize(quantized, out=kept), kept, strict=True))
    return [table, *(q.codes for q in quantized), *(q.scale for q in quantized), *values, *kept]


@needs_native
@pytest.mark.parametrize("case", pairwise(AXES, seed=1, adjust=legal), ids=name)
def test_quantize(case):
    agree(lambda: quantize_and_back(case), "quantize, dequantize")


@needs_native
@pytest.mark.parametrize("scale", ("tensor", "block 32"))
@pytest.mark.parametrize("format", [f for f in sweeps.FORMATS if f != "fp32"])
def test_quantize_chunks(format, scale):
    """Four chunks, the last one short."""
    case = {"format": format, "rounding": "stochastic", "scale": scale, "purpose": "gradient", "moments": False}
    case.update(dtype=torch.float32, kind="normal", sizes=LARGE_SIZES[1:])
    agree(lambda: quantize_and_back(case), "quantize, dequantize")


@needs_native
@pytest.mark.slow
@pytest.mark.parametrize("format", sweeps.FORMATS)
def test_quantize_whole_grid(format):
    axes = {**AXES, "format": (format,), "sizes": ((1025, 17),), "purpose": ("weight",)}
    for case in grid(axes, legal=lambda case: legal(case) == case):
        agree(lambda case=case: quantize_and_back(case), name(case))


@needs_native
@pytest.mark.parametrize("format", [f for f in sweeps.FORMATS if f not in ("fp32", "bf16", "fp16")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dequantize_every_code(format, dtype):
    """All codes of the narrow formats, those that quantize never makes included, under many scales."""
    bytes_ = torch.arange(256, dtype=torch.uint8)
    packed = format in ("fp4_e2m1", "int4")
    stored = {"int8": torch.int8, "fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
    codes = bytes_ if packed else bytes_.view(stored[format])
    n = 512 if packed else 256

    def run():
        return [
            fastgrad.dequantize(fastgrad.Quantized(codes, torch.tensor([s]), format, 0, (n,), (1,), dtype))
            for s in (1.0, 2.0**-126, 3e38, 0.37, 1e-30)
        ]

    agree(run, f"dequantize {format}")


@needs_native
@pytest.mark.parametrize("format", ("bf16", "fp16"))
def test_dequantize_every_16_bit_code(format):
    dtype = torch.bfloat16 if format == "bf16" else torch.float16
    codes = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)

    def run():
        return [
            fastgrad.dequantize(fastgrad.Quantized(codes, torch.tensor([s]), format, 0, (65536,), (1,), wanted))
            for s in (1.0, 0.37)
            for wanted in DTYPES
        ]

    agree(run, f"dequantize {format}")


@needs_native
@pytest.mark.parametrize("scale", ("none", "tensor", "block"))
@pytest.mark.parametrize("format", sweeps.FORMATS)
def test_quantize_into_memory_of_an_earlier_call(format, scale):
    """`out`: the bits of a call that makes its own memory, whatever was there, and the versions say so."""
    if format == "fp32" and scale != "none":
        pytest.skip("fp32 takes no scale")
    first, second = ([shaped(tensor("normal", n, seed=i)) for n in (1025, 70_000, 7)] for i in range(2))

    def run():
        used, _ = fastgrad.quantize(first, format, scale=scale)
        versions = [t._version for q in used for t in (q.codes, q.scale)]
        again, table = fastgrad.quantize(second, format, scale=scale, step=1, out=used)
        fresh, fresh_table = fastgrad.quantize(second, format, scale=scale, step=1)
        assert [q.codes.data_ptr() for q in again] == [q.codes.data_ptr() for q in used]
        assert all(
            t._version > v for t, v in zip((t for q in again for t in (q.codes, q.scale)), versions, strict=True)
        )
        results = [[*(q.codes for q in some), *(q.scale for q in some)] for some in (again, fresh)]
        assert_same_bits([*results[0], table], [*results[1], fresh_table], "out")
        return [*results[0], table]

    agree(run, "quantize(out=)")
