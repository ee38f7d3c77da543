"""The row of AdamW: ours with states of every width, torch's, and the peers that are installed.

Every contestant has parameters and states of its own, in the types it is made for; gradients are those of the
workspace, in the type of its parameters. The floor is that of float32: fewer bits move fewer bytes, so a contestant may
be below 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import fastgrad
from bench.gate import Call, require, sample
from bench.memory_tiers.contestants import BETAS, EPS
from bench.memory_tiers.contestants import WEIGHT_DECAY as DECAY
from bench.shapes import Workspace

LR = 1e-3
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def step_of(work: Workspace, make: Make, dtype: torch.dtype) -> Call:
    """Steps of an optimizer on parameters of a type, whose gradients stay."""
    parameters = [nn.Parameter(p.to(dtype, copy=True)) for p in work.initial["params"]]
    for p, g in zip(parameters, work.initial["grads"], strict=True):
        p.grad = g.to(dtype)
    optimizer = make(parameters)

    def step() -> None:
        with torch.enable_grad():  # torchao compiles its step, which it must see with gradients on
            optimizer.step()

    return Call(step, view=lambda _: [p.detach() for p in parameters])


def ours(parameters: list[nn.Parameter], **options: object) -> torch.optim.Optimizer:
    return fastgrad.optim.AdamW(parameters, LR, BETAS, EPS, DECAY, **options)


def torchs(parameters: list[nn.Parameter], **options: object) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, LR, BETAS, EPS, DECAY, **options)


def torchaos(parameters: list[nn.Parameter], kind: str) -> torch.optim.Optimizer:
    from torchao import optim

    return getattr(optim, kind)(
        parameters, LR, betas=BETAS, eps=EPS, weight_decay=DECAY, bf16_stochastic_round=True
    )


def bitsandbytes(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, LR, BETAS, EPS, DECAY)


def optimis(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    import optimi

    return optimi.AdamW(parameters, LR, betas=BETAS, eps=EPS, weight_decay=DECAY)


def first_step(work: Workspace, call: Call, result: list[Tensor], *, factored: bool = False) -> None:
    """At a first step m / (1 - beta1) is the gradient and the root of v / (1 - beta2) its magnitude:

        p - lr decay p - lr g / (|g| + eps),

    to float32's precision or a gap of the parameter's type. A factored second moment has other magnitudes: that
    parameters go against their gradients, by about lr on average, is what is asked then.
    """
    for i, (p, before, gradient) in enumerate(zip(result, work.initial["params"], work.initial["grads"], strict=True)):
        g, b = sample(gradient.to(p.dtype)), sample(before.to(p.dtype))
        moved = sample(p) - b * (1 - LR * DECAY)
        if factored and before.dim() > 1:
            along = -float((moved * g.sign()).mean()) / LR
            require(0.3 < along < 3.0, f"params[{i}] went {along} learning rates against the gradient on average")
            continue
        gap = 2.0 ** torch.floor(torch.log2(b.abs() + LR)) * torch.finfo(p.dtype).eps
        error = (moved + LR * g / (g.abs() + EPS)).abs()
        slack = LR * (2e-6 if p.dtype == torch.float32 else 2e-2)  # states are rounded after the step was taken
        # Others than ours round twice: what is left after the decay, and the difference.
        worst = float((error - 1.6 * gap - slack).amax())
        require(worst <= 0, f"params[{i}] is off by {worst} more than a gap")


def contestants() -> list[tuple[str, str, Callable[[Workspace], Call], Callable]]:
    """(name with its bytes read and written per element, kind, build, check)."""
    bf16, fp32 = torch.bfloat16, torch.float32

    def entry(name: str, kind: str, make: Make, dtype: torch.dtype, factored: bool = False) -> tuple:
        check = partial(first_step, factored=True) if factored else first_step
        return name, kind, partial(step_of, make=make, dtype=dtype), check

    return [
        entry("fastgrad.optim.AdamW, fp32 (28 B)", "ours", ours, fp32),
        entry("fastgrad.optim.AdamW, bf16 SR, bf16 states (14 B)", "ours", partial(ours, state_format="bf16"), bf16),
        entry("fastgrad.optim.AdamW, bf16 SR, int8 states (10 B)", "ours", partial(ours, state_format="int8"), bf16),
        entry("fastgrad.optim.AdamW, bf16 SR, fp4 states (8 B)", "ours", partial(ours, state_format="fp4_e2m1"), bf16),
        entry(
            "fastgrad.optim.AdamW, bf16 SR, fp4 m, factored v (9 B)", "ours",
            partial(ours, state_format="fp4_e2m1", factored=True), bf16, True,
        ),
        entry("torch.optim.AdamW(fused=True), fp32", "fused", partial(torchs, fused=True), fp32),
        entry("torch.optim.AdamW(fused=True), bf16", "fused", partial(torchs, fused=True), bf16),
        entry("torch.optim.AdamW(foreach=True), fp32", "foreach", partial(torchs, foreach=True), fp32),
        entry("torchao AdamW8bit, bf16 SR", "peer", partial(torchaos, kind="AdamW8bit"), bf16),
        entry("torchao AdamW4bit, bf16 SR", "peer", partial(torchaos, kind="AdamW4bit"), bf16),
        entry("bitsandbytes AdamW8bit, bf16", "peer", bitsandbytes, bf16),
        entry("optimi AdamW, bf16 Kahan", "peer", optimis, bf16),
    ]  # fmt: skip
