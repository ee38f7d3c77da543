"""pytorch_optimizer: gradient transforms, stochastic copies, and its optimizers."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from bench import gate
from bench.gate import Call
from bench.rows.row import Contestant
from bench.shapes import Workspace

PACKAGE = "pytorch_optimizer"


def _normalize(work: Workspace) -> Call:
    from pytorch_optimizer.optimizer.utils import normalize_gradient

    def normalize(grads: list[Tensor]) -> None:
        for g in grads:
            normalize_gradient(g, epsilon=1e-8)

    return Call(normalize, (work.grads,))


def normalizing() -> tuple[Contestant, ...]:
    check = partial(gate.mapped, method="sample std only")
    name = "pytorch_optimizer normalize_gradient (std only, no mean)"
    return (Contestant(name, "reference", _normalize, check, PACKAGE),)


def _centralize(work: Workspace) -> Call:
    from pytorch_optimizer.optimizer.gradient_centralization import centralize_gradient

    return Call(centralize_gradient, (work.grads,))


def centralizing() -> tuple[Contestant, ...]:
    return (Contestant("pytorch_optimizer centralize_gradient", "peer", _centralize, None, PACKAGE),)


def _stochastic(work: Workspace) -> Call:
    from pytorch_optimizer.optimizer.utils import copy_stochastic

    ones = torch.ones(1)
    targets = [torch.empty_like(g, dtype=torch.bfloat16) for g in work.grads]

    def quantize(grads: list[Tensor]) -> list[tuple[Tensor, Tensor, None]]:
        for target, g in zip(targets, grads, strict=True):
            copy_stochastic(target, g)
        return [(target, ones, None) for target in targets]

    return Call(quantize, (work.grads,))


def rounding() -> tuple[Contestant, ...]:
    check = partial(gate.rounded, format="bf16", measured=False)
    return (Contestant("pytorch_optimizer copy_stochastic (no q_k)", "reference", _stochastic, check, PACKAGE),)


def adamw(parameters: list[nn.Parameter], betas: tuple, eps: float, decay: float, lr: float) -> torch.optim.Optimizer:
    from pytorch_optimizer import load_optimizer

    return load_optimizer("adamw")(parameters, lr=lr, betas=betas, eps=eps, weight_decay=decay)
