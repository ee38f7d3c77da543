"""The Triton kernels, interpreted on the CPU: the bits of the PyTorch reference, for everything a sweep can do."""

from __future__ import annotations

import math

import pytest
import torch
from contract_bits import assert_nans_canonical, assert_same_bits
from contract_cases import name, pairwise
from contract_data import DTYPES, KINDS, from_bits, tensor

from fastgrad import library

pytest.importorskip("triton")
if not library.has_recent_triton():
    pytest.skip("triton is older than 3.6", allow_module_level=True)

import triton
import triton.language as tl
import triton_package

from fastgrad.ops import sweeps
from fastgrad.ops.sweeps import reference_sweep
from fastgrad.reference import formats, normalizers, scales

if not triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET is 0", allow_module_level=True)

kernels = triton_package.load()
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, where an overflow is meant

NARROW = [f for f in sweeps.FORMATS if f != "fp32"]
WRITTEN = ("outs", "codes", "scales", "params", "momenta")


def code_storage(n: int, format: str) -> torch.Tensor:
    spec = formats.FORMATS[format]
    stored = torch.empty((n + 1) // 2 if spec.packed else n, dtype=spec.dtype)
    stored.view(torch.uint8).fill_(0xAB)
    return stored


def copied(value):
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list) and all(isinstance(v, torch.Tensor) for v in value):
        return [v.clone() for v in value]
    return value


def agree(grads: list[torch.Tensor], in_place: bool = False, **arguments) -> torch.Tensor:
    """Both sweeps from the same start give the same table and write the same bits. Returns the table."""
    results = []
    for sweep in (kernels.sweep, reference_sweep):
        mine = {key: copied(value) for key, value in arguments.items()}
        own = copied(grads)
        if in_place:
            mine["outs"] = own
        table = sweep(own, **mine)
        state = [mine["state"]] if mine.get("state") is not None else []
        results.append([table, *own, *state, *(t for key in WRITTEN for t in mine.get(key) or [])])
    assert_same_bits(*results, "Triton and the reference")
    return results[0][0]


def quantizing(sizes, format: str, scale: str, block: int = 0) -> dict:
    """The arguments for outputs of a quantizer."""
    arguments = {"format": format, "scale": scale, "block": block, "codes": [code_storage(n, format) for n in sizes]}
    if scale != "none":
        blocks = [scales.block_count(n, block) if scale == "block" else 1 for n in sizes]
        arguments["scales"] = [torch.full((b,), math.nan) for b in blocks]
    return arguments


SCALES = ("none", "tensor", "tensor pow2", "given", *(f"block {b}" for b in sweeps.BLOCKS), "block 32 pow2", "lagged")
AXES = {
    "format": sweeps.FORMATS,
    "rounding": sweeps.ROUNDINGS,
    "scale": SCALES,
    "method": ("none", "znorm", "centralize", "clip"),
    "dtype": (*DTYPES, "mixed"),
    "kind": KINDS,
    "purpose": sweeps.PURPOSES,
    "measure": (True, False),
    "unscale": (1.0, 0.37),
    "skip": (False, True),
}
SIZES = (129, 1, 1025)


def legal(case):
    return case if case["format"] != "fp32" else {**case, "scale": "none"}


def lists(kind: str, dtype, sizes=SIZES) -> list[torch.Tensor]:
    return [tensor(kind, n, DTYPES[i % 3] if dtype == "mixed" else dtype, seed=i) for i, n in enumerate(sizes)]


@pytest.mark.parametrize("case", pairwise(AXES, seed=5, adjust=legal), ids=name)
def test_quantize(case):
    """Every two options together, with codes, scales and values of mixed types written."""
    scale, *extra = case["scale"].split()
    grads = lists(case["kind"], case["dtype"])
    block = int(extra[0]) if scale == "block" else 0
    kind = scale if scale in ("none", "block") else "tensor"
    arguments = quantizing(SIZES, case["format"], kind, block)
    if scale == "given":
        arguments["given_scales"] = [torch.tensor([1e-5 if i % 2 else 3e4]) for i in range(len(SIZES))]
    if scale == "lagged":
        arguments["lagged"] = reference_sweep(lists("normal", torch.float32), flags=[3] * 3, format="int8", seed=1)
    agree(
        grads,
        flags=[3, 2 if case["skip"] else 1, 3],
        rows=[3, 1, 5],
        method=case["method"],
        rounding=case["rounding"],
        pow2="pow2" in extra,
        outs=[torch.full((n,), math.nan, dtype=DTYPES[i % 3]) for i, n in enumerate(SIZES)],
        seed=-3,
        step=2**31 - 1,
        slot=4095,
        purpose=case["purpose"],
        ids=[2**18 - 1 - i for i in range(3)],
        measure=case["measure"],
        inv_scale=case["unscale"],
        skip_nonfinite=case["skip"],
        **arguments,
    )


