"""release_gradients: updates inside backward, with the bits of a step after it."""

from __future__ import annotations

import copy
import warnings
import weakref

import pytest
import torch
from contract_bits import assert_same_bits
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastgrad
from fastgrad.optim import SGD, AdamW

TIERS = {
    "fp32": {},
    "int8": {"state_format": "int8"},
    "fp4 factored": {"state_format": "fp4_e2m1", "factored": True},
    "treated": {"state_format": "bf16", "normalize": "znorm", "grad_format": "fp8_e4m3"},
    "no first moment": {"betas": (0.0, 0.99), "factored": True},
}


class Network(nn.Module):
    """Tied embedding and output, a layer that is not always used, one inside a checkpoint."""

    def __init__(self, dtype: torch.dtype = torch.float32, reentrant: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(256, 64)
        self.inner = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
        self.extra = nn.Linear(64, 64)
        self.norm = nn.LayerNorm(64)
        self.out = nn.Linear(64, 256, bias=False)
        self.out.weight = self.embedding.weight
        self.reentrant = reentrant
        self.to(dtype)

    def forward(self, tokens: torch.Tensor, use_extra: bool = True) -> torch.Tensor:
        x = self.embedding(tokens)
        x = x + checkpoint(self.inner, x, use_reentrant=self.reentrant)
        if use_extra:
            x = x + self.extra(x)
        return self.out(self.norm(x))


def backward(model: nn.Module, step: int, scale: float = 1.0, **options) -> torch.Tensor:
    tokens = torch.randint(0, 256, (4, 16), generator=torch.Generator().manual_seed(step))
    logits = model(tokens, use_extra=step != 2, **options).float()
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), (tokens * 3 % 256).flatten())
    (loss * scale).backward()
    return loss.detach()


def tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    kept = []
    for p in model.parameters():
        payload = fastgrad.optim.payload.payload_of(p.detach())
        kept += [payload.memory, *([] if payload.scales is None else [payload.scales])]
        kept += [t for t in optimizer.state.get(p, {}).values() if isinstance(t, torch.Tensor)]
    return [t.clone() for t in kept]


def both(make, steps: int = 5, dtype=torch.float32, prepare=lambda model: None):
    """The same training with step() and released."""
    results = []
    for release in (False, True):
        model = Network(dtype)
        prepare(model)
        optimizer = make(model.parameters())
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, 1.0, 3)
        released = fastgrad.release_gradients(model, optimizer) if release else None
        tables = []
        optimizer.add_observer(lambda step, table, params, tables=tables: tables.append(table.clone()))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # that of a scheduler that misses a step, too
            for step in range(steps):
                backward(model, step)
                if release:
                    assert all(p.grad is None for p in model.parameters())
                    released.step()
                else:
                    optimizer.step()
                    optimizer.zero_grad()
                scheduler.step()
        results.append([*tensors(model, optimizer), *tables])
    return results


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_released_updates_have_the_bits_of_a_step(tier, dtype):
    """Tied weights, a checkpoint, a layer without gradient in step 2, a scheduler, tables for observers."""
    stepped, released = both(lambda params: AdamW(params, 1e-3, **TIERS[tier]), dtype=dtype)
    assert_same_bits(released, stepped, tier)


def test_released_sgd_and_int8_weights():
    stepped, released = both(lambda params: SGD(params, 0.1, momentum=0.9, normalize="centre", grad_format="int8"))
    assert_same_bits(released, stepped, "SGD")

    def prepare(model):
        assert "embedding.weight" in fastgrad.quantize_weights_(model, block=64)
        assert model.out.weight is model.embedding.weight

    make = lambda params: AdamW(params, 1e-2, betas=(0.0, 0.99), factored=True)  # noqa: E731
    stepped, released = both(make, dtype=torch.bfloat16, prepare=prepare)
    assert_same_bits(released, stepped, "int8 weights")


@pytest.mark.parametrize("method", ("clip", "autoscale"))
def test_lagged_global_values(method):
    """From the second step on the bits are those of optimizer.step(stats='lagged') from the same state."""
    make = lambda model: AdamW(model.parameters(), 1e-3, normalize=method, max_norm=0.05, stats="lagged")  # noqa: E731
    model = Network()
    optimizer = make(model)
    released = fastgrad.release_gradients(model, optimizer)
    backward(model, 0)
    released.step()
    other = Network()
    other.load_state_dict(model.state_dict())
    follower = make(other)
    follower.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in (1, 3, 4):
        backward(model, step)
        released.step()
        backward(other, step)
        follower.step()
        follower.zero_grad()
        assert_same_bits(tensors(model, optimizer), tensors(other, follower), f"step {step}")
        assert_same_bits([optimizer.table], [follower.table], f"table of step {step}")
    if method == "clip":
        assert float(optimizer.table[-1, 6]) < 1.0  # it did clip


