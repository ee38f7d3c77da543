"""optim.SGD(capturable=True): what a graph has to read is in memory, and the bits are the ordinary step's."""

from __future__ import annotations

import copy

import pytest
import torch
from contract_bits import assert_same_bits
from torch import nn

import fastgrad
from fastgrad.ops.engines import launch

TREATED = dict(
    momentum=0.9, weight_decay=1e-3, normalize="autoscale", grad_format="fp8_e4m3", weight_rounding="stochastic"
)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 3)).to(torch.bfloat16)


def train(optimizer, model: nn.Module, steps: range, lr=None) -> list[torch.Tensor]:
    for step in steps:
        torch.manual_seed(step)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        for group in optimizer.param_groups:
            if lr is not None:
                lr(group, step)
        optimizer.step()
    buffers = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
    return [*(p.detach() for p in model.parameters()), *buffers, optimizer.table]


@pytest.mark.parametrize("options", ({}, TREATED), ids=("plain", "treated"))
def test_same_bits_as_the_ordinary_step(options):
    results = []
    for capturable in (False, True):
        model = network()
        optimizer = fastgrad.optim.SGD(
            model.parameters(), lr=0.1, capturable=capturable, **({"momentum": 0.9} | options)
        )
        results.append(train(optimizer, model, range(4), lambda group, step: group.update(lr=0.1 / (1 + step))))
    assert_same_bits(results[1], results[0], "capturable")


def test_learning_rate_in_memory_is_read_at_every_step():
    """A tensor changed in place, as between replays of a graph."""
    model = network()
    ordinary = train(
        fastgrad.optim.SGD(model.parameters(), lr=1.0, **TREATED),
        model,
        range(3),
        lambda group, step: group.update(lr=float(torch.tensor(0.3 / (1 + step)))),
    )
    model, lr = network(), torch.tensor(1.0)
    optimizer = fastgrad.optim.SGD(model.parameters(), lr=lr, capturable=True, **TREATED)
    got = train(optimizer, model, range(3), lambda group, step: lr.fill_(0.3 / (1 + step)))
    assert_same_bits(got, ordinary, "lr in memory")


def test_addresses_stay():
    """What a graph has recorded: one tensor of hyper-parameters, one clock."""
    model = network()
    optimizer = fastgrad.optim.SGD(model.parameters(), lr=0.1, capturable=True, **TREATED)
    train(optimizer, model, range(1))
    clock, hyper = optimizer._progress.clock, optimizer._hyper_tensor
    train(optimizer, model, range(1, 3), lambda group, step: group.update(lr=0.1 / (1 + step)))
    assert optimizer._progress.clock is clock and int(clock) == 3
    assert optimizer._hyper_tensor is hyper and float(hyper[0, 0]) == 0.1 / 3


def test_resumes_bit_equal():
    model = network()
    optimizer = fastgrad.optim.SGD(model.parameters(), lr=0.1, capturable=True, **TREATED)
    train(optimizer, model, range(2))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    expected = [t.clone() for t in train(optimizer, model, range(2, 4))]
    for capturable in (True, False):
        model = network()
        optimizer = fastgrad.optim.SGD(model.parameters(), lr=0.1, capturable=capturable, **TREATED)
        if capturable:
            train(optimizer, model, range(5))  # a clock that has to be set back
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(copy.deepcopy(saved[1]))
        assert_same_bits(train(optimizer, model, range(2, 4)), expected, f"resumed, capturable={capturable}")


@pytest.mark.parametrize(
    ("options", "name"),
    (
        ({"stats": "lagged"}, "stats"),
        ({"compensate": "q", "grad_format": "int8"}, "compensate"),
        ({"nonfinite": "skip"}, "nonfinite"),
        ({"normalize": "autoscale", "alpha": lambda sigma, state: 1.0}, "alpha"),
    ),
)
def test_refuses_what_needs_the_host(options, name):
    with pytest.raises(ValueError, match=f"^{name}: a capturable step"):
        fastgrad.optim.SGD(network().parameters(), lr=0.1, capturable=True, **options)


def test_refuses_a_scaler():
    model = network()
    optimizer = fastgrad.optim.SGD(model.parameters(), lr=0.1, capturable=True)
    optimizer.grad_scale = torch.tensor(2.0)
    with pytest.raises(RuntimeError, match="capturable: a GradScaler"):
        train(optimizer, model, range(1))


# AdamW: its ages, too, are moved on by the clock.

