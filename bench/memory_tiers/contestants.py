"""Who takes part: how the weights are held, which optimizer steps when, how the loss is made.

A name means the same in ``bench.memory`` and in ``bench.finetune``: the bytes of a row and the loss of a row belong
to one configuration. Packages are imported where they are used, so that one that is missing is a result of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import torch
from torch import Tensor, nn

from bench.memory_tiers.updates import Update, drop_gradients, nothing, release_by_hooks

BETAS = (0.9, 0.999)
EPS = 1e-8
WEIGHT_DECAY = 0.01
BLOCK = 128  # of int8 weights
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}  # int8: the dtype seen from outside


@dataclass(frozen=True)
class Contestant:
    name: str  # of the command line
    title: str  # of the tables
    weights: str  # fp32, bf16 or int8
    update: Callable[[nn.Module, float], Update | None]  # (model, learning rate); None: no training
    packages: tuple[str, ...] = ("torch",)  # distributions it needs
    loss: str = "transformers"  # or fastgrad: chunked over the vocabulary
    momentum: bool = True
    ours: bool = False
    wanted: tuple[float, float] | None = None  # persistent and all-in peak, bytes per parameter of llama-1.1b

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.weights]

    def versions(self) -> dict[str, str]:
        """Of its packages; raises PackageNotFoundError where one is not installed."""
        return {name: metadata.version(name) for name in self.packages if name != "fastgrad"}

    def convert(self, module: nn.Module) -> None:
        """Quantize the weights of a module in place, where they are held as codes."""
        if self.weights == "int8":
            import fastgrad

            fastgrad.quantize_weights_(module, "int8", block=BLOCK)

    def causal_lm_loss(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """Mean cross-entropy in nats of every next token; ``tokens`` int64 [B, T]."""
        if self.loss == "fastgrad":
            from fastgrad.integrations.causal_lm import causal_lm_loss

            return causal_lm_loss(model, tokens, labels=tokens)
        return model(input_ids=tokens, labels=tokens).loss


def _adamw(model: nn.Module, lr: float) -> Update:
    made = torch.optim.AdamW(model.parameters(), lr, BETAS, EPS, WEIGHT_DECAY, fused=True)
    return Update([made])


def _adamw_released(model: nn.Module, lr: float) -> Update:
    return release_by_hooks(model, lambda p: torch.optim.AdamW(p, lr, BETAS, EPS, WEIGHT_DECAY, fused=True))


def _adafactor(model: nn.Module, lr: float) -> Update:
    return Update([torch.optim.Adafactor(model.parameters(), lr, weight_decay=WEIGHT_DECAY)])


def _adafactor_released(model: nn.Module, lr: float) -> Update:
    return release_by_hooks(model, lambda p: torch.optim.Adafactor(p, lr, weight_decay=WEIGHT_DECAY))


def _sgd_released(model: nn.Module, lr: float) -> Update:
    return release_by_hooks(model, lambda p: torch.optim.SGD(p, lr, fused=True))


def _backward_only(model: nn.Module, lr: float) -> Update:
    drop_gradients(model)
    return Update([], nothing)


def _torchao(kind: str, released: bool) -> Callable[[nn.Module, float], Update]:
    def update(model: nn.Module, lr: float) -> Update:
        from torchao import optim

        def make(parameters) -> torch.optim.Optimizer:
            return getattr(optim, kind)(
                parameters, lr, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, bf16_stochastic_round=True
            )

        return release_by_hooks(model, make) if released else Update([make(model.parameters())])

    return update


def _bitsandbytes(model: nn.Module, lr: float) -> Update:
    from bitsandbytes.optim import AdamW8bit

    return Update([AdamW8bit(model.parameters(), lr, BETAS, EPS, WEIGHT_DECAY)])


def _optimi(model: nn.Module, lr: float) -> Update:
    import optimi

    made = optimi.AdamW(model.parameters(), lr, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, gradient_release=True)
    optimi.prepare_for_gradient_release(model, made)
    return Update([made], nothing)


def _fastgrad(released: bool, **options: object) -> Callable[[nn.Module, float], Update]:
    def update(model: nn.Module, lr: float) -> Update:
        import fastgrad

        chosen = {"betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY, "weight_rounding": "stochastic"} | options
        made = fastgrad.optim.AdamW(model.parameters(), lr=lr, **chosen)
        return Update([made], fastgrad.release_gradients(model, made).step if released else None)

    return update


NO_MOMENTUM = (0.0, BETAS[1])
_TORCHAO = ("torch", "torchao")
_OURS = {"packages": ("torch", "fastgrad"), "loss": "fastgrad", "ours": True}

CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant("adamw-fp32", "torch AdamW, fp32", "fp32", _adamw),
        Contestant("adamw-bf16", "torch AdamW, bf16", "bf16", _adamw),
        Contestant("adamw-bf16-release", "torch AdamW, bf16, release by hooks", "bf16", _adamw_released),
        Contestant("torchao-8bit", "torchao AdamW8bit, bf16 SR", "bf16", _torchao("AdamW8bit", False), _TORCHAO),
        Contestant(
            "torchao-8bit-release", "torchao AdamW8bit, bf16 SR, release by hooks", "bf16",
            _torchao("AdamW8bit", True), _TORCHAO,
        ),
        Contestant("torchao-4bit", "torchao AdamW4bit, bf16 SR", "bf16", _torchao("AdamW4bit", False), _TORCHAO),
        Contestant(
            "torchao-4bit-release", "torchao AdamW4bit, bf16 SR, release by hooks", "bf16",
            _torchao("AdamW4bit", True), _TORCHAO,
        ),
        Contestant(
            "torchao-fp8-release", "torchao AdamWFp8, bf16 SR, release by hooks", "bf16",
            _torchao("AdamWFp8", True), _TORCHAO,
        ),
        Contestant(
            "bitsandbytes-8bit", "bitsandbytes AdamW8bit, bf16", "bf16", _bitsandbytes, ("torch", "bitsandbytes")
        ),
        Contestant(
            "optimi-release", "optimi AdamW, bf16 + Kahan, its release", "bf16", _optimi, ("torch", "torch-optimi")
        ),
        Contestant("adafactor-bf16", "torch Adafactor, bf16", "bf16", _adafactor, momentum=False),
        Contestant(
            "adafactor-bf16-release", "torch Adafactor, bf16, release by hooks", "bf16", _adafactor_released,
            momentum=False,
        ),
        Contestant("sgd-bf16-release", "torch SGD, bf16, release by hooks", "bf16", _sgd_released, momentum=False),
        Contestant("backward", "backward only, bf16, gradients dropped", "bf16", _backward_only, momentum=False),
        Contestant("forward", "forward only, bf16", "bf16", lambda model, lr: None, momentum=False),
        Contestant("fastgrad-bf16-int8", "fastgrad, bf16 + int8 states", "bf16",
                   _fastgrad(False, state_format="int8"), **_OURS),
        Contestant(
            "fastgrad-bf16-fp4", "fastgrad, bf16 + fp4 momentum + factored v + release", "bf16",
            _fastgrad(True, state_format="fp4_e2m1", factored=True), wanted=(2.6, 3.1), **_OURS,
        ),
        Contestant(
            "fastgrad-leanest", "fastgrad, int8 weights + factored v + release", "int8",
            _fastgrad(True, betas=NO_MOMENTUM, factored=True), momentum=False, wanted=(1.1, 1.63), **_OURS,
        ),
    )
}  # fmt: skip