def test_first_clipped_step_is_within_max_norm_as_a_whole():
    """Each clipped to max_norm by itself, together they would be sqrt(parameters) times as long."""
    model = Network()
    optimizer = SGD(model.parameters(), 1.0, normalize="clip", max_norm=0.05, stats="lagged")
    released = fastgrad.release_gradients(model, optimizer)
    before = [p.detach().double().clone() for p in model.parameters()]
    backward(model, 0)
    released.step()
    moved = [(p.detach().double() - old).norm() for p, old in zip(model.parameters(), before, strict=True)]
    whole = float(torch.stack(moved).norm())
    assert 0.01 < whole <= 0.05 * (1 + 1e-4)


def test_gradients_never_are_there_together():
    """At most one parameter's gradient exists at a time, and none is left after the step, released or not."""
    model = Network()
    optimizer = AdamW(model.parameters(), 1e-3)
    most, seen = 0, []
    backward(model, 0)
    seen += [weakref.ref(p.grad) for p in model.parameters() if p.grad is not None]
    optimizer.step()
    optimizer.zero_grad()
    assert seen and not any(gradient() is not None for gradient in seen)
    seen.clear()

    def count(p):
        nonlocal most
        most = max(most, sum(gradient() is not None for gradient in seen) + 1)
        seen.append(weakref.ref(p.grad))

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(count)  # before ours: sees the gradient
    released = fastgrad.release_gradients(model, optimizer)
    backward(model, 0)
    released.step()
    assert most == 1 and len(seen) == len(list(model.parameters()))
    assert not any(gradient() is not None for gradient in seen)


@pytest.mark.parametrize("format", ("fp32", "bf16", "fp8_e4m3", "int8"))
def test_accumulation(format):
    """fp32: the bits of gradients added by torch. Narrow: unbiased, the mean of many runs approaches that."""
    batches = (3, 4, 5)

    def run(seed: int | None) -> torch.Tensor:
        model = Network()
        optimizer = SGD(model.parameters(), 1.0, seed=seed or 1)
        released = None
        if seed is not None:
            released = fastgrad.release_gradients(model, optimizer, accumulate=3, accumulate_format=format)
        before = model.inner[0].weight.detach().clone()
        for batch in batches:
            backward(model, batch, 1 / 3)
            if released:
                released.step()
        if released is None:
            optimizer.step()
        elif format != "fp32":
            q = torch.tensor(list(released.accumulated_q.values()))
            assert ((q - 1).abs() < 0.05).all()
        assert optimizer._progress.step == 1
        return before - model.inner[0].weight.detach()

    exact = run(None)
    if format == "fp32":
        assert_same_bits([run(1)], [exact], "sums in fp32")
        return
    runs = torch.stack([run(seed) for seed in range(1, 33)]).double()
    spread = runs.std(0).mean() / len(runs) ** 0.5
    error = (runs.mean(0) - exact).abs().mean()
    assert 0 < spread and error < 1.1 * spread  # of a normal mean E|error| = 0.8 spread; 8,192 elements


def test_flush_and_incomplete_accumulation():
    model = Network()
    optimizer = SGD(model.parameters(), 1.0)
    released = fastgrad.release_gradients(model, optimizer, accumulate=4, accumulate_format="fp32")
    before = model.norm.weight.detach().clone()
    backward(model, 0)
    released.step()
    assert torch.equal(before, model.norm.weight)
    with pytest.raises(RuntimeError, match="a step is open"):
        optimizer.state_dict()
    released.flush()
    assert not torch.equal(before, model.norm.weight)
    assert optimizer.state_dict()["param_groups"][0]["fastgrad"]["step"] == 1


@pytest.mark.parametrize("poison", (torch.nan, torch.inf))
def test_a_parameter_with_nan_is_skipped_whole_and_counted(poison):
    model = Network()
    optimizer = AdamW(model.named_parameters(), 1e-3, state_format="int8", nonfinite="skip")
    model.extra.weight.register_hook(lambda g: g.index_fill(0, torch.tensor([5]), poison))
    released = fastgrad.release_gradients(model, optimizer)
    before = tensors(model, optimizer)
    for step in (0, 1):
        backward(model, step)
        released.step()
    assert released.skipped == {"extra.weight": 2}
    names = [name for name, _ in model.named_parameters()]
    changed = [n for n, a, b in zip(names, before, model.parameters(), strict=True) if not torch.equal(a, b)]
    assert changed == [n for n in names if n != "extra.weight"]
    assert model.extra.weight not in optimizer.state
    assert torch.isfinite(model.inner[0].weight).all()


def test_resume_through_a_checkpoint(tmp_path):
    def make():
        model = Network(torch.bfloat16)
        optimizer = AdamW(model.parameters(), 1e-3, state_format="int4", normalize="autoscale", stats="lagged")
        return model, optimizer, fastgrad.release_gradients(model, optimizer)

    model, optimizer, released = make()
    for step in range(6):
        if step == 3:
            torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "checkpoint.pt")
        backward(model, step)
        released.step()
    other, second, again = make()
    weights, state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    other.load_state_dict(weights)
    second.load_state_dict(state)
    for step in range(3, 6):
        backward(other, step)
        again.step()
    assert_same_bits(tensors(other, second), tensors(model, optimizer), "resumed")


