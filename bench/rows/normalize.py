"""Gradients normalized in place. Calls are repeated on the same memory, so every method has a fixed point."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import fastgrad
from bench import gate, plain
from bench.gate import Call
from bench.peers import pytorch_optimizer
from bench.rows.row import (
    FOREACH_NORM,
    Build,
    Contestant,
    Row,
    compiled,
    compiled_per_tensor,
    on_grads,
    whole_list_first,
    windowed,
)
from bench.shapes import Workspace

# Below the norm of every list, which it clips to this. Far above the 1e-6 that the formula adds to the norm.
MAX_NORM = 0.05


def ours(work: Workspace, method: str, **options: object) -> Call:
    return Call(lambda grads: fastgrad.normalize_(grads, method, **options), (work.grads,))


def torch_clip(work: Workspace, foreach: bool) -> Call:
    """torch.nn.utils.clip_grad_norm_ on the same memory."""
    parameters = [torch.nn.Parameter(g) for g in work.grads]
    for p, g in zip(parameters, work.grads, strict=True):
        p.grad = g

    def clip() -> Tensor:
        return torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM, foreach=foreach)

    return Call(clip)


def _row(name: str, title: str, build: Build, rest: tuple[Contestant, ...], **options: object) -> Row:
    limits = {"max_norm": MAX_NORM} if name == "clip" else {}
    whole = name in ("autoscale", "clip")  # one factor for the whole list, which no call per tensor can know
    contestants = (
        *(whole_list_first("in_place") if whole else windowed("in_place")),
        Contestant("fastgrad.normalize_", "ours", partial(ours, method=name, **options)),
        *rest,
        *(() if whole else (compiled_per_tensor(build, flat=name != "centralize"),)),
        compiled(build),
    )
    check = partial(gate.mapped, method=name, **limits)
    return Row(name, title, "read g; read g, write g", 3, 0, check, contestants)


def normalize_rows() -> tuple[Row, ...]:
    znorm, centralize = partial(on_grads, plain.znorm_), partial(on_grads, plain.centralize_)
    autoscale = partial(on_grads, plain.autoscale_log_)

    def clip(work: Workspace) -> Call:
        return on_grads(plain.clip_, work, MAX_NORM)

    return (
        _row(
            "znorm", "ZNorm in place", znorm,
            (
                Contestant("std_mean, sub_, div_ loop", "eager", znorm),
                Contestant(
                    "mean() loop, foreach norm, sub, div", "foreach", partial(on_grads, plain.foreach_znorm_),
                    partial(gate.mapped, method="znorm", tolerance=FOREACH_NORM),
                ),
                *pytorch_optimizer.normalizing(),
            ),
        ),
        _row(
            "centralize", "Gradient Centralization in place: the mean of every row", centralize,
            (Contestant("mean(dims), sub_ loop", "eager", centralize), *pytorch_optimizer.centralizing()),
        ),
        # Of the rules for alpha only -log(sigma) neither explodes nor vanishes when its result is its next input.
        _row(
            "autoscale", "Autoscale in place (alpha = -log sigma of the list)", autoscale,
            (
                Contestant("std_mean, sub_, mul_ loop", "eager", autoscale),
                Contestant(
                    "mean() loop, foreach norm, sub, mul", "foreach",
                    partial(on_grads, plain.foreach_autoscale_log_),
                    partial(gate.mapped, method="autoscale", tolerance=FOREACH_NORM),
                ),
            ),
            alpha="log",
        ),
        _row(
            "clip", "Clipping to the norm of the list, in place", clip,
            (
                Contestant("clip_grad_norm_(foreach=False)", "eager", partial(torch_clip, foreach=False)),
                Contestant(
                    "clip_grad_norm_(foreach=True)", "foreach", partial(torch_clip, foreach=True),
                    partial(gate.mapped, method="clip", max_norm=MAX_NORM, tolerance=FOREACH_NORM),
                ),
            ),
            max_norm=MAX_NORM,
        ),
    )  # fmt: skip