ADAMW = {
    "plain": {},
    "int8": dict(state_format="int8", normalize="znorm", grad_format="fp8_e4m3"),
    "factored": dict(state_format="bf16", factored=True, betas=(0.0, 0.99)),
}


def large_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 3)).to(torch.bfloat16)


def train_adamw(optimizer, model: nn.Module, steps: range) -> list[torch.Tensor]:
    for step in steps:
        torch.manual_seed(step)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    states = [t for s in optimizer.state.values() for t in s.values()]
    return [t.detach().clone() for t in (*model.parameters(), *states, optimizer.table)]


@pytest.mark.parametrize("options", ADAMW)
def test_adamw_has_the_bits_of_the_ordinary_step(options):
    """Also where a parameter joins later, with an age of its own."""
    results = []
    for capturable in (False, True):
        model = large_network()
        optimizer = fastgrad.optim.AdamW(model.parameters(), 1e-3, capturable=capturable, **ADAMW[options])
        model[2].bias.requires_grad_(False)
        for step in range(5):
            if step == 2:
                model[2].bias.requires_grad_(True)
            torch.manual_seed(step)
            for p in model.parameters():
                p.grad = torch.randn_like(p) if p.requires_grad else None
            optimizer.step()
        assert int(optimizer.state[model[2].bias]["step"]) == 3
        states = [t for s in optimizer.state.values() for t in s.values()]
        results.append([*(p.detach() for p in model.parameters()), *states, optimizer.table])
    assert_same_bits(results[1], results[0], options)


@pytest.mark.parametrize("options", ADAMW)
def test_adamws_replayed_steps_count(options, monkeypatch):
    """A graph calls the op again with the arguments of its capture and moves the clock on; the host sees neither.
    The bits are those of ordinary steps, and a state_dict knows how many there were."""
    model, twin = large_network(), large_network()
    optimizer = fastgrad.optim.AdamW(model.parameters(), 1e-3, capturable=True, **ADAMW[options])
    ordinary = fastgrad.optim.AdamW(twin.parameters(), 1e-3, **ADAMW[options])
    train_adamw(optimizer, model, range(3))
    recorded = []

    def record(op, tensors, *arguments):
        recorded.append(arguments)
        return launch(op, tensors, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("fastgrad.optim.adamw.launch", record)
        train_adamw(optimizer, model, range(3, 4))
    ((*arguments,),) = recorded
    clock = optimizer._progress.clock
    for step in range(4, 8):
        torch.manual_seed(step)
        for p in model.parameters():
            p.grad.copy_(torch.randn_like(p))
        with torch.no_grad():
            torch.ops.fastgrad.adamw_step_(*arguments)
        clock.add_(1)
    expected = train_adamw(ordinary, twin, range(8))
    assert_same_bits([p.detach() for p in model.parameters()], expected[: len(list(model.parameters()))], "replayed")
    state = optimizer.state_dict()
    assert state["param_groups"][0]["fastgrad"]["step"] == 8
    assert [int(s["step"]) for s in state["state"].values()] == [8] * 4
    assert_same_bits(train_adamw(optimizer, model, range(8, 10)), train_adamw(ordinary, twin, range(8, 10)), "after")


@pytest.mark.parametrize("options", ADAMW)
def test_adamw_resumes_bit_equal(options):
    model = large_network()
    make = lambda m, capturable: fastgrad.optim.AdamW(  # noqa: E731
        m.parameters(), 1e-3, capturable=capturable, **ADAMW[options]
    )
    optimizer = make(model, True)
    train_adamw(optimizer, model, range(2))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    expected = train_adamw(optimizer, model, range(2, 4))
    for capturable in (True, False):
        model = large_network()
        optimizer = make(model, capturable)
        train_adamw(optimizer, model, range(5))
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(copy.deepcopy(saved[1]))
        got = train_adamw(optimizer, model, range(2, 4))
        assert_same_bits(got, expected, f"resumed, capturable={capturable}")


def test_copies_of_a_capturable_optimizer_have_a_clock_of_their_own():
    model = large_network()
    optimizer = fastgrad.optim.AdamW(model.parameters(), 1e-3, capturable=True, state_format="int8")
    train_adamw(optimizer, model, range(2))
    twin, second = copy.deepcopy((model, optimizer))
    there = train_adamw(second, twin, range(2, 4))
    assert int(optimizer._progress.clock) == 2
    assert_same_bits(there, train_adamw(optimizer, model, range(2, 4)), "the copy")
