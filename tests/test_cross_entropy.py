"""linear_cross_entropy: F.cross_entropy's semantics, no worse than the naive formula, never all logits."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from contract_bits import assert_same_bits
from torch import Tensor

import fastgrad
from fastgrad import cross_entropy
from fastgrad.cross_entropy import linear_cross_entropy, piece_sizes

MAPS = [(1.0, None), (0.25, None), (1.0, 2.0), (3.0, 5.0)]


def example(tokens=(3, 7), words=37, features=6, dtype=torch.float64, bias=True, spread=1.0) -> dict[str, Tensor]:
    made = {
        "hidden": torch.randn(*tokens, features, dtype=dtype) * spread,
        "weight": torch.randn(words, features, dtype=dtype),
    }
    if bias:
        made["bias"] = torch.randn(words, dtype=dtype)
    return {name: t.requires_grad_() for name, t in made.items()}


def some_targets(tokens=(3, 7), words=37, ignored=3, ignore_index=-100) -> Tensor:
    targets = torch.randint(0, words, tokens)
    targets.view(-1)[torch.randperm(targets.numel())[:ignored]] = ignore_index
    return targets


def naive(hidden, weight, targets, *, bias=None, logit_scale=1.0, softcap=None, reduction="mean", **options) -> Tensor:
    z = F.linear(hidden, weight, bias).flatten(0, -2) * logit_scale
    z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    loss = F.cross_entropy(z, targets.flatten(), reduction=reduction, **options)
    return loss.view(targets.shape) if reduction == "none" else loss


def loss_and_gradients(function, inputs: dict[str, Tensor], targets: Tensor, **options) -> dict[str, Tensor]:
    inputs = {name: t.detach().clone().requires_grad_() for name, t in inputs.items()}
    loss = function(inputs["hidden"], inputs["weight"], targets, bias=inputs.get("bias"), **options)
    loss.backward(torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).view(loss.shape))
    return {"loss": loss.detach()} | {name: t.grad for name, t in inputs.items()}


@pytest.mark.parametrize("reduction", cross_entropy.REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("scale", "cap"), MAPS)
def test_semantics_of_cross_entropy(reduction, smoothing, scale, cap):
    """In float64, in pieces of one word, of some words and some tokens, and in one piece."""
    inputs, targets = example(), some_targets()
    options = dict(reduction=reduction, label_smoothing=smoothing, logit_scale=scale, softcap=cap)
    expected = loss_and_gradients(naive, inputs, targets, **options)
    for chunk_bytes in (1, 3000, 1 << 20):
        got = loss_and_gradients(linear_cross_entropy, inputs, targets, chunk_bytes=chunk_bytes, **options)
        for name, value in got.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("scale", "cap"), MAPS)
def test_gradcheck(scale, cap):
    targets = some_targets((2, 3), 11, ignored=1)

    def function(hidden, weight, bias):
        return linear_cross_entropy(
            hidden, weight, targets, bias=bias, reduction="none", label_smoothing=0.1, logit_scale=scale, softcap=cap,
            chunk_bytes=1000,
        )  # fmt: skip

    assert torch.autograd.gradcheck(function, tuple(example((2, 3), 11, 4).values()))


def test_ignored_targets():
    inputs = example()
    for index in (-100, -1, 5):
        targets = some_targets(ignored=9, ignore_index=index)
        options = dict(ignore_index=index, reduction="mean", label_smoothing=0.1)
        got, expected = (loss_and_gradients(f, inputs, targets, **options) for f in (linear_cross_entropy, naive))
        for name, value in got.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)
        assert got["hidden"][targets == index].count_nonzero() == 0


@pytest.mark.parametrize("tokens", [(4,), (0,)])
def test_nothing_counts(tokens):
    """As in torch: a mean over nothing is NaN, a sum is 0, gradients are 0."""
    inputs, targets = example(tokens), torch.full(tokens, -100)
    for reduction in ("mean", "sum"):
        got, expected = (
            loss_and_gradients(f, inputs, targets, reduction=reduction) for f in (linear_cross_entropy, naive)
        )
        for name, value in got.items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0, equal_nan=True)
        assert got["loss"].isnan() == (reduction == "mean")
        assert got["weight"].count_nonzero() == 0


def test_vector_and_scalar_shapes():
    inputs = example(())
    targets = torch.tensor(11)
    torch.testing.assert_close(
        linear_cross_entropy(inputs["hidden"], inputs["weight"], targets, reduction="none"),
        F.cross_entropy(inputs["weight"] @ inputs["hidden"], targets),
    )


def test_words_that_a_bias_forbids():
    """-inf in the bias: whole pieces whose logits are all -inf."""
    inputs, targets = example(), torch.randint(20, 37, (3, 7))
    inputs["bias"] = inputs["bias"].detach().clone()
    inputs["bias"][:20] = -torch.inf
    got = loss_and_gradients(linear_cross_entropy, inputs, targets, chunk_bytes=1)
    expected = loss_and_gradients(naive, inputs, targets)
    for name, value in got.items():
        assert value.isfinite().all()
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


def test_non_finite_hidden_states():
    """Only the loss and gradient of the tokens that hold them, and the weight's gradient, become NaN."""
    inputs, targets = example(dtype=torch.float32), some_targets(ignored=0)
    with torch.no_grad():
        inputs["hidden"][1, 2, 0] = torch.nan
    got, expected = (
        loss_and_gradients(f, inputs, targets, reduction="none") for f in (linear_cross_entropy, naive)
    )
    for name in got:
        assert torch.equal(got[name].isnan(), expected[name].isnan()), name
    assert int(got["loss"].isnan().sum()) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("chunk_bytes", [1 << 20, 64 << 20])
