"""fastgrad.optim.AdamW as a drop-in for torch.optim.AdamW: trajectories, groups, schedulers, scalers, policies."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from adamw_training import NAMES, everything, parameters, set_gradients, train
from contract_bits import assert_same_bits
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from fastgrad.optim import AdamW

BASES = {
    "plain": dict(lr=1e-3),
    "decay": dict(lr=1e-2, weight_decay=0.1),
    "no momentum": dict(lr=1e-2, betas=(0.0, 0.99)),
    "maximize": dict(lr=1e-3, betas=(0.8, 0.95), maximize=True),
    "large eps": dict(lr=1e-3, eps=1e-3),
}
TIERS = {
    "fp32": {},
    "int8": dict(state_format="int8"),
    "int4 factored": dict(state_format="int4", factored=True),
    "treated": dict(state_format="bf16", normalize="autoscale", grad_format="fp8_e4m3"),
}


@pytest.mark.parametrize("base", BASES)
def test_the_error_is_no_larger_than_torchs(base):
    """Against torch in float64, after 50 steps; torch's loop over lists and its fused kernel."""
    truth = parameters(torch.float64)
    exact = torch.optim.AdamW(truth, **BASES[base])
    runs = {
        name: (make(params, **BASES[base]), params)
        for name, make in (
            ("ours", AdamW),
            ("foreach", lambda p, **o: torch.optim.AdamW(p, foreach=True, **o)),
            ("fused", lambda p, **o: torch.optim.AdamW(p, fused=True, **o)),
        )
        for params in [parameters()]
    }
    for step in range(50):
        for optimizer, params in runs.values():
            set_gradients(params, step)
            optimizer.step()
        for p, q in zip(truth, runs["ours"][1], strict=True):
            p.grad = q.grad.double()
        exact.step()

    def error(params: list[nn.Parameter]) -> float:
        squares = [((p.detach().double() - t.detach()) ** 2).sum() for p, t in zip(params, truth, strict=True)]
        return float(sum(squares)) ** 0.5

    errors = {name: error(params) for name, (_, params) in runs.items()}
    assert 0 < errors["ours"] <= min(errors["foreach"], errors["fused"]), errors


@pytest.mark.parametrize("tier", TIERS)
def test_one_two_and_three_threads_give_the_same_trajectory(tier):
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        params = parameters()
        results.append(train(AdamW(params, 1e-3, **TIERS[tier]), params, range(4)))
    assert_same_bits(results[1], results[0], "2 threads")
    assert_same_bits(results[2], results[0], "3 threads")


@pytest.mark.parametrize("tier", TIERS)
def test_a_missing_gradient_shifts_no_noise_and_no_state(tier):
    """The others go on as if it were there; the parameter resumes with its own age. (autoscale has one factor for all:
    there the parameter that is missing is not a normalized one.)"""
    missing = 0 if tier != "treated" else 4
    full, partly = parameters(torch.bfloat16), parameters(torch.bfloat16)
    a, b = (AdamW(params, 1e-3, **TIERS[tier]) for params in (full, partly))
    untouched = partly[missing].detach().clone()
    for step in range(3):
        set_gradients(full, step)
        set_gradients(partly, step)
        partly[missing].grad = None
        a.step()
        b.step()
    assert_same_bits([partly[missing]], [untouched], "without gradient")
    assert partly[missing] not in b.state
    others = [i for i in range(len(full)) if i != missing]
    rest = everything(b, [partly[i] for i in others])
    assert_same_bits(rest, everything(a, [full[i] for i in others]), "the others")
    set_gradients(partly, 3)
    b.step()
    assert [int(b.state[p]["step"]) for p in partly] == [1 if i == missing else 4 for i in range(len(partly))]


