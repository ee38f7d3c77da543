"""Modules over the differentiable ops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgrad.ops import checks
from fastgrad.ops.backward import next_step, quantize_grad
from fastgrad.ops.normalize_quantize import default_scale
from fastgrad.ops.sweeps import FORMATS
from fastgrad.reference.philox import DEFAULT_SEED

__all__ = ["TreatGradient"]


class TreatGradient(nn.Module):
    """Identity in forward; in backward the gradient is normalized and rounded (:func:`fastgrad.quantize_grad`).

    Counts its forward passes in training, so that every step has noise of its own; the counter and the state of
    autoscale are buffers and resume with the state_dict. Give every instance in a network its own seed: equal seeds
    give equal noise.
    """

    step: Tensor
    state: Tensor

    def __init__(
        self,
        normalize: str | None = None,
        grad_format: str | None = None,
        *,
        alpha: str = "ratio_first",
        eps: float = 1e-8,
        max_norm: float = 1.0,
        rounding: str = "stochastic",
        scale: str | None = None,
        block: int = 128,
        pow2: bool = False,
        seed: int = DEFAULT_SEED,
    ) -> None:
        super().__init__()
        self.normalize = normalize or "none"
        self.grad_format = grad_format or "fp32"
        checks.one_of("grad_format", self.grad_format, FORMATS)
        checks.normalizer(self.normalize, alpha, name="normalize")
        scale = default_scale(self.grad_format) if scale is None else scale
        checks.quantizer(self.grad_format, rounding, scale, block)
        self.options: dict[str, Any] = dict(
            alpha=alpha, eps=eps, max_norm=max_norm, rounding=rounding, scale=scale, block=block, pow2=pow2, seed=seed
        )
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("state", torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return x
        return quantize_grad(
            x, self.grad_format, step=next_step(self.step), normalize=self.normalize, state=self.state, **self.options
        )

    def extra_repr(self) -> str:
        return f"normalize={self.normalize!r}, grad_format={self.grad_format!r}, rounding={self.options['rounding']!r}"