@pytest.mark.parametrize("scale", ("none", "tensor", "block"))
@pytest.mark.parametrize("rounding", sweeps.ROUNDINGS)
@pytest.mark.parametrize("format", NARROW)
def test_every_rounding(format, rounding, scale):
    x = torch.cat([tensor("normal", 200), tensor("wild", 600)])
    table = agree([x], flags=[2], rounding=rounding, **quantizing((800,), format, scale, 16))
    assert table[0, sweeps.reference.SUM_YY] > 0


METHODS = [(method, "one") for method in sweeps.METHODS if method != "autoscale"]
METHODS += [("autoscale", alpha) for alpha in sweeps.ALPHAS]


@pytest.mark.parametrize("stats", ("current", "lagged"))
@pytest.mark.parametrize(("method", "alpha"), METHODS)
def test_every_method(method, alpha, stats):
    """Two steps, the second with a state and, where lagged, the table of the first; in place."""
    state, table = torch.tensor([0.0, 2e-3] if alpha != "given" else [0.7, 0.0], dtype=torch.float64), None
    for step in range(2):
        grads = [tensor("normal", n, seed=step) for n in (60, 1025)] + [torch.empty(0), tensor("huge", 30)]
        lagged = table if stats == "lagged" else None
        if step and stats == "lagged":
            grads[1][3] = math.nan
        table = agree(
            grads, in_place=True, flags=[3, 3, 3, 0], rows=[4, 5, 0, 0], method=method, alpha=alpha, state=state,
            lagged=lagged, format="fp8_e4m3", scale="tensor", step=step, max_norm=1e-3, eps=1e-5,
        )  # fmt: skip
        state += 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_moments(kind):
    agree([tensor(kind, n, dtype) for n in (1, 1000, 2049) for dtype in DTYPES], flags=[0] * 9)


@pytest.mark.parametrize("kind", ("normal", "sprinkled"))
def test_chunks_are_merged(kind):
    """More than 64 tiles, the last one short, beside a tensor of one element."""
    sizes = (64 * 1024 + 2 * 1024 + 3, 1)
    agree(
        [tensor(kind, n) for n in sizes],
        flags=[3, 3],
        method="znorm",
        **quantizing(sizes, "fp4_e2m1", "block", 64),
    )


def test_many_leaves_are_merged():
    """A tree of more leaves than are merged at a time."""
    x = tensor("normal", 300 * 2)
    agree([x, tensor("normal", 14)], in_place=True, flags=[1] * 2, rows=[300, 7], method="centralize")


def test_many_tensors():
    """More than the least number of places that the kernels of the list have."""
    grads = [tensor("offset", 1 + i % 3, seed=i) for i in range(65)]
    agree(grads, flags=[1] * 65, method="autoscale", alpha="sigma")


LAUNCHES = (
    (4, {}),
    (5, {"method": "autoscale", "measure": False}),
    (6, {"method": "znorm", "write": True}),
    (8, {"method": "znorm", "format": "fp8_e4m3", "scale": "tensor"}),
    (4, {"format": "int8", "scale": "block", "block": 32, "measure": False}),
    (6, {"format": "int8", "scale": "block", "block": 32}),
    (10, {"method": "centralize", "format": "int8", "scale": "tensor", "rows": [3]}),
)


@pytest.mark.parametrize(("expected", "arguments"), LAUNCHES, ids=lambda value: str(value))
def test_launches(expected, arguments, monkeypatch):
    """Their number depends on what is asked for, not on the tensors."""
    launched = []
    genuine = triton.runtime.interpreter.GridExecutor.__call__

    def counted(self, *given, **named):
        launched.append(self.fn)
        return genuine(self, *given, **named)

    monkeypatch.setattr(triton.runtime.interpreter.GridExecutor, "__call__", counted)
    arguments = dict(arguments)
    write = arguments.pop("write", False)
    for grads in ([tensor("normal", 6)], [tensor("normal", n) for n in (3, 66, 9, 1200, 3)]):
        launched.clear()
        if "rows" in arguments:
            arguments["rows"] = [3] * len(grads)
        outs = grads if write else None
        kernels.sweep(grads, flags=[3] * len(grads), outs=outs, **arguments)
        assert len(launched) == expected


