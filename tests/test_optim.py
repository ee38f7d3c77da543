"""fastgrad.optim.SGD as a drop-in for torch.optim.SGD, and what it adds."""

import copy
import io
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastgrad
from fastgrad.optim import SGD

BASES = {
    "plain": dict(lr=0.1),
    "momentum": dict(lr=0.1, momentum=0.9),
    "dampening": dict(lr=0.1, momentum=0.9, dampening=0.3),
    "nesterov": dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "maximize": dict(lr=0.1, momentum=0.9, weight_decay=1e-2, maximize=True),
}


def bits(t: torch.Tensor) -> torch.Tensor:
    t = t.detach().contiguous()
    return t.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).to(dtype)


def set_gradients(model: nn.Module, step: int, scale: float = 1e-2) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = (torch.randn(p.shape, generator=generator) * scale).to(p.dtype)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def assert_same_bits(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    for x, y in zip(a, b, strict=True):
        assert torch.equal(bits(x), bits(y))


def run(optimizer, model: nn.Module, steps: range) -> None:
    for step in steps:
        set_gradients(model, step)
        optimizer.step()


@pytest.mark.parametrize("base", BASES, ids=str)
def test_without_extras_the_error_is_no_worse_than_torchs(base):
    ours, theirs, truth = network(), network(), network(dtype=torch.float64)
    for optimizer, model in (
        (SGD(ours.parameters(), **BASES[base]), ours),
        (torch.optim.SGD(theirs.parameters(), **BASES[base]), theirs),
        (torch.optim.SGD(truth.parameters(), **BASES[base]), truth),
    ):
        for step in range(50):
            set_gradients(ours, step)
            for p, q in zip(model.parameters(), ours.parameters(), strict=True):
                p.grad = q.grad.to(p.dtype)
            optimizer.step()

    def error(model: nn.Module) -> float:
        pairs = zip(model.parameters(), truth.parameters(), strict=True)
        return float(sum(((p.detach().double() - t.detach()) ** 2).sum() for p, t in pairs)) ** 0.5

    assert 0 < error(ours) <= error(theirs)


@pytest.mark.parametrize("base", ["momentum", "nesterov"])
def test_state_dicts_load_both_ways_with_torch(base):
    model, other = network(), network()
    ours, theirs = SGD(model.parameters(), **BASES[base]), torch.optim.SGD(other.parameters(), **BASES[base])
    run(ours, model, range(3))
    other.load_state_dict(model.state_dict())
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours.state[p]["momentum_buffer"], theirs.state[q]["momentum_buffer"])
    run(theirs, other, range(3, 5))
    back = network()
    back.load_state_dict(other.state_dict())
    again = SGD(back.parameters(), lr=99.0)
    again.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert again.param_groups[0]["lr"] == BASES[base]["lr"]
    run(again, back, range(5, 7))
    run(ours, model, range(3, 7))
    for p, q in zip(model.parameters(), back.parameters(), strict=True):
        torch.testing.assert_close(p, q)


TREATED = dict(lr=0.1, momentum=0.9, weight_decay=1e-3, normalize="autoscale", grad_format="fp8_e4m3")


