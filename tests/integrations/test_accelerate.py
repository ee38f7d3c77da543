"""A loop of accelerate with released gradients."""

from __future__ import annotations

import pytest
import torch
from contract_bits import assert_same_bits
from kept_bits import kept_tensors
from torch import nn
from torch.nn import functional as F

import fastgrad

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e .[integrations]")

from accelerate import Accelerator  # noqa: E402

from fastgrad.integrations.accelerate import release_gradients, unwrap  # noqa: E402

ROWS = torch.randn(5 * 4, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16))


def prepare(model: nn.Module, accumulation: int = 1, release: bool = True, **options):
    """(accelerator, model, prepared optimizer, loader, scheduler, handle)"""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    optimizer = fastgrad.optim.AdamW(model.parameters(), 1e-2, **options)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, 1.0, 4)
    loader = torch.utils.data.DataLoader(ROWS, batch_size=4)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    handle = release_gradients(accelerator, model, optimizer, accumulate_format="fp32") if release else None
    return accelerator, model, optimizer, loader, scheduler, handle


def train(accelerator, model, optimizer, loader, scheduler, *_) -> None:
    """An epoch of five batches."""
    for rows in loader:
        with accelerator.accumulate(model):
            accelerator.backward(F.cross_entropy(model(rows), rows[:, :16].argmax(1)))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("accumulation", (1, 2, 8), ids="accumulate{}".format)
def test_the_bits_are_those_of_the_loop_without_release(accumulation):
    """Sums end early at the end of an epoch: after one of two micro-batches, after five of eight."""
    results = []
    for release in (False, True):
        parts = prepare(make_model(), accumulation, release, state_format="int8", grad_format="fp8_e4m3")
        train(*parts)
        train(*parts)
        optimizer = unwrap(parts[2])
        assert optimizer._progress.step == 2 * -(-5 // accumulation)
        results.append([*kept_tensors(parts[1], optimizer), torch.tensor(parts[4].get_last_lr())])
    assert_same_bits(results[1], results[0], "released")


def test_clipping_is_refused_while_gradients_are_released():
    accelerator, model, *_, handle = prepare(make_model())
    for method in (accelerator.clip_grad_norm_, accelerator.clip_grad_value_):
        with pytest.raises(RuntimeError, match=r"none to clip; .* stats='lagged'"):
            method(model.parameters(), 1.0)
    handle.remove()
    model(ROWS).sum().backward()
    assert accelerator.clip_grad_norm_(model.parameters(), 1.0) > 1
    assert torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]) == pytest.approx(1.0, rel=1e-4)


def test_what_cannot_be_released_says_why():
    accelerator, model, optimizer, *_, handle = prepare(make_model())
    with pytest.raises(TypeError, match=r"expected what accelerator\.prepare gave, got fastgrad\.optim\.adamw\.AdamW"):
        release_gradients(accelerator, model, unwrap(optimizer))
    handle.remove()
    accelerator.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match=r"mixed_precision: 'fp16' .* expected 'bf16'"):
        release_gradients(accelerator, model, optimizer)


def test_distributed_data_parallel_is_refused():
    _, model, optimizer, *_, handle = prepare(make_model())
    handle.remove()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(TypeError, match="fully_shard"):
            release_gradients(Accelerator(cpu=True), nn.parallel.DistributedDataParallel(model), optimizer)
    finally:
        torch.distributed.destroy_process_group()
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("int8", (False, True), ids=("dense", "int8 weights"))
def test_save_state_and_load_state_resume_bit_for_bit(tmp_path, int8):
    def made(seed: int):
        model = make_model(seed)
        if int8:
            assert fastgrad.quantize_weights_(model) == ["0.weight", "2.weight"]
        return prepare(model, 2, state_format="int4", normalize="autoscale", stats="lagged")

    whole = made(0)
    train(*whole)
    if int8:
        with pytest.raises(RuntimeError, match="safe_serialization=False"):
            whole[0].save_state(str(tmp_path / "refused"))
    whole[0].save_state(str(tmp_path / "state"), safe_serialization=not int8)
    train(*whole)
    resumed = made(1)
    resumed[0].load_state(str(tmp_path / "state"))
    train(*resumed)
    for part in (whole, resumed):
        assert unwrap(part[2])._progress.step == 6
    assert_same_bits(kept_tensors(resumed[1], unwrap(resumed[2])), kept_tensors(whole[1], unwrap(whole[2])), "resumed")
