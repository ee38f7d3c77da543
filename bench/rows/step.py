"""Steps of SGD: fastgrad's function and optimizer, torch's optimizer; the row of bare momentum."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor

import fastgrad
from bench import gate, plain
from bench.floors import Floor
from bench.gate import Call
from bench.peers import bitsandbytes, flashoptim, heavyball, optimi
from bench.rows.row import DECAY, LR, MU, Contestant, Row, compiled, compiled_per_tensor, floors, lists
from bench.shapes import Workspace
from fastgrad import shrinkage

HYPER = (LR, MU, 0.0, DECAY, 0.0, 0.0, 0.0, 0.0)
SIGMA_FIRST = 2.0**-10  # the sigma of autoscale's first step


def _factors(table: Tensor) -> Tensor:
    return shrinkage.projection(table[:-1, 8], table[:-1, 9])


def ours(work: Workspace, method: str, format: str, scale: str = "none", measure: bool = True) -> Call:
    hyper = torch.tensor([HYPER], dtype=torch.float64)
    if method == "none":
        hyper[0, 3] = 0.0
    state = torch.tensor([SIGMA_FIRST, SIGMA_FIRST], dtype=torch.float64, device=work.device)
    steps = itertools.count()

    def step(grads: list[Tensor], params: list[Tensor], momenta: list[Tensor]) -> Tensor:
        return fastgrad.sgd_step_(
            params, grads, momenta, hyper,
            method=method, format=format, scale=scale, state=state, measure=measure, step=next(steps),
        )  # fmt: skip

    return Call(step, lists(work), _factors)


def ours_optimizer(work: Workspace, method: str | None, format: str | None) -> Call:
    """fastgrad.optim.SGD on the same memory: what training code calls."""
    parameters = [torch.nn.Parameter(p) for p in work.params]
    optimizer = fastgrad.optim.SGD(
        parameters, lr=LR, momentum=MU, weight_decay=DECAY if method else 0.0, normalize=method, grad_format=format,
        eligible=lambda parameter, group: (True, True),
    )  # fmt: skip
    optimizer._progress.alpha_state.fill_(SIGMA_FIRST)
    for parameter, g, m in zip(parameters, work.grads, work.momenta, strict=True):
        parameter.grad = g
        optimizer.state[parameter]["momentum_buffer"] = m

    def step() -> Tensor | None:
        optimizer.step()
        return optimizer.table

    return Call(step, (), _factors)


def torch_optimizer(work: Workspace, decay: float = 0.0, **options: bool) -> Call:
    """torch.optim.SGD on the same memory. bfloat16 gradients become float32 first, as it needs them."""
    parameters = [torch.nn.Parameter(p) for p in work.params]
    optimizer = torch.optim.SGD(parameters, lr=LR, momentum=MU, weight_decay=decay, **options)
    grads = [g.float() for g in work.grads]  # the same memory where they are float32
    for parameter, g, m in zip(parameters, grads, work.momenta, strict=True):
        parameter.grad = g
        optimizer.state[parameter]["momentum_buffer"] = m
    if work.dtype == "fp32":
        return Call(optimizer.step)

    def step() -> None:
        torch._foreach_copy_(grads, work.grads)
        optimizer.step()

    return Call(step)


def plain_momentum(work: Workspace) -> Call:
    return Call(plain.momentum_, (*lists(work), LR, MU))


def momentum_row() -> Row:
    return Row(
        "momentum", "SGD with momentum, nothing else", "read g, p, m; write p, m", 1, 16,
        partial(gate.momentum, lr=LR, mu=MU, decay=0.0),
        (
            *floors(Floor("momentum")),
            Contestant(
                "fastgrad.sgd_step_(measure=False)", "ours",
                partial(ours, method="none", format="fp32", measure=False),
            ),
            Contestant(
                "fastgrad.optim.SGD.step", "ours", partial(ours_optimizer, method=None, format=None),
                dtypes=("fp32",),
            ),
            Contestant("torch.optim.SGD(foreach=False)", "eager", partial(torch_optimizer, foreach=False)),
            Contestant("torch.optim.SGD(foreach=True)", "foreach", partial(torch_optimizer, foreach=True)),
            Contestant("torch.optim.SGD(fused=True)", "fused", partial(torch_optimizer, fused=True)),
            compiled_per_tensor(plain_momentum, 3),
            compiled(plain_momentum),
            *optimi.momentum(), *bitsandbytes.momentum(), *heavyball.momentum(), *flashoptim.momentum(),
        ),
    )  # fmt: skip
