"""compress_saved_tensors: the tensors that it leaves alone, by reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from contract_bits import assert_same_bits
from saved_activations import gradients, relative, restored, transformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastgrad.activations import compress_saved_tensors


class Wrapped(torch.Tensor):
    """A weight in another form, as a quantized one would be."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        result = function(*(a.inner if isinstance(a, Wrapped) else a for a in arguments), **(options or {}))
        return Wrapped(result) if function in (torch.ops.aten.t.default, torch.ops.aten.detach.default) else result


def weights() -> dict[str, Callable[[Tensor], Tensor]]:
    weight = nn.Parameter(torch.randn(96, 80))
    frozen = nn.Parameter(torch.randn(96, 80), requires_grad=False)
    token = nn.Parameter(torch.randn(1, 80))
    kernel, leaf = nn.Parameter(torch.randn(16, 80, 1)), torch.randn(96, 80, requires_grad=True)
    wrapped = Wrapped(torch.randn(96, 80))
    return {
        "linear": lambda x: F.linear(x, weight),
        "frozen": lambda x: F.linear(x, frozen),
        "frozen, a view": lambda x: x @ frozen[10:90].t(),
        "frozen, detached": lambda x: F.linear(x, frozen) + F.linear(x, frozen.detach()[:96].view(96, 80)),
        "a leaf that is no Parameter": lambda x: F.linear(x, leaf),
        "transposed": lambda x: x @ weight.t(),
        "sliced, permuted, copied": lambda x: x @ weight[16:].transpose(0, 1).contiguous(),
        "in another dtype": lambda x: F.linear(x.double(), weight.double()).float(),
        "rounded to bfloat16": lambda x: F.linear(x.bfloat16(), weight.bfloat16()).float(),
        "expanded": lambda x: x * token.expand(200, 80),
        "convolution": lambda x: F.conv1d(x.t().unsqueeze(0), kernel),
        "subclass": lambda x: F.linear(x, wrapped),
    }


@pytest.mark.parametrize("case", weights())
def test_parameters_are_left_alone(case):
    """The gradient of x needs the weight only: it must be the exact one, bit for bit."""
    function = weights()[case]
    source = torch.randn(200, 80, requires_grad=True)
    with compress_saved_tensors("int4", min_elements=0) as saved:
        loss = function(source * 1).sum()
    (got,) = torch.autograd.grad(loss, source)
    (exact,) = torch.autograd.grad(function(source * 1).sum(), source)
    assert_same_bits([got], [exact], case)
    left = saved.measure().left
    assert left.get("tensor subclass", 0) + left.get("parameter", 0) >= 1, left


def test_weights_under_autocast():
    """Autocast's copies in bfloat16 are the parameters in another dtype."""
    model, source = nn.Sequential(nn.Linear(80, 96), nn.Linear(96, 80)), torch.randn(200, 80, requires_grad=True)

    def gradient(context):
        with torch.autocast("cpu", torch.bfloat16), context:
            loss = model(source * 1).sum()
        return torch.autograd.grad(loss, source)[0]

    saved = compress_saved_tensors("int4", min_elements=0)
    assert_same_bits([gradient(saved)], [gradient(compress_saved_tensors(min_elements=1 << 40))], "autocast")
    report = saved.measure()
    assert report.left == {"parameter": 2} and {t.dtype for t in report.tensors} == {torch.bfloat16}


def test_integers_booleans_and_small_tensors_are_left_alone():
    tensors = [torch.arange(6000), torch.rand(6000) < 0.5, torch.rand(6000).double(), torch.rand(4095), torch.ones(())]
    got, report = restored(*tensors, min_elements=4096)
    for a, b in zip(got, tensors, strict=True):
        assert_same_bits([a], [b], str(b.dtype))
    assert report.left == {"dtype": 3, "small": 2} and not report.tensors
    assert report.bytes_kept == report.bytes_before == sum(t.nbytes for t in tensors)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_tensors_are_left_alone(value):
    x = torch.randn(5000)
    x[77] = value
    (got,), report = restored(x)
    assert_same_bits([got], [x], "non-finite")
    assert report.left == {"non-finite": 1}


def test_non_finite_activations_reach_the_gradient():
    """A NaN in an activation is a NaN in the gradients it makes, as without the context."""
    model, x = nn.Linear(8, 8), torch.randn(1000, 8)
    x[5, 3] = torch.nan
    exact = gradients(model, lambda: model(x).square().sum())
    got = gradients(model, lambda: model(x).square().sum(), compress_saved_tensors("int8"))
    for a, b in zip(got, exact, strict=True):
        assert a.isnan().any() and torch.equal(a.isnan(), b.isnan())


def test_statistics_are_left_alone():
    """Log-sum-exps of attention and means of normalization layers, however many there are."""
    x = torch.randn(2, 4, 1024, 32, requires_grad=True)
    with compress_saved_tensors("int8") as saved:
        q = x * 1
        y = F.scaled_dot_product_attention(q, q, q)
        y = F.layer_norm(y.transpose(1, 2).flatten(2).view(8192, 32), (32,))
    loss = y.square().sum()
    report = saved.measure()
    assert report.left == {"statistic": 3}  # one log-sum-exp, mean and deviation of the rows
    assert len(report.tensors) == 3
    loss.backward()


def test_log_probabilities_are_left_alone():
    logits, targets = torch.randn(100, 200, requires_grad=True), torch.randint(0, 200, (100,))
    with compress_saved_tensors("int4") as saved:
        loss = F.cross_entropy(logits * 1, targets)
    assert saved.measure().left["logarithms"] >= 1 and not saved.measure().tensors
    (got,) = torch.autograd.grad(loss, logits)
    assert_same_bits([got], [torch.autograd.grad(F.cross_entropy(logits * 1, targets), logits)[0]], "cross entropy")


def test_given_tensors_are_left_alone():
    table = torch.randn(100, 100)
    got, report = restored(table, table[10:80], table.t(), exact=[table])
    assert_same_bits(got, [table, table[10:80], table.t()], "exact")
    assert report.left == {"exact": 3} and report.bytes_kept == table.nbytes


@pytest.mark.parametrize("reentrant", [True, False])
def test_inputs_of_checkpoints_are_left_alone(reentrant):
    """The forward is run again from the exact input: gradients are the exact ones."""
    net, x = transformer()
    source = x.requires_grad_()

    def loss():
        return checkpoint(net, source * 1, use_reentrant=reentrant).square().sum()

    exact = gradients(net, loss)
    context = compress_saved_tensors("int4")
    with context as saved:
        y = checkpoint(net, source * 1, use_reentrant=reentrant)
    net.zero_grad()
    y.square().sum().backward()
    assert_same_bits([p.grad for p in net.parameters()], exact, "checkpoint")
    assert saved.measure().left == {"checkpoint": 1}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_whose_backward_is_within(reentrant):
    net, x = transformer()
    source = x.requires_grad_()
    exact = gradients(net, lambda: net(source * 1).square().mean())
    net.zero_grad()
    with compress_saved_tensors("int8"):
        checkpoint(net, source * 1, use_reentrant=reentrant).square().mean().backward()
    assert 0 < relative([p.grad for p in net.parameters()], exact) < 0.02
