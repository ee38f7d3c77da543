"""Tensors whose memory does not hold their values: negated (``is_neg``), or none at all. torch's dispatcher sees to
those; what reads memory by its address, beside the dispatcher, has to know them."""

from __future__ import annotations

import pytest
import torch
from contract_data import freed
from torch import nn

import fastgrad

OPTIMIZERS = {
    "sgd": lambda p: fastgrad.optim.SGD(p, lr=0.05, momentum=0.9),
    "treated sgd": lambda p: fastgrad.optim.SGD(p, lr=0.05, grad_format="fp8_e4m3"),
    "adamw": lambda p: fastgrad.optim.AdamW(p, lr=0.05),
    "attached": lambda p: attached(torch.optim.SGD(p, lr=0.05), normalize="clip", grad_format="bf16"),
}


def attached(optimizer, **options):
    fastgrad.attach(optimizer, **options)
    return optimizer


class Imaginary(nn.Module):
    """|conj(1 + i b) - target|^2: the gradient of b comes through a conjugate, negated in memory."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.tensor([0.3]))

    def forward(self, real: torch.Tensor) -> torch.Tensor:
        return (torch.complex(real, self.b).conj() - (0.5 - 2j)).abs().square().sum()


@pytest.mark.parametrize(
    "name, released",
    (("sgd", 0), ("sgd", 1), ("treated sgd", 0), ("treated sgd", 1), ("adamw", 0), ("adamw", 1), ("attached", 0)),
)
def test_steps_go_down_a_gradient_that_is_negated_in_memory(name, released):
    models = [Imaginary(), Imaginary()]
    optimizers = [OPTIMIZERS[name](m.parameters()) for m in models]
    if released:
        optimizers = [fastgrad.release_gradients(*pair) for pair in zip(models, optimizers, strict=True)]
    losses = []
    for _ in range(10):
        for i, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            real = torch.ones(1)
            if i == 1:  # the same gradient in memory of its own
                model.b.register_hook(lambda g: g.resolve_neg().clone())
            loss = model(real)
            loss.backward()
            if not released:
                assert model.b.grad.is_neg() == (i == 0)
            optimizer.step()
            model.zero_grad()
        losses.append(loss.item())
    assert torch.equal(models[0].b, models[1].b)
    assert losses[-1] < losses[0]


def negated(x: torch.Tensor) -> torch.Tensor:
    """x, with the negative in memory."""
    made = torch._neg_view(-x)
    assert made.is_neg() and torch.equal(made, x)
    return made


@pytest.mark.parametrize("format", ("bf16", "fp8_e4m3", "int8", "int4"))
def test_reading_ops(format):
    x = torch.randn(40, 33)
    assert torch.equal(fastgrad.gradient_moments([negated(x)]), fastgrad.gradient_moments([x]))
    (a, table_a), (b, table_b) = (fastgrad.quantize(t, format) for t in (negated(x), x))
    assert torch.equal(a.codes, b.codes) and torch.equal(a.scale, b.scale) and torch.equal(table_a, table_b)
    again, table = fastgrad.quantize(negated(x), format, out=a)
    assert torch.equal(again.codes, b.codes) and torch.equal(table, table_b)


def test_what_is_written_in_place_is_refused_as_torch_refuses_it():
    x = torch.randn(40)
    for call in (lambda t: fastgrad.normalize_([t], "znorm"), lambda t: torch._foreach_mul_([t], 2.0)):
        t = negated(x)
        with pytest.raises(RuntimeError, match="mutable TensorLists with negation"):
            call(t)
        assert torch.equal(t, x)


@pytest.mark.parametrize(
    "call",
    (
        lambda t: fastgrad.normalize_([torch.ones(3), t], "znorm"),
        lambda t: fastgrad.gradient_moments([torch.ones(3), t]),
        lambda t: fastgrad.quantize([torch.ones(3), t], "bf16"),
    ),
    ids=("normalize_", "gradient_moments", "quantize"),
)
def test_a_tensor_whose_storage_was_freed_is_named(call):
    with pytest.raises(ValueError, match=r"\[1\]: has no memory"):
        call(freed())


def test_zeros_without_memory_are_named_where_the_dispatcher_does_not_make_them():
    """Those of forward derivatives."""
    zero = torch._efficientzerotensor(8)
    assert fastgrad.gradient_moments([zero])[0, 0] == 8
    for call in (fastgrad.normalize_, fastgrad.quantize):
        with pytest.raises(ValueError, match=r"\[0\]: has no memory"):
            call([zero], "centre" if call is fastgrad.normalize_ else "bf16")
