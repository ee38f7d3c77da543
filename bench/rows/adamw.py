"""The row of AdamW: ours with states of every width, torch's, and the peers that are installed.

Every contestant has parameters and states of its own, in the types it is made for; gradients are those of the
list, in the type of its parameters. The floor is that of float32: fewer bits move fewer bytes, so a contestant may
be below 1.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

import fastgrad
from bench import gate
from bench.floors import Floor
from bench.gate import Call, require, sample
from bench.memory_tiers.contestants import BETAS, EPS
from bench.memory_tiers.contestants import WEIGHT_DECAY as DECAY
from bench.peers import bitsandbytes, flashoptim, heavyball, optimi, pytorch_optimizer, torchao
from bench.peers.own_state import Make, step_of
from bench.rows.row import LR, Contestant, Row, floors
from bench.shapes import Workspace

PEER = {"betas": BETAS, "eps": EPS, "decay": DECAY, "lr": LR}


def ours(parameters: list[nn.Parameter], **options: object) -> torch.optim.Optimizer:
    return fastgrad.optim.AdamW(parameters, LR, BETAS, EPS, DECAY, **options)


def torchs(parameters: list[nn.Parameter], **options: object) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, LR, BETAS, EPS, DECAY, **options)


def compiled_step(work: Workspace) -> Call:
    """torch.compile of the optimizer's own step."""
    call = step_of(work, partial(torchs, foreach=True))
    return Call(torch.compile(call.function), view=call.view)


def first_step(
    work: Workspace, call: Call, result: list[Tensor], *, factored: bool = False, clamped: bool = False,
    tolerance: float = 2e-6,
) -> None:  # fmt: skip
    """At a first step m / (1 - beta1) is the gradient and the root of v / (1 - beta2) its magnitude:

        p - lr decay p - lr g / (|g| + eps),

    to float32's precision or a gap of the parameter's type. A factored second moment has other magnitudes: that
    parameters go against their gradients, by about lr on average, is what is asked then.

    clamped: g / max(|g|, eps). tolerance: in learning rates.
    """
    for i, (p, before, gradient) in enumerate(zip(result, work.initial["params"], work.initial["grads"], strict=True)):
        g, b = sample(gradient.to(p.dtype)), sample(before.to(p.dtype))
        moved = sample(p) - b * (1 - LR * DECAY)
        if factored and before.dim() > 1:
            along = -float((moved * g.sign()).mean()) / LR
            require(0.3 < along < 3.0, f"params[{i}] went {along} learning rates against the gradient on average")
            continue
        gap = 2.0 ** torch.floor(torch.log2(b.abs() + LR)) * torch.finfo(p.dtype).eps
        error = (moved + LR * g / (g.abs().clamp(min=EPS) if clamped else g.abs() + EPS)).abs()
        slack = LR * (tolerance if p.dtype == torch.float32 else 2e-2)  # states are rounded after the step was taken
        # Others than ours round twice: what is left after the decay, and the difference.
        worst = float((error - 1.6 * gap - slack).amax())
        require(worst <= 0, f"params[{i}] is off by {worst} more than a gap")


# 1 - 0.999 in float32 is off by 1.3e-5, and the step by half of that: compiled steps have their rates in tensors.
FLOAT32_RATES = 2e-5


def adamw_row() -> Row:
    """Names have the bytes read and written per element, gradient included."""
    bf16, fp32 = torch.bfloat16, torch.float32

    def entry(
        name: str, kind: str, make: Make, dtype: torch.dtype, package: str | None = None, compiles: str = "",
        factored: bool = False,
    ) -> Contestant:  # fmt: skip
        check = partial(first_step, factored=True) if factored else first_step
        return Contestant(name, kind, partial(step_of, make=make, dtype=dtype), check, package, compiles)

    def mine(name: str, dtype: torch.dtype = bf16, factored: bool = False, **options: object) -> Contestant:
        make = partial(ours, factored=factored, **options)
        return entry(f"fastgrad.optim.AdamW, {name}", "ours", make, dtype, factored=factored)

    def peer(
        name: str, make: Make, dtype: torch.dtype, package: str, compiles: str = "", **options: object
    ) -> Contestant:
        return entry(name, "peer", partial(make, **options, **PEER), dtype, package, compiles)

    return Row(
        "adamw", "AdamW; the floor is that of float32", "read g, p, m, v; write p, m, v", 1, 24, gate.nothing,
        (
            *floors(Floor("adamw")),
            mine("fp32 (28 B)", fp32),
            mine("bf16 SR, bf16 states (14 B)", state_format="bf16"),
            mine("bf16 SR, int8 states (10 B)", state_format="int8"),
            mine("bf16 SR, fp4 states (8 B)", state_format="fp4_e2m1"),
            mine("bf16 SR, fp4 m, factored v (9 B)", state_format="fp4_e2m1", factored=True),
            entry("torch.optim.AdamW(foreach=False), fp32", "eager", partial(torchs, foreach=False), fp32),
            entry("torch.optim.AdamW(foreach=True), fp32", "foreach", partial(torchs, foreach=True), fp32),
            entry("torch.optim.AdamW(fused=True), fp32", "fused", partial(torchs, fused=True), fp32),
            entry("torch.optim.AdamW(fused=True), bf16", "fused", partial(torchs, fused=True), bf16),
            Contestant(
                "torch.compile of AdamW.step, fp32", "compile", compiled_step,
                partial(first_step, tolerance=FLOAT32_RATES), compiles="list",
            ),
            peer("torchao _AdamW, bf16 SR", torchao.adamw, bf16, "torchao", "list", kind="_AdamW"),
            peer("torchao AdamW8bit, bf16 SR", torchao.adamw, bf16, "torchao", "list", kind="AdamW8bit"),
            peer("torchao AdamW4bit, bf16 SR", torchao.adamw, bf16, "torchao", "list", kind="AdamW4bit"),
            peer("bitsandbytes AdamW8bit, bf16", bitsandbytes.adamw, bf16, "bitsandbytes"),
            peer("optimi AdamW, bf16 Kahan", optimi.adamw, bf16, "torch-optimi"),
            peer("pytorch_optimizer AdamW, fp32", pytorch_optimizer.adamw, fp32, "pytorch_optimizer"),
            Contestant(
                "heavyball AdamW, fp32 (root clamped at eps)", "peer",
                partial(step_of, make=partial(heavyball.adamw, **PEER)),
                partial(first_step, clamped=True, tolerance=FLOAT32_RATES), "heavyball", "list",
            ),
            peer("flashoptim FlashAdamW, bf16", flashoptim.adamw, bf16, "flashoptim"),
        ),
        dtypes=("fp32",), together=False,
    )  # fmt: skip
