"""HeavyBall: compiles its steps and its rounding."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from bench import gate
from bench.gate import Call
from bench.peers.own_state import step_of
from bench.rows.row import LR, MU, Contestant
from bench.shapes import Workspace


def _rounding(work: Workspace) -> Call:
    from heavyball import utils

    ones = torch.ones(1)
    targets = [torch.empty_like(g, dtype=torch.bfloat16) for g in work.grads]

    def quantize(grads: list[Tensor]) -> list[tuple[Tensor, Tensor, None]]:
        return [(codes, ones, None) for codes in utils.stochastic_round_list_(targets, grads)]

    # It makes a graph for every shape.
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, 512)
    return Call(quantize, (work.grads,))


def rounding() -> tuple[Contestant, ...]:
    check = partial(gate.rounded, format="bf16", measured=False)
    name = "heavyball stochastic_round_list_ (no q_k)"
    return (Contestant(name, "reference", _rounding, check, "heavyball", compiles="list"),)


def _sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    import heavyball

    return heavyball.SGD(parameters, LR, MU, weight_decay=0.0, consume_grad=False)


def momentum() -> tuple[Contestant, ...]:
    check = partial(gate.two_steps, lr=LR, mu=MU)
    return (
        Contestant(
            "heavyball SGD", "peer", partial(step_of, make=_sgd), check, "heavyball", "list", dtypes=("fp32",)
        ),
    )


def adamw(parameters: list[nn.Parameter], betas: tuple, eps: float, decay: float, lr: float) -> torch.optim.Optimizer:
    import heavyball

    return heavyball.AdamW(parameters, lr, betas, eps=eps, weight_decay=decay, consume_grad=False)
