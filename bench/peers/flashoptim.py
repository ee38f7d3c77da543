"""flashoptim: optimizers whose step needs a CUDA device."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from bench import gate
from bench.peers.own_state import step_of
from bench.rows.row import LR, MU, Contestant


def _sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    import flashoptim

    return flashoptim.FlashSGD(parameters, lr=LR, momentum=MU)


def momentum() -> tuple[Contestant, ...]:
    check = partial(gate.two_steps, lr=LR, mu=MU, tolerance=2e-2)
    name = "flashoptim FlashSGD (8-bit momentum)"
    return (Contestant(name, "reference", partial(step_of, make=_sgd), check, "flashoptim", dtypes=("fp32",)),)


def adamw(parameters: list[nn.Parameter], betas: tuple, eps: float, decay: float, lr: float) -> torch.optim.Optimizer:
    import flashoptim

    return flashoptim.FlashAdamW(parameters, lr=lr, betas=betas, eps=eps, weight_decay=decay)