@pytest.mark.parametrize("rows", (1, 7, 90), ids=lambda r: f"{r} rows")
def test_centralize(rows):
    """Rows shorter and longer than a tile, one row, rows that end in the middle of everything."""
    n = {1: 2500, 7: 7 * 1300, 90: 450}[rows]
    grads = [torch.empty(0), tensor("offset", n), tensor("sprinkled", 60)]
    arguments = quantizing((0, n, 60), "int8", "tensor")
    agree(grads, flags=[3] * 3, rows=[5, rows, 3], method="centralize", rounding="nearest", **arguments)


@pytest.mark.parametrize("stop", (False, True))
@pytest.mark.parametrize("method", ("none", "autoscale", "centralize"))
def test_skip_nonfinite(method, stop):
    grads = [tensor("normal", 70), tensor("normal", 1100)]
    if stop:
        grads[1][1099] = math.inf
    table = agree(
        grads,
        flags=[3, 3],
        rows=[7, 11],
        method=method,
        skip_nonfinite=True,
        state=torch.tensor([0.5, 2.0], dtype=torch.float64),
        params=[torch.ones(70), torch.ones(1100, dtype=torch.bfloat16)],
        momenta=[torch.ones(70), torch.ones(1100)],
        hyper=torch.tensor([[0.1, 0.9, 0, 0.01, 0, 1, 0, 0]], dtype=torch.float64),
        factors=torch.tensor([0.5, 2.0], dtype=torch.float64),
        **quantizing((70, 1100), "fp8_e5m2", "tensor"),
    )
    assert (table[-1, sweeps.reference.NONFINITE] > 0) == stop


SGD = {
    "momentum": (0.0, 0.9),
    "dampening": (0.0, 0.1),
    "nesterov": (False, True),
    "decay": ("none", "coupled", "decoupled"),
    "maximize": (False, True),
    "params": (*DTYPES, "mixed"),
    "momenta": (*DTYPES, "mixed", None),
    "grads": DTYPES,
    "weight_rounding": sweeps.ROUNDINGS,
    "first": (False, True),
    "factors": (False, True),
    "kind": ("normal", "wild", "tiny"),
    "format": ("fp32", "bf16", "int4"),
}


def without_buffers(case):
    return {**case, "momentum": 0.0} if case["momenta"] is None else case


@pytest.mark.parametrize("case", pairwise(SGD, seed=6, adjust=without_buffers), ids=name)
def test_sgd(case):
    decay = 0.0 if case["decay"] == "none" else 0.01
    row = [0.1, case["momentum"], case["dampening"], decay, case["nesterov"], case["decay"] == "decoupled"]
    hyper = torch.tensor([[*row, case["maximize"], 0], [*row, not case["maximize"], 0]], dtype=torch.float64)
    momenta = None if case["momenta"] is None else lists("normal", case["momenta"])
    agree(
        lists(case["kind"], case["grads"]),
        flags=[2 | 4 * case["first"], 4, 2],
        params=lists("normal" if case["kind"] != "wild" else "wild", case["params"]),
        momenta=momenta,
        hyper=hyper,
        groups=[0, 1, 0],
        factors=torch.tensor([1.0, 0.7, 1.3], dtype=torch.float64) if case["factors"] else None,
        format=case["format"],
        weight_rounding=case["weight_rounding"],
        measure=False,
    )


