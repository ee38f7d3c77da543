"""Trainings that one process and several ranks take part in, for the tests of fully_shard."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastgrad
from fastgrad.optim import SGD, AdamW

# Rows that do not divide by two or three ranks, tiles and chunks that the shards cut, tensors smaller than the ranks.
CASES = {
    "plain": lambda p: AdamW(p, 1e-2),
    "znorm fp8": lambda p: AdamW(p, 1e-2, normalize="znorm", grad_format="fp8_e4m3", state_format="bf16"),
    "clip": lambda p: AdamW(p, 1e-2, normalize="clip", max_norm=0.01, state_format="int8"),
    "autoscale lagged": lambda p: AdamW(
        p, 1e-2, normalize="autoscale", stats="lagged", grad_format="bf16", state_format="fp4_e2m1"
    ),
    "factored": lambda p: AdamW(p, 1e-2, state_format="int4", factored=True, normalize="centre", grad_format="int8"),
    "centralize": lambda p: AdamW(p, 1e-2, normalize="centralize", grad_format="fp8_e5m2", factored=True),
    "skip": lambda p: AdamW(p, 1e-2, nonfinite="skip", state_format="int8"),
    "sgd": lambda p: SGD(
        p, 1e-3, momentum=0.9, normalize="autoscale", grad_format="fp8_e4m3", weight_rounding="stochastic"
    ),
}


def network(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Linear(48, 131), nn.GELU(), nn.Linear(131, 2), nn.Linear(2, 640)]
    return nn.Sequential(*first, nn.Linear(640, 333), nn.LayerNorm(333), nn.Linear(333, 5)).to(dtype)


def sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for layer in model:
        if sum(p.numel() for p in layer.parameters()) > 1000:
            fully_shard(layer)
    fully_shard(model)
    # Sums instead of means, and all ranks but one without gradient: the sum over ranks is exact.
    for module in model.modules():
        if hasattr(module, "set_gradient_divide_factor"):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return model


def backward(model: nn.Module, step: int, rank: int) -> None:
    x = torch.randn(16, 48, generator=torch.Generator().manual_seed(step)).to(torch.bfloat16)
    loss = model(x).float().square().mean() * (1.0 if rank == 0 else 0.0)
    if step == 2:
        loss = loss * 50.0
    loss.backward()


def whole(t: Tensor) -> Tensor:
    t = t.full_tensor() if hasattr(t, "full_tensor") else t
    return t.detach().clone()


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Weights and states, whole."""
    kept = []
    for p in model.parameters():
        kept.append(whole(p))
        kept += [whole(optimizer.state[p][name]) for name in sorted(optimizer.state[p])]
    return kept


def train(rank: int, ranks: int, case: str, steps: str = "4", release: str = "") -> list[Tensor]:
    """Weights, states and the moments of the tables after some steps."""
    model = network()
    if ranks > 1:
        model = sharded(model)
    optimizer = CASES[case](model.parameters())
    released = fastgrad.release_gradients(model, optimizer) if release else None
    tables: list[Tensor] = []
    optimizer.add_observer(lambda step, table, params: tables.append(table.clone()))
    for step in range(int(steps)):
        backward(model, step, rank)
        if case == "skip" and step == 1:
            p = next(model.parameters())
            p.grad.mul_(torch.nan)
        if released:
            released.step()
        else:
            optimizer.step()
            optimizer.zero_grad()
    exact = [t[:, :8] for t in tables]  # sums of squares depend on the order of the ranks
    sums = [t[:, 8:13] for t in tables]
    return [*snapshot(model, optimizer), *exact], sums
