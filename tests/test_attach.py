"""fastgrad.attach: treating the gradients of an optimizer of somebody else's."""

import pytest
import torch
from torch import nn

import fastgrad


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(64, 32)


def backward(model: nn.Module, step: int) -> None:
    model.zero_grad()
    model(torch.randn(8, 64, generator=torch.Generator().manual_seed(step))).square().mean().backward()


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.RMSprop, lambda p: torch.optim.SGD(p, lr=0.1)])
def test_the_optimizer_sees_the_treated_gradient(make):
    attached, by_hand = linear(), linear()
    a, b = make(attached.parameters()), make(by_hand.parameters())
    fastgrad.attach(a, normalize="znorm", grad_format="bf16", seed=3)
    for step in range(3):
        backward(attached, step)
        a.step()
        backward(by_hand, step)
        grads = [p.grad for p in by_hand.parameters()]
        fastgrad.normalize_quantize_(grads, "znorm", "bf16", seed=3, step=step, flags=[3, 2])
        b.step()
    for p, q in zip(attached.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(p, q)


def test_agrees_with_our_sgd_bit_for_bit():
    theirs, ours = linear(), linear()
    options = dict(normalize="autoscale", grad_format="fp8_e4m3")
    a = torch.optim.SGD(theirs.parameters(), lr=0.5)
    fastgrad.attach(a, **options)
    b = fastgrad.optim.SGD(ours.parameters(), lr=0.5, **options)
    for step in range(3):
        backward(theirs, step)
        for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert torch.equal(p, q)


def test_detach_restores_the_optimizer_and_state_resumes():
    model, plain = linear(), linear()
    a, b = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, plain))
    handle = fastgrad.attach(a, normalize="clip", max_norm=1e-6)
    handle.detach()
    for m, o in ((model, a), (plain, b)):
        backward(m, 0)
        o.step()
    assert torch.equal(model.weight, plain.weight)
    first = fastgrad.attach(a, grad_format="bf16", normalize="autoscale")
    backward(model, 1)
    a.step()
    saved = first.state_dict()
    assert saved["step"] == 1
    first.detach()
    second = fastgrad.attach(a, grad_format="bf16", normalize="autoscale")
    second.load_state_dict(saved)
    assert second.state_dict()["step"] == 1
    assert torch.equal(second.state_dict()["alpha_state"], saved["alpha_state"])


@pytest.mark.parametrize("how", ("positional", "keyword"))
def test_gradients_of_a_closure_are_treated(how):
    """The bits of backward, then step(); the loss comes back."""
    options = dict(grad_format="int8", normalize="znorm")
    plain, model = linear(), linear()
    with_step, with_closure = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (plain, model))
    fastgrad.attach(with_step, **options)
    handle = fastgrad.attach(with_closure, **options)

    def closure():
        with_closure.zero_grad()
        backward(model, 0)
        return "loss"

    backward(plain, 0)
    with_step.step()
    got = with_closure.step(closure) if how == "positional" else with_closure.step(closure=closure)
    assert got == "loss"
    assert torch.equal(plain.weight, model.weight)
    assert handle.state_dict()["step"] == 1


def test_monitor_listens_to_the_handle():
    model = linear()
    optimizer = torch.optim.AdamW(model.parameters())
    handle = fastgrad.attach(optimizer, grad_format="int8")
    monitor = fastgrad.Monitor(handle, model.named_parameters())
    backward(model, 0)
    std = model.weight.grad.double().std(correction=0)
    optimizer.step()
    steps, values = monitor.series("weight", "std")
    assert steps.tolist() == [0]
    assert abs(float(values[0]) - float(std)) < 1e-6 * float(std)
    assert 0.9 < monitor.latest()["q_mean"] < 1.1


def test_without_a_treatment_it_measures():
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = fastgrad.attach(optimizer)
    monitor = fastgrad.Monitor(handle, model.named_parameters())
    backward(model, 0)
    before = model.weight.grad.clone()
    optimizer.step()
    assert torch.equal(model.weight.grad.view(torch.int32), before.view(torch.int32))
    assert float(monitor.series("weight", "norm")[1]) == pytest.approx(float(before.double().norm()), rel=1e-6)


def test_refusals_say_why():
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="nonfinite: a hook cannot skip"):
        fastgrad.attach(optimizer, nonfinite="skip")
    with pytest.raises(ValueError, match="compensate"):
        fastgrad.attach(optimizer, compensate="q", grad_format="int8")
    with pytest.raises(TypeError, match="LBFGS"):
        fastgrad.attach(torch.optim.LBFGS(model.parameters()), normalize="znorm")
    fastgrad.attach(optimizer, normalize="znorm", nonfinite="error")
    backward(model, 0)
    model.weight.grad[0, 0] = float("nan")
    before, grad = model.weight.detach().clone(), model.weight.grad.clone()
    with pytest.raises(FloatingPointError, match="nothing was updated"):
        optimizer.step()
    assert torch.equal(before, model.weight)
    assert torch.equal(grad.view(torch.int32), model.weight.grad.view(torch.int32))
