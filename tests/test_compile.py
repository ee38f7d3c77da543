"""Under torch.compile: eager's bits, one graph, no new compilation from step to step; and fake tensors."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo
from contract_bits import assert_same_bits
from contract_data import channels_last
from torch._subclasses.fake_tensor import FakeTensorMode

import fastgrad
from fastgrad.ops import sweeps

HYPER = [[0.1, 0.9, 0.0, 1e-3, 1.0, 0.0, 0.0, 0.0]]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def inputs() -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [torch.randn(6, 50), torch.randn(1025), channels_last(4, 3, 2, 2), torch.randn(())]


def rounded(x: list[torch.Tensor], step) -> list[torch.Tensor]:
    quantized, table = fastgrad.quantize(x, "fp8_e4m3", scale="block", block=32, seed=7, step=step)
    return [q.codes for q in quantized] + [q.scale for q in quantized] + fastgrad.dequantize(quantized) + [table]


def treated(x: list[torch.Tensor], step) -> list[torch.Tensor]:
    table = fastgrad.normalize_quantize_(x, "znorm", "int8", seed=7, step=step)
    return [table, *x]


def normalized(x: list[torch.Tensor], step) -> list[torch.Tensor]:
    return [fastgrad.normalize_(x, "autoscale", alpha="sigma"), fastgrad.gradient_moments(x), *x]


def stepped(x: list[torch.Tensor], step) -> list[torch.Tensor]:
    hyper = torch.tensor(HYPER, dtype=torch.float64)
    momenta = [torch.zeros_like(p) for p in x]
    table = fastgrad.sgd_step_(
        x, [p * 0.5 for p in x], momenta, hyper, method="centralize", format="bf16", seed=7, step=step
    )
    return [table, *x, *momenta]


FUNCTIONS = (rounded, treated, normalized, stepped)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_eager_bits(function):
    """fullgraph: nothing of it falls back to Python; the graph's mutations are the op's own."""
    expected = function(inputs(), 5)
    got = torch.compile(function, fullgraph=True, backend="aot_eager")(inputs(), 5)
    assert_same_bits(got, expected, function.__name__)


@pytest.mark.parametrize("function", (rounded, stepped))
def test_eager_bits_inductor(function):
    expected = function(inputs(), 5)
    got = torch.compile(function, fullgraph=True, backend="inductor")(inputs(), 5)
    assert_same_bits(got, expected, function.__name__)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_steps_do_not_recompile(function):
    """The first step compiles for its number, the second for any; after that to compile is an error."""
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for step in range(2):
        compiled(inputs(), step)
    with torch.compiler.set_stance("fail_on_recompile"):
        for step in range(2, 22):
            assert_same_bits(compiled(inputs(), step), function(inputs(), step), f"step {step}")


def test_learning_rate_and_seed_do_not_recompile():
    """lr is a number in a tensor; a seed may change as steps do."""

    def update(p, g, m, hyper, seed, step):
        return fastgrad.sgd_step_(
            [p],
            [g],
            [m],
            hyper,
            format="fp8_e5m2",
            scale="tensor",
            seed=seed,
            step=step,
            weight_rounding="stochastic",
        )

    compiled = torch.compile(update, fullgraph=True, backend="aot_eager")
    g = torch.randn(300)

    def run(function, steps, p, m):
        tables = []
        for step in steps:
            hyper = torch.tensor([[0.1 / (1 + step), *HYPER[0][1:]]], dtype=torch.float64)
            tables.append(function(p, g, m, hyper, 1000 + 3 * step, step))
        return tables

    ours, theirs = ([torch.ones(300, dtype=torch.bfloat16), torch.zeros(300)] for _ in range(2))
    got = run(compiled, range(2), *ours)
    with torch.compiler.set_stance("fail_on_recompile"):
        got += run(compiled, range(2, 22), *ours)
    assert_same_bits([*got, *ours], [*run(update, range(22), *theirs), *theirs], "22 steps")


def test_numbers_baked_in_would_be_seen():
    """What the two tests above rely on: a Python float that changes does recompile, and is refused."""
    compiled = torch.compile(
        lambda x, eps: fastgrad.normalize_([x], "znorm", eps=eps), fullgraph=True, backend="aot_eager"
    )
    compiled(torch.ones(4), 1e-8)
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError, match="recompile"):
        compiled(torch.ones(4), 1e-7)


def described(t: torch.Tensor) -> tuple:
    return t.dtype, tuple(t.shape), t.stride()


def everything(x: list[torch.Tensor], format: str, scale: str) -> list[torch.Tensor]:
    codes, scales, table = torch.ops.fastgrad.quantize(
        x, format, "stochastic", scale, 32, False, None, 1, 2, 3, "gradient", None, False
    )
    sizes = [n for t in x for n in t.shape]
    strides = [n for t in x for n in t.contiguous().stride()]
    values = torch.ops.fastgrad.dequantize(
        codes,
        scales,
        format,
        32 if scale == "block" else 0,
        sizes,
        strides,
        [t.dim() for t in x],
        torch.bfloat16,
    )
    moments = torch.ops.fastgrad.gradient_moments(x)
    state, hyper = torch.zeros(2, dtype=torch.float64), torch.tensor(HYPER, dtype=torch.float64)
    method = ("znorm", 1e-8, 1.0, "one", state, None, False, format, "nearest", scale, 32, False, 1, 2, None, 3)
    treated = torch.ops.fastgrad.normalize_quantize_([t.clone() for t in x], None, *method, "gradient", None, False)
    stepped = torch.ops.fastgrad.sgd_step_(
        *([t.clone() for t in x], x, [t.clone() for t in x], hyper, None, None, *method),
        *(None, None, 1.0, True, False, "nearest"),
    )
    return [*codes, *scales, table, *values, moments, treated, stepped]


@pytest.mark.parametrize("scale", ("none", "tensor", "block"))
@pytest.mark.parametrize("format", sweeps.FORMATS)
def test_fake_tensors_are_shaped_like_real_ones(format, scale):
    if format == "fp32" and scale != "none":
        pytest.skip("fp32 takes no scale")
    shapes = [
        torch.randn(3, 11),
        torch.randn(1025),
        torch.randn(5, 4).t(),
        torch.randn(8, 8)[:, ::2],
        torch.randn(0, 2),
    ]
    real = everything(shapes, format, scale)
    with FakeTensorMode() as mode:
        fake = everything([mode.from_tensor(t) for t in shapes], format, scale)
    assert [described(t) for t in fake] == [described(t) for t in real]


@pytest.mark.parametrize("kind", ("meta", "fake"))
def test_public_functions_take_tensors_without_data(kind):
    with FakeTensorMode() if kind == "fake" else torch.device("meta"):
        x = [torch.empty(3, 11), torch.empty(1025)]
        assert fastgrad.quantize(x, "int8")[1].shape == (3, 16)
        assert fastgrad.normalize_(x, "znorm").shape == (3, 16)


@pytest.mark.parametrize("format", sweeps.FORMATS)
def test_fake_cuda(format):
    """Shapes and devices for a machine that is not there."""
    with FakeTensorMode():
        x = [torch.empty(3, 11, device="cuda"), torch.empty(1025, device="cuda")]
        codes, scales, table = torch.ops.fastgrad.quantize(
            x,
            format,
            "stochastic",
            "none" if format == "fp32" else "block",
            32,
            False,
            None,
            1,
            2,
            3,
            "gradient",
            None,
            False,
        )
    assert all(t.device.type == "cuda" for t in (*codes, *scales))
    assert table.shape == (3, 16) and table.dtype == torch.float64
    packed = format in ("fp4_e2m1", "int4")
    assert [tuple(c.shape) for c in codes] == ([(17,), (513,)] if packed else [(3, 11), (1025,)])