@pytest.mark.parametrize("stats", ["auto", "cached", "two_reads", "lagged"])
def test_resume_is_bit_equal_through_a_weights_only_checkpoint(stats):
    straight, resumed = network(), network()
    run(SGD(straight.parameters(), stats=stats, **TREATED), straight, range(8))
    first = SGD(resumed.parameters(), stats=stats, **TREATED)
    run(first, resumed, range(4))
    file = io.BytesIO()
    torch.save({"optimizer": first.state_dict(), "model": resumed.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = network(seed=1)
    fresh.load_state_dict(saved["model"])
    second = SGD(fresh.parameters(), stats=stats, **TREATED)
    second.load_state_dict(saved["optimizer"])
    run(second, fresh, range(4, 8))
    assert_same_bits(weights(straight), weights(fresh))


def test_cached_and_two_reads_are_the_same_bits_and_lagged_is_not():
    results = {}
    for stats in ("auto", "cached", "two_reads", "lagged"):
        model = network()
        run(SGD(model.parameters(), stats=stats, **{**TREATED, "normalize": "znorm"}), model, range(3))
        results[stats] = weights(model)
    assert_same_bits(results["auto"], results["cached"])
    assert_same_bits(results["auto"], results["two_reads"])
    assert not torch.equal(results["auto"][0], results["lagged"][0])


def test_one_two_and_three_threads_give_the_same_trajectory():
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            model = network()
            run(SGD(model.parameters(), **TREATED), model, range(3))
            results.append(weights(model))
    finally:
        torch.set_num_threads(before)
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


def test_a_missing_gradient_shifts_no_noise_and_no_state():
    """The noise of a parameter is keyed by its place in the groups."""
    full, partly = network(), network()
    options = dict(lr=0.1, grad_format="bf16")
    a, b = SGD(full.parameters(), **options), SGD(partly.parameters(), **options)
    set_gradients(full, 0)
    set_gradients(partly, 0)
    next(iter(partly.parameters())).grad = None
    untouched = next(iter(partly.parameters())).detach().clone()
    a.step()
    b.step()
    assert torch.equal(untouched, next(iter(partly.parameters())))
    assert_same_bits(weights(full)[1:], weights(partly)[1:])


def test_closure_scheduler_and_groups():
    model = network()
    conv, rest = list(model[0].parameters()), [p for m in model[1:] for p in m.parameters()]
    optimizer = SGD([{"params": conv, "lr": 0.5}, {"params": rest, "momentum": 0.0}], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3, 8, 8)).square().mean()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.25
    for _ in range(5):
        last = optimizer.step(closure)
    assert float(last) < float(first)
    assert all("momentum_buffer" in optimizer.state[p] for p in conv)
    assert not any("momentum_buffer" in optimizer.state.get(p, {}) for p in rest)


def test_groups_opt_out_and_the_rule_can_be_replaced():
    def rows(optimizer, model):
        set_gradients(model, 0)
        optimizer.step()
        return optimizer.table

    model = network()
    table = rows(SGD(model.parameters(), lr=0.1, normalize="znorm", grad_format="int8"), model)
    normalized, quantized = table[:-1, 6] != 1, table[:-1, 14] > 0
    assert normalized.tolist() == [p.dim() > 1 for p in model.parameters()]
    assert quantized.all()
    groups = [
        {"params": model[0].parameters(), "normalize": False, "quantize": False},
        {"params": model[4].parameters()},
    ]
    table = rows(SGD(groups, lr=0.1, normalize="znorm", grad_format="int8"), model)
    assert (table[:-1, 6] != 1).tolist() == [False, False, True, False]
    assert (table[:-1, 14] > 0).tolist() == [False, False, True, True]
    rule = SGD(
        model.parameters(), lr=0.1, normalize="znorm", grad_format="int8", eligible=lambda p, g: (True, p.dim() == 1)
    )
    table = rows(rule, model)
    assert (table[:-1, 6] != 1).all()
    assert (table[:-1, 14] > 0).tolist() == [p.dim() == 1 for p in model.parameters()]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nonfinite_policies(poison):
    def poisoned(**options):
        model = network()
        named = SGD(model.named_parameters(), lr=0.1, momentum=0.9, normalize="znorm", grad_format="bf16", **options)
        run(named, model, range(2))
        before = (weights(model), copy.deepcopy(named.state_dict()["state"]))
        set_gradients(model, 2)
        model[4].weight.grad[3, 5] = poison
        return model, named, before

    model, optimizer, (before, state) = poisoned(nonfinite="skip")
    optimizer.step()
    assert_same_bits(before, weights(model))
    for key, entry in optimizer.state_dict()["state"].items():
        assert torch.equal(bits(entry["momentum_buffer"]), bits(state[key]["momentum_buffer"]))
    assert optimizer.skipped == 1

    model, optimizer, (before, _) = poisoned(nonfinite="error")
    with pytest.raises(FloatingPointError, match=r"4\.weight \(1 of 2880 elements\)"):
        optimizer.step()
    assert_same_bits(before, weights(model))

    model, optimizer, (before, _) = poisoned(nonfinite="propagate")
    optimizer.step()
    assert not torch.isfinite(model[4].weight).all()
    assert torch.isfinite(model[0].weight).all()


def test_first_step_that_is_skipped_leaves_no_state():
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, nonfinite="skip")
    set_gradients(model, 0)
    model[0].weight.grad[0] = float("inf")
    optimizer.step()
    assert not optimizer.state_dict()["state"]
    reference = network()
    run(SGD(reference.parameters(), lr=0.1, momentum=0.9), reference, range(1, 3))
    run(optimizer, model, range(1, 3))
    assert_same_bits(weights(reference), weights(model))


def test_grad_scaler_protocol_unscales_and_skips():
    plain, scaled = network(), network()
    a = SGD(plain.parameters(), lr=0.1, momentum=0.9, normalize="clip", max_norm=0.5)
    b = SGD(scaled.parameters(), lr=0.1, momentum=0.9, normalize="clip", max_norm=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x = torch.randn(4, 3, 8, 8)
    for _ in range(3):
        a.zero_grad()
        plain(x).square().mean().backward()
        a.step()
        b.zero_grad()
        scaler.scale(scaled(x).square().mean()).backward()
        scaler.step(b)
        scaler.update()
    assert_same_bits(weights(plain), weights(scaled))  # a power of two is undone exactly
    before = weights(scaled)
    b.zero_grad()
    scaler.scale(scaled(x).square().mean()).backward()
    scaled[0].weight.grad[0] = float("inf")
    scaler.step(b)
    scaler.update()
    assert_same_bits(before, weights(scaled))
    assert scaler.get_scale() == 512.0


def test_compensation_divides_by_the_measured_shrinkage():
    """Truncation shrinks: its q_k is well below one, and the next step is lengthened by just that."""
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, grad_format="fp4_e2m1", rounding="truncate", compensate="q")
    set_gradients(model, 0)
    optimizer.step()
    q = fastgrad.shrinkage.projection(optimizer.table[:-1, 8], optimizer.table[:-1, 9])
    assert (q < 0.97).all()
    set_gradients(model, 1)
    optimizer.step()
    assert torch.equal(optimizer.table[:-1, 15], (1 / q).clamp(0.25, 4.0))