def test_monitor_records_released_steps():
    model = Network()
    optimizer = AdamW(model.named_parameters(), 1e-3, grad_format="fp8_e4m3")
    monitor = fastgrad.Monitor(optimizer, model.named_parameters())
    released = fastgrad.release_gradients(model, optimizer)
    for step in range(3):
        backward(model, step)
        released.step()
    assert monitor.series(None, "std")[0].tolist() == [0, 1, 2]
    assert 0.9 < monitor.latest()["q_mean"] < 1.1
    assert "extra.weight" in monitor.layers


def test_two_backwards_in_an_iteration_are_refused():
    model = Network()
    released = fastgrad.release_gradients(model, AdamW(model.parameters()))
    backward(model, 0)
    with pytest.raises(RuntimeError, match="second gradient"):
        backward(model, 1)
    released.remove()


def test_external_steps_and_scalers_are_refused():
    model = Network()
    optimizer = AdamW(model.parameters())
    released = fastgrad.release_gradients(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    with pytest.raises(RuntimeError, match=r"released\.step"):
        optimizer.step()
    scaler.scale(torch.ones(()))
    with pytest.raises((RuntimeError, AssertionError), match=r"released\.step|inf checks"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="already"):
        fastgrad.release_gradients(model, optimizer)
    released.remove()
    backward(model, 0)
    optimizer.step()
    assert model.extra.weight.grad is not None


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    (
        ({"normalize": "clip"}, {}, "stats: clip needs"),
        ({"normalize": "autoscale"}, {}, "stats: autoscale needs"),
        ({"nonfinite": "error"}, {}, "nonfinite"),
        ({"capturable": True}, {}, "capturable"),
        ({}, {"accumulate": 0}, "accumulate"),
        ({}, {"accumulate_format": "int2"}, "accumulate_format"),
    ),
)
def test_what_cannot_be_released_says_why(options, arguments, message):
    model = Network()
    with pytest.raises(ValueError, match=message):
        fastgrad.release_gradients(model, AdamW(model.parameters(), **options), **arguments)


def test_wrong_models_and_optimizers():
    model, other = Network(), nn.Linear(3, 3)
    with pytest.raises(TypeError, match=r"fastgrad\.optim"):
        fastgrad.release_gradients(model, torch.optim.AdamW(model.parameters()))
    with pytest.raises(ValueError, match="not a parameter of the model"):
        fastgrad.release_gradients(other, AdamW(model.parameters()))


def test_reentrant_checkpoints_are_updated_once_or_refused():
    """A parameter inside one reentrant checkpoint is fine; one that two of them share is refused with the reason."""
    model = Network(reentrant=True)
    released = fastgrad.release_gradients(model, AdamW(model.parameters(), 1e-3))
    backward(model, 0)
    released.step()
    shared = nn.Linear(8, 8)
    both_used = fastgrad.release_gradients(shared, AdamW(shared.parameters(), 1e-3))
    x = torch.randn(2, 8, requires_grad=True)
    y = checkpoint(shared, checkpoint(shared, x, use_reentrant=True), use_reentrant=True)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        y.sum().backward()
    both_used.remove()


def test_a_loop_that_calls_step_itself():
    """as_optimizer: step(closure) and a last, incomplete sum; the bits are those of torch's own sums."""
    results = []
    for release in (False, True):
        model = Network()
        optimizer = AdamW(model.parameters(), 1e-3, state_format="int8")
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, 1.0, 3)
        if release:
            handle = fastgrad.release_gradients(model, optimizer, accumulate=3, accumulate_format="fp32")
            assert handle.as_optimizer() is optimizer
        for window in ((0, 1, 3), (4, 5)):  # of three micro-batches, and of what is left
            for batch in window[:-1]:
                backward(model, batch)
            loss = optimizer.step(lambda last=window[-1], model=model: backward(model, last))
            assert loss.shape == () and loss > 0
            scheduler.step()
            optimizer.zero_grad()
        assert optimizer._progress.step == 2
        results.append(tensors(model, optimizer))
    assert_same_bits(results[1], results[0], "as_optimizer")
    handle.remove()
    assert not handle.active
    backward(model, 6)
    optimizer.step()  # its own again
    assert optimizer._progress.step == 3


def test_a_loop_with_a_scaler_is_refused():
    model = Network()
    optimizer = fastgrad.release_gradients(model, AdamW(model.parameters())).as_optimizer()
    optimizer.found_inf = torch.zeros(())  # what GradScaler.step sets
    with pytest.raises(RuntimeError, match="GradScaler"):
        optimizer.step()


def test_gradients_of_parameters_that_are_not_released_are_noticed():
    """Frozen when the hooks were made; or not the ones that had them, as after fully_shard."""
    model = Network()
    model.extra.weight.requires_grad_(False)
    optimizer = AdamW(model.named_parameters(), 1e-3)
    released = fastgrad.release_gradients(model, optimizer)
    backward(model, 0)
    released.step()
    model.extra.weight.requires_grad_(True)
    backward(model, 1)
    with pytest.raises(RuntimeError, match=r"extra\.weight .* not released"):
        released.step()
