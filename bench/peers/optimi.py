"""torch-optimi: foreach optimizers with Kahan summation."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from bench import gate
from bench.peers.own_state import step_of
from bench.rows.row import LR, MU, Contestant


def _sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    import optimi

    return optimi.SGD(parameters, LR, momentum=MU, weight_decay=0.0, foreach=True, triton=False)


def momentum() -> tuple[Contestant, ...]:
    check = partial(gate.two_steps, lr=LR, mu=MU)
    return (Contestant("optimi SGD", "peer", partial(step_of, make=_sgd), check, "torch-optimi", dtypes=("fp32",)),)


def adamw(parameters: list[nn.Parameter], betas: tuple, eps: float, decay: float, lr: float) -> torch.optim.Optimizer:
    import optimi

    return optimi.AdamW(parameters, lr, betas=betas, eps=eps, weight_decay=decay)