def test_bf16_weights_stochastic_rounding_keeps_small_updates():
    """Updates far below half a gap vanish with nearest rounding and survive, on average, with stochastic."""
    moved = {}
    for rounding in ("nearest", "stochastic"):
        p = nn.Parameter(torch.ones(100_000, dtype=torch.bfloat16))
        optimizer = SGD([p], lr=1.0, weight_rounding=rounding)
        for _ in range(20):
            p.grad = torch.full_like(p, 1e-4)
            optimizer.step()
        moved[rounding] = 1 - float(p.double().mean())
    assert moved["nearest"] == 0
    assert abs(moved["stochastic"] - 20 * 1e-4) < 5 * (0.0039 * 20 * 1e-4 / 100_000) ** 0.5


def test_callable_alpha_is_used():
    model, reference = network(), network()
    run(SGD(model.parameters(), lr=0.1, normalize="autoscale", alpha=lambda sigma, state: 1 + sigma), model, range(3))
    run(SGD(reference.parameters(), lr=0.1, normalize="autoscale", alpha="one_plus"), reference, range(3))
    assert_same_bits(weights(model), weights(reference))


def test_replaced_state_is_noticed():
    model, reference = network(), network()
    a, b = (SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, reference))
    run(a, model, range(3))
    run(b, reference, range(3))
    for p in model.parameters():
        a.state[p]["momentum_buffer"] = torch.zeros_like(p)
    for p in reference.parameters():
        b.state[p]["momentum_buffer"].zero_()
    run(a, model, range(3, 5))
    run(b, reference, range(3, 5))
    assert_same_bits(weights(model), weights(reference))
    a.state.clear()
    run(a, model, range(5, 7))
    assert all("momentum_buffer" in a.state[p] for p in model.parameters())


def test_bad_arguments_are_named():
    p = [nn.Parameter(torch.ones(3))]
    for options, message in (
        (dict(lr=-1), "lr"),
        (dict(normalize="zscore"), "normalize: expected one of None, none, centre"),
        (dict(grad_format="fp7"), "grad_format: expected one of None, fp32, bf16"),
        (dict(alpha="best"), "alpha: expected one of ratio_first"),
        (dict(stats="old"), "stats: expected one of auto"),
        (dict(grad_format="int8", scale="block", block=48), "block: expected one of 16, 32"),
        (dict(nonfinite="ignore"), "nonfinite: expected one of propagate, skip, error"),
        (dict(compensate="q"), "compensate: 'q' needs a grad_format"),
        (dict(nesterov=True), "nesterov: needs a momentum"),
    ):
        with pytest.raises(ValueError, match=message):
            SGD(p, **options)
    with pytest.raises(TypeError, match="float64"):
        SGD([nn.Parameter(torch.ones(3, dtype=torch.float64))])
    with pytest.raises(TypeError, match="int64"):
        SGD([torch.ones(3, dtype=torch.int64)])
    embedding = nn.Embedding(10, 4, sparse=True)
    optimizer = SGD(embedding.named_parameters(), lr=0.1)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TypeError, match="weight: its gradient is sparse"):
        optimizer.step()


def test_repr_says_what_happens_to_gradients():
    text = repr(SGD([nn.Parameter(torch.ones(3))], **TREATED))
    assert "autoscale (alpha=ratio_first) -> stochastic rounding to fp8_e4m3, scale per tensor" in text


def test_channels_last_and_strange_layouts_take_the_same_step():
    a, b = network(), network().to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 8, 8)
    for model in (a, b):
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, normalize="centralize")
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q.contiguous())
    p = nn.Parameter(torch.zeros(6, 4).t())  # dense, but not contiguous
    q = nn.Parameter(torch.zeros(4, 6))
    for w, g in ((p, torch.arange(24.0).view(4, 6)), (q, torch.arange(24.0).view(4, 6))):
        w.grad = g
        SGD([w], lr=1.0, normalize="znorm").step()
    assert torch.equal(p, q)


class Ops(TorchDispatchMode):
    """The ops of ours that pass the dispatcher."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastgrad":
            self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("make", "op"),
    (
        (partial(fastgrad.optim.SGD, momentum=0.9, normalize="znorm"), "sgd_step_"),
        (partial(fastgrad.optim.AdamW, state_format="int8"), "adamw_step_"),
    ),
)
def test_steps_are_seen_by_who_listens_to_the_dispatcher_and_are_the_same_bits(make, op):
    def trained(around):
        torch.manual_seed(0)
        model = torch.nn.Linear(40, 30)
        optimizer = make(model.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, 40)).square().mean().backward()
            with around:
                optimizer.step()
        return [p.detach() for p in model.parameters()]

    alone, mode = trained(nullcontext()), Ops()
    assert all(map(torch.equal, alone, trained(mode)))
    assert mode.seen == [op] * 3
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        assert all(map(torch.equal, alone, trained(nullcontext())))
    assert {event.key: event.count for event in profile.key_averages()}[f"fastgrad::{op}"] == 3