def test_groups_with_options_of_their_own():
    """One of them without first moments. float32 has no noise: the bits are those of optimizers for each group."""
    together, apart = parameters(), parameters()
    options = [
        dict(lr=1e-2, betas=(0.0, 0.99), weight_decay=0.0),
        dict(lr=1e-3, betas=(0.5, 0.9), eps=1e-6),
        dict(lr=3e-3, maximize=True),
    ]
    parts = [slice(0, 2), slice(2, 4), slice(4, 5)]
    joined = AdamW([{"params": together[part], **o} for part, o in zip(parts, options, strict=True)])
    separate = [AdamW(apart[part], **o) for part, o in zip(parts, options, strict=True)]
    train(joined, together, range(5))
    for step in range(5):
        set_gradients(apart, step)
        for optimizer in separate:
            optimizer.step()
    for part, optimizer in zip(parts, separate, strict=True):
        assert_same_bits(everything(joined, together[part]), everything(optimizer, apart[part]), str(part))
    assert "exp_avg" not in joined.state[together[0]] and "exp_avg" in joined.state[together[2]]


def test_maximize_is_the_step_of_the_negative_gradient():
    results = []
    for maximize, sign in ((True, 1.0), (False, -1.0)):
        params = parameters(torch.bfloat16)
        optimizer = AdamW(params, 1e-2, maximize=maximize, state_format="int8")
        for step in range(3):
            set_gradients(params, step, sign * 1e-2)
            optimizer.step()
        results.append([p.detach() for p in params])
    assert_same_bits(results[0], results[1], "maximize")


def test_a_first_moment_that_comes_and_goes():
    """beta1 = 0 drops it; a beta1 > 0 begins with one of 0, which it never reads uninitialized."""
    for state_format in ("fp32", "int8", "fp8_e4m3", "int4"):
        params = parameters()
        optimizer = AdamW(params, 1e-3, betas=(0.9, 0.99), state_format=state_format)
        train(optimizer, params, range(2))
        optimizer.param_groups[0]["betas"] = (0.0, 0.99)
        train(optimizer, params, range(2, 3))
        assert not any("exp_avg" in optimizer.state[p] for p in params)
        assert not any("exp_avg_scale" in optimizer.state[p] for p in params)
        optimizer.param_groups[0]["betas"] = (0.9, 0.99)
        set_gradients(params, 3)
        before = [p.detach().clone() for p in params]
        optimizer.step()
        for p, old in zip(params, before, strict=True):
            # m = (1 - beta1) g, the square root of v at least sqrt(1 - beta2) |g|
            moved = (p.detach() - old * (1 - 1e-3 * 1e-2)).abs()
            assert float(moved.max()) <= 1e-3 * 0.1 / (1 - 0.9**4) / (1e-1 / (1 - 0.99**4) ** 0.5) * 1.001
        assert all("exp_avg" in optimizer.state[p] for p in params)


def test_closure_and_lambda_schedule():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4))
    optimizer = AdamW(model.parameters(), lr=1e-2)
    scheduler = LambdaLR(optimizer, lambda step: 0.0 if step == 0 else 0.9**step)
    x, y = torch.randn(64, 16), torch.randn(64, 4)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    before = [p.detach().clone() for p in model.parameters()]
    first = optimizer.step(closure).detach()
    assert_same_bits([p.detach() for p in model.parameters()], before, "a warm-up that begins with lr = 0")
    for _ in range(20):
        scheduler.step()
        last = optimizer.step(closure).detach()
    assert float(last) < 0.9 * float(first)
    assert optimizer.param_groups[0]["lr"] == 1e-2 * 0.9**20