def test_no_worse_than_naive(dtype, chunk_bytes):
    """Against float64 on the same operands: loss and every gradient; the floor is one rounding of the result."""
    tokens, words, features = (2, 100), 4000, 96
    inputs = example(tokens, words, features, torch.float64, spread=0.5)
    inputs = {name: t.detach().to(dtype) for name, t in inputs.items()}
    targets = some_targets(tokens, words, ignored=20)
    truth = loss_and_gradients(naive, {name: t.double() for name, t in inputs.items()}, targets)
    got = loss_and_gradients(linear_cross_entropy, inputs, targets, chunk_bytes=chunk_bytes)
    plain = loss_and_gradients(naive, inputs, targets)
    floors = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}
    assert got["loss"].dtype == torch.float32
    for name, value in got.items():
        size = truth[name].norm()
        ours, theirs = ((v[name].double() - truth[name]).norm() / size for v in (got, plain))
        floor = 2.0**-23 if name == "loss" else floors[dtype]
        assert value.dtype == (torch.float32 if name == "loss" else dtype)
        assert ours <= theirs + floor, (name, float(ours), float(theirs))


def test_autocast_rounds_operands_as_linear_does():
    inputs, targets = example((50,), 300, 32, torch.float32), some_targets((50,), 300)
    rounded = {name: t.detach().bfloat16().double() for name, t in inputs.items()}
    truth = loss_and_gradients(naive, rounded, targets)
    with torch.autocast("cpu", torch.bfloat16):
        got = loss_and_gradients(linear_cross_entropy, inputs, targets)
    for name, value in got.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), truth[name], rtol=1e-5, atol=1e-6)


def test_tied_embedding():
    torch.manual_seed(0)
    table, ids = torch.randn(50, 8, dtype=torch.float64), torch.randint(0, 50, (2, 9))

    def gradient(function):
        weight = table.clone().requires_grad_()
        function(F.embedding(ids, weight).cumsum(1), weight, ids.roll(-1, 1)).backward()
        return weight.grad

    torch.testing.assert_close(gradient(linear_cross_entropy), gradient(naive), rtol=1e-12, atol=1e-12)