def test_storage_offsets():
    """Tensors that do not start at a multiple of 16 bytes."""
    base = tensor("normal", 3500)
    hyper = torch.tensor([[0.1, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    results = []
    for sweep in (kernels.sweep, reference_sweep):
        mine = [p.clone() for p in (base, tensor("normal", 3500, torch.bfloat16), torch.ones(10))]
        own, params = [mine[0][1:2050], mine[0][2051:2060]], [mine[1][3:2052], mine[2][1:]]
        table = sweep(own, flags=[3, 3], outs=own, params=params, hyper=hyper, method="centre", format="fp8_e4m3")
        results.append([table, *mine])
    assert_same_bits(*results, "unaligned")


def test_layouts():
    """Elements are taken in storage order, whatever the strides."""
    x = torch.randn(4, 6, 5, 7).to(memory_format=torch.channels_last)
    agree([x, torch.randn(33, 20).t()], in_place=True, flags=[3, 3], method="znorm", format="bf16")


@pytest.mark.parametrize("method", ("none", "autoscale", "centralize"))
def test_nothing_to_do(method):
    """Empty tensors, alone and all of a list; no tensor at all; nothing flagged."""
    for grads in ([torch.empty(0)], [torch.empty(0, 3), torch.empty(0)], [torch.full((5,), math.nan)], []):
        count = len(grads)
        agree(grads, flags=[3] * count, rows=[1] * count, method=method, format="int8", scale="tensor")
    agree([tensor("normal", 40)], in_place=True, flags=[0], rows=[4], method=method, format="fp16")


@pytest.mark.parametrize("method", ("none", "clip"))
def test_nan_payloads(method):
    x = from_bits([0x7F800001, 0xFFFFFFFF, 0x7FC12345, 0xFF800000, 0x80000000, 1, 0x3F800000, 0x7F7FFFFF])
    for dtype in DTYPES:
        out = torch.zeros(8, dtype=dtype)
        kernels.sweep([x], flags=[1], method=method, outs=[out])
        assert assert_nans_canonical(out, "out") >= 3
        agree([x], flags=[1], method=method, outs=[out])


def test_step_as_a_tensor():
    """The same noise as that of a number; a step that is kept on the device is read there."""
    x = tensor("normal", 300)
    results = []
    for step in (12345, torch.tensor(12345), torch.tensor([12345])):
        codes = code_storage(300, "fp8_e4m3")
        results.append([kernels.sweep([x], flags=[2], codes=[codes], format="fp8_e4m3", step=step), codes])
    assert_same_bits(results[1], results[0], "0-dim")
    assert_same_bits(results[2], results[0], "1-dim")


@pytest.mark.parametrize("argument", ({"step": 2**31}, {"ids": [2**18]}, {"slot": 4096}, {"method": "nonsense"}))
def test_bad_arguments(argument):
    with pytest.raises(ValueError, match=next(iter(argument)) if "ids" not in argument else "parameter"):
        kernels.sweep([torch.ones(3)], flags=[0], **argument)


def test_sizes_must_match():
    with pytest.raises(ValueError, match="outs"):
        kernels.sweep([torch.ones(3)], flags=[0], outs=[torch.ones(4)])


@pytest.mark.parametrize("block", (0, 16, 256))
@pytest.mark.parametrize("format", sweeps.FORMATS)
def test_dequantize(format, block):
    """All codes of the narrow formats, into tensors of all types; odd lengths."""
    sizes = (511, 1027)
    bytes_ = [torch.arange(code_storage(n, format).nbytes) % 256 for n in sizes]
    codes = [b.to(torch.uint8).view(formats.FORMATS[format].dtype) for b in bytes_]
    for k, dtype in enumerate(DTYPES):
        own = [torch.rand(scales.block_count(n, block) if block else 1) * 10.0 ** (38 * (k - 1)) for n in sizes]
        got, expected = ([torch.full((n,), math.nan, dtype=dtype) for n in sizes] for _ in range(2))
        kernels.dequantize(codes, own, format, block, got)
        for c, s, v in zip(codes, own, expected, strict=True):
            n = v.numel()
            each = scales.spread(s, block, n) if block else s
            decoded = formats.decode(formats.load_codes(c, format, n), each, format)
            v.copy_(formats.store_float(decoded, dtype))
        assert_same_bits(got, expected, f"dequantize {format}")


@triton.jit
def philox_kernel(words, philox: tl.constexpr):
    zero = tl.zeros([1], tl.uint32)
    w0, w1, w2, w3 = philox(zero, zero, zero, zero, zero, zero)
    i = tl.arange(0, 1)
    tl.store(words + i, w0.to(tl.int64))
    tl.store(words + 1 + i, w1.to(tl.int64))
    tl.store(words + 2 + i, w2.to(tl.int64))
    tl.store(words + 3 + i, w3.to(tl.int64))


def test_philox_known_answer():
    words = torch.zeros(4, dtype=torch.int64)
    philox_kernel[(1,)](words, triton_package.load("philox").philox4x32)
    assert words.tolist() == [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]


@triton.jit
def log_kernel(x, y, log64: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, log64(tl.load(x + i)))


def test_logarithm():
    x = torch.cat([torch.rand(60, dtype=torch.float64), torch.tensor([2.0**-126, 0.5, 0.7071067811865476, 1 - 2**-10])])
    y = torch.empty_like(x)
    log_kernel[(1,)](x, y, triton_package.load("normalizers").log64, 64)
    expected = torch.tensor([normalizers.log64(v) for v in x.tolist()], dtype=torch.float64)
    assert_same_bits([y], [expected], "log64")