def test_one_cycle_turns_rates_and_betas_as_torchs():
    """The cycle writes lr and betas[0] of every group; the trajectory is torch's."""
    ours, theirs = parameters(), parameters()
    optimizers = AdamW(ours, 1e-3), torch.optim.AdamW(theirs, 1e-3)
    schedulers = [OneCycleLR(o, max_lr=1e-2, total_steps=12, base_momentum=0.8, max_momentum=0.95) for o in optimizers]
    seen = set()
    for step in range(11):
        for params, optimizer, scheduler in zip((ours, theirs), optimizers, schedulers, strict=True):
            set_gradients(params, step)
            optimizer.step()
            scheduler.step()
        assert optimizers[0].param_groups[0]["betas"] == optimizers[1].param_groups[0]["betas"]
        seen.add(optimizers[0].param_groups[0]["betas"][0])
    assert len(seen) > 5
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_grad_scaler_unscales_and_skips():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 4))
    scaled = copy.deepcopy(plain)
    options = dict(lr=1e-2, normalize="clip", max_norm=0.5, state_format="int8")
    a, b = AdamW(plain.parameters(), **options), AdamW(scaled.parameters(), **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x = torch.randn(8, 64)
    for _ in range(3):
        a.zero_grad()
        plain(x).square().mean().backward()
        a.step()
        b.zero_grad()
        scaler.scale(scaled(x).square().mean()).backward()
        scaler.step(b)
        scaler.update()
    of = lambda o, m: everything(o, list(m.parameters()))  # noqa: E731
    assert_same_bits(of(b, scaled), of(a, plain), "a power of two is undone exactly")
    before = of(b, scaled)
    b.zero_grad()
    scaler.scale(scaled(x).square().mean()).backward()
    scaled[0].weight.grad[0] = torch.inf
    scaler.step(b)
    scaler.update()
    assert_same_bits(of(b, scaled), before, "skipped")
    assert scaler.get_scale() == 512.0 and b.skipped == 1


@pytest.mark.parametrize("poison", (torch.nan, torch.inf))
@pytest.mark.parametrize("tier", TIERS)
def test_nonfinite_policies(tier, poison):
    def poisoned(policy: str | None):
        params = parameters(torch.bfloat16)
        optimizer = AdamW(list(zip(NAMES, params, strict=True)), 1e-3, nonfinite=policy, **TIERS[tier])
        before = train(optimizer, params, range(2))
        progress = copy.deepcopy(optimizer.state_dict()["param_groups"][0]["fastgrad"])
        set_gradients(params, 2)
        params[1].grad[3, 5] = poison
        return params, optimizer, before, progress

    params, optimizer, before, progress = poisoned("skip")
    optimizer.step()
    assert_same_bits(everything(optimizer, params), before, "skip")
    after = optimizer.state_dict()["param_groups"][0]["fastgrad"]
    assert_same_bits([after["alpha_state"]], [progress["alpha_state"]], "state of alpha")
    assert optimizer.skipped == 1

    params, optimizer, before, _ = poisoned("error")
    with pytest.raises(FloatingPointError, match=r"matrix \(1 of 5120 elements\)"):
        optimizer.step()
    assert_same_bits(everything(optimizer, params), before, "error")

    params, optimizer, before, _ = poisoned(None)
    optimizer.step()
    if tier != "treated":
        finite = [bool(torch.isfinite(p).all()) for p in params]
        assert finite == [True, False, True, True, True]


def test_first_step_that_is_skipped_leaves_no_state():
    for options in TIERS.values():
        params, straight = parameters(), parameters()
        optimizer = AdamW(params, 1e-3, nonfinite="skip", **options)
        before = [p.detach().clone() for p in params]
        set_gradients(params, 0)
        params[0].grad[0] = torch.inf
        optimizer.step()
        assert not optimizer.state_dict()["state"]
        assert_same_bits([p.detach() for p in params], before, "skipped")
        reference = AdamW(straight, 1e-3, nonfinite="skip", **options)
        reference._progress.step = 1  # the skipped step took its noise
        assert_same_bits(train(optimizer, params, range(1, 3)), train(reference, straight, range(1, 3)), "after it")


def test_states_that_are_replaced_are_noticed():
    a, b = parameters(), parameters()
    first, second = (AdamW(p, 1e-3, state_format="int8") for p in (a, b))
    train(first, a, range(3))
    train(second, b, range(3))
    for p, q in zip(a, b, strict=True):
        first.state[p]["exp_avg"] = torch.zeros_like(first.state[p]["exp_avg"])
        second.state[q]["exp_avg"].zero_()
    assert_same_bits(train(first, a, range(3, 5)), train(second, b, range(3, 5)), "zeroed")
    first.state.clear()
    train(first, a, range(5, 6))
    assert all(int(first.state[p]["step"]) == 1 for p in a)


REPLACED = {
    "exp_avg": (torch.zeros(40, 64), r"exp_avgs\[1\]: expected the shape"),
    "exp_avg_scale": (torch.ones(7), r"exp_avg_scales\[1\]: expected one scale"),
    "exp_avg_sq": (torch.zeros(7, dtype=torch.uint8), r"exp_avg_sqs\[1\]: expected 5120 or 2560 bytes"),
    "exp_avg_sq_scale": (torch.ones(40, dtype=torch.float64), r"exp_avg_sq_scales\[1\]: expected a contiguous float32"),
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_state_that_does_not_fit_is_refused(name):
    """Not read past its end."""
    params = parameters()
    optimizer = AdamW(params, 1e-3, state_format="int8")
    train(optimizer, params, range(1))
    before = [p.detach().clone() for p in params]
    optimizer.state[params[1]][name], message = REPLACED[name]
    with pytest.raises((TypeError, ValueError), match=message):
        train(optimizer, params, range(1, 2))
    assert_same_bits([p.detach() for p in params], before, "refused")


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda pair: pickle.loads(pickle.dumps(pair))}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("tier", TIERS)
def test_copies_go_on_by_themselves(tier, way):
    """With the bits of the original, which does not notice; observers stay with it."""
    params = parameters(torch.bfloat16)
    optimizer = AdamW(params, 1e-3, stats="lagged", **TIERS[tier])
    tables = []
    optimizer.add_observer(lambda step, table, params: tables.append(step))
    train(optimizer, params, range(2))
    twins, twin = COPIES[way]((params, optimizer))
    there = train(twin, twins, range(2, 4))
    assert tables == [0, 1]
    assert_same_bits(there, train(optimizer, params, range(2, 4)), "the copy")
    assert repr(twin) == repr(optimizer) and type(twin) is AdamW


def test_repr_says_what_happens():
    text = repr(AdamW(parameters(), state_format="int4", factored=True, normalize="centre", grad_format="int8"))
    assert "gradients: centre -> stochastic rounding to int8, scale per tensor" in text
    assert "states: int4 in blocks of 128, second moments factored" in text
    assert "states: fp32\n" in repr(AdamW(parameters()))


def test_bad_arguments_are_named():
    p = [nn.Parameter(torch.ones(3))]
    for options, message in (
        (dict(lr=-1.0), "^lr: expected a number >= 0, got -1"),
        (dict(eps=-1e-8), "^eps"),
        (dict(weight_decay=float("nan")), "^weight_decay"),
        (dict(betas=(1.0, 0.9)), r"^betas\[0\]: expected a number in \[0, 1\), got 1.0"),
        (dict(betas=(0.9, -0.1)), r"^betas\[1\]"),
        (dict(state_format="int2"), "^state_format: expected one of fp32, bf16, fp16, int8"),
        (dict(state_block=48), "^state_block: expected one of 16, 32, 64, 128, 256"),
        (dict(weight_rounding="truncate"), "^weight_rounding: expected one of nearest, stochastic"),
        (dict(nonfinite="ignore"), "^nonfinite: expected one of propagate, skip, error"),
        (dict(normalize="zscore"), "^normalize"),
        (dict(compensate="q"), "^compensate"),
    ):
        with pytest.raises(ValueError, match=message):
            AdamW(p, **options)
    for group, message in (
        (dict(betas=(0.9, 1.0)), r"betas\[1\]"),
        (dict(lr=-1.0), "lr"),
        (dict(amsgrad=True), "amsgrad: expected False"),
    ):
        with pytest.raises(ValueError, match=f"params: the group: {message}"):
            AdamW([{"params": p, **group}])
    with pytest.raises(TypeError, match="amsgrad"):
        AdamW(p, amsgrad=True)
    with pytest.raises(TypeError, match="float64"):
        AdamW([nn.Parameter(torch.ones(3, dtype=torch.float64))])
    optimizer = AdamW(p)
    with pytest.raises(ValueError, match="params: the group: eps"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "eps": -1.0})
    assert len(optimizer.param_groups) == 1


def test_a_sparse_gradient_is_named():
    embedding = nn.Embedding(10, 4, sparse=True)
    optimizer = AdamW(embedding.named_parameters(), lr=0.1)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TypeError, match="weight: its gradient is sparse"):
        optimizer.step()