def test_only_what_needs_a_gradient():
    targets = some_targets()
    for frozen in (("weight", "bias"), ("hidden",), ("bias",)):
        inputs = {name: t.requires_grad_(name not in frozen) for name, t in example().items()}
        linear_cross_entropy(inputs["hidden"], inputs["weight"], targets, bias=inputs["bias"]).backward()
        assert {name for name, t in inputs.items() if t.grad is None} == set(frozen)


def test_second_backward():
    """The same bits again with retain_graph; a derivative of the derivative is refused."""
    inputs, targets = example(), some_targets()
    loss = linear_cross_entropy(inputs["hidden"], inputs["weight"], targets)
    first, second = (torch.autograd.grad(loss, inputs["weight"], retain_graph=True)[0] for _ in range(2))
    assert_same_bits([first], [second], "weight")
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.grad(loss, inputs["hidden"], create_graph=True)


class ByteRows(torch.Tensor):
    """A weight held as int8 rows with a scale each; of its values only slices are ever made."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32, requires_grad=True)

    def __init__(self, codes, scale):
        self.codes, self.scale, self.largest = codes, scale, 0

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        if function in (torch.ops.aten.detach.default, torch.ops.aten.view.default):
            return arguments[0]
        raise AssertionError(f"{function} was called on the whole weight")


@cross_entropy.rows.register
def _(weight: ByteRows, begin: int, end: int) -> Tensor:
    weight.largest = max(weight.largest, end - begin)
    return weight.codes[begin:end].float() * weight.scale[begin:end]


def test_a_weight_of_another_form_is_met_in_slices():
    torch.manual_seed(0)
    codes, scale = torch.randint(-127, 128, (600, 16), dtype=torch.int8), torch.rand(600, 1) / 100
    hidden, targets = torch.randn(30, 16, requires_grad=True), torch.randint(0, 600, (30,))
    weight = ByteRows(codes, scale)
    loss = linear_cross_entropy(hidden, weight, targets, chunk_bytes=20_000)
    got = torch.autograd.grad(loss, (hidden, weight))
    assert 0 < weight.largest <= 128
    plain = (codes.float() * scale).requires_grad_()
    again = linear_cross_entropy(hidden, plain, targets, chunk_bytes=20_000)
    assert_same_bits([loss, *got], [again, *torch.autograd.grad(again, (hidden, plain))], "bytes")
    assert type(got[1]) is Tensor


def test_pieces_fit_the_work_space():
    for tokens in (1, 7, 512, 4096, 100_000):
        for words, features in ((100, 8), (32_000, 512), (152_064, 8192)):
            for chunk_bytes in (1 << 20, 64 << 20, 1 << 30):
                n, c = piece_sizes(tokens, words, features, 4, chunk_bytes)
                assert 1 <= n <= tokens and 1 <= c <= words
                if (n, c) != (1, 1):
                    assert 4 * (4 * n * c + 2 * c * features) <= chunk_bytes
                if n < tokens:
                    assert c >= min(words, 192) or n == 1


def test_compiles_into_one_graph():
    inputs, targets = example(dtype=torch.float32), some_targets()
    eager = loss_and_gradients(linear_cross_entropy, inputs, targets)
    torch._dynamo.reset()
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    got = loss_and_gradients(compiled, inputs, targets)
    assert_same_bits(list(got.values()), list(eager.values()), "compiled")
    torch._dynamo.reset()


def test_ops_are_well_formed():
    inputs, targets = example(), some_targets().flatten()
    hidden = inputs["hidden"].detach().flatten(0, 1)
    weight, bias = inputs["weight"].detach().t().contiguous().t(), inputs["bias"].detach()
    options = (-100, 0.1, 2.0, 5.0, torch.float64, 2000)
    losses, sums = torch.ops.fastgrad.linear_cross_entropy(hidden, weight, bias, targets, *options)
    torch.library.opcheck(
        torch.ops.fastgrad.linear_cross_entropy.default, (hidden, weight, bias, targets, *options)
    )
    for needed in ([True, True, True], [False, True, False]):
        torch.library.opcheck(
            torch.ops.fastgrad.linear_cross_entropy_backward.default,
            (torch.ones_like(losses), hidden, weight, bias, targets, sums, needed, *options),
        )


def test_within_compressed_activations():
    """The hidden states it saves are compressed; targets, places and log-sum-exps are not."""
    tokens, words, features = (4096,), 100, 64
    inputs, targets = example(tokens, words, features, torch.float32, False, spread=0.1), some_targets(tokens, words)
    exact = loss_and_gradients(linear_cross_entropy, inputs, targets)
    with fastgrad.compress_saved_tensors("int8", step=0) as saved:
        rounded = loss_and_gradients(
            lambda hidden, *rest, **options: linear_cross_entropy(hidden * 1.0, *rest, **options), inputs, targets
        )
    report = saved.measure()
    assert report.left == {"parameter": 1, "dtype": 3} and len(report.tensors) == 1
    assert_same_bits([rounded["loss"]], [exact["loss"]], "loss")
    assert 0 < (rounded["weight"] - exact["weight"]).norm() < 0.02 * exact["weight"].norm()


GOOD = dict(hidden=torch.zeros(4, 3), weight=torch.zeros(5, 3), targets=torch.zeros(4, dtype=torch.int64))
BAD = [
    (dict(hidden=torch.zeros(4, 2)), ValueError, "weight: expected shape"),
    (dict(weight=torch.zeros(5)), ValueError, "weight: expected shape"),
    (dict(weight=torch.zeros(5, 3).half()), TypeError, "weight: expected the dtype of hidden"),
    (dict(hidden=torch.zeros(4, 3).long()), TypeError, "hidden: expected a floating-point"),
    (dict(weight=[1.0]), TypeError, "weight: expected a tensor"),
    (dict(bias=torch.zeros(4)), ValueError, "bias: expected shape"),
    (dict(targets=torch.zeros(4)), TypeError, "targets: expected int64"),
    (dict(targets=torch.zeros(3, dtype=torch.int64)), ValueError, "targets: expected shape"),
    (dict(targets=torch.full((4,), 5)), IndexError, r"targets: expected class numbers in \[0, 5\), got 5"),
    (dict(targets=torch.full((4,), -1)), IndexError, "got -1"),
    (dict(reduction="max"), ValueError, "reduction"),
    (dict(label_smoothing=1.5), ValueError, "label_smoothing"),
    (dict(softcap=0.0), ValueError, "softcap"),
    (dict(chunk_bytes=0), ValueError, "chunk_bytes"),
    (dict(backend="cuda"), ValueError, "backend"),
    (dict(backend="liger", logit_scale=2.0), ValueError, "backend: 'liger' cannot be used here: logit_scale"),
    (dict(weight=torch.zeros(5, 3, device="meta")), ValueError, "weight: expected device cpu"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        linear_cross_entropy(**(GOOD | change))


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="liger-kernel is not installed")
@pytest.mark.parametrize("reduction", cross_entropy.REDUCTIONS)
def test_liger_kernel_gives_the_same(reduction):
    """Its Triton kernel, interpreted (which must be decided before Triton is imported)."""
    program = f"""
import torch
from test_cross_entropy import example, some_targets, loss_and_gradients, linear_cross_entropy
torch.manual_seed(0)
inputs = example((3, 7), 50, 16, torch.float32, bias=False)
for targets in (some_targets((3, 7), 50), torch.full((3, 7), -100)):
    ours, liger = (
        loss_and_gradients(linear_cross_entropy, inputs, targets, reduction={reduction!r}, backend=backend)
        for backend in ("chunked", "liger")
    )
    for name in ours:
        torch.testing.assert_close(liger[name], ours[name], rtol=1e-5, atol=1e-6, equal_nan=True)
"""
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here.parent, here, here / "support")))
    environment = dict(os.environ, TRITON_INTERPRET="1", PYTHONPATH=path)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
