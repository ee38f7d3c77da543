"""normalize_grad, quantize_grad and fake_quantize: the differentiable ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgrad import library
from fastgrad.ops import checks
from fastgrad.ops.normalize_quantize import default_scale
from fastgrad.ops.sweeps import FORMATS
from fastgrad.reference.philox import DEFAULT_SEED, signed64


class _TreatGradient(torch.autograd.Function):
    """Identity; the gradient is normalized and rounded on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, state: Tensor, arguments: tuple, observe: Callable | None) -> Tensor:
        ctx.arguments, ctx.step, ctx.state, ctx.observe = arguments, step, state, observe
        # Noise is keyed by storage order. That of the gradient is up to autograd and compilers; that of x is not.
        ctx.stride = x.stride() if checks.is_dense(x) else x.contiguous().stride()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        if gradient.stride() != ctx.stride:
            gradient = torch.empty_strided(
                gradient.shape, ctx.stride, dtype=gradient.dtype, device=gradient.device
            ).copy_(gradient)
        out, table = _treat(gradient, ctx.step, ctx.state, "gradient", *ctx.arguments)
        if ctx.observe is not None:
            ctx.observe(table)
        return out, None, None, None, None


class _FakeQuantize(torch.autograd.Function):
    """Rounded forward; straight through backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, state: Tensor, arguments: tuple) -> Tensor:
        return _treat(x, step, state, "activation", *arguments)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        return gradient, None, None, None


def _treat(x: Tensor, step: Tensor, state: Tensor, purpose: str, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Out and table; arguments: those of :func:`_quantize_arguments`."""
    method, alpha, eps, max_norm, format, rounding, scale, block, pow2, seed = arguments
    return torch.ops.fastgrad.normalize_quantize(
        x, None, method, eps, max_norm, alpha, state, None, False,
        format, rounding, scale, block, pow2, seed, 0, step, 0, purpose, None,
    )  # fmt: skip


def _count(step: Tensor) -> Tensor:
    step.add_(1)
    return step.clone()


# One op, not an addition and a copy: a compiler may redo those in the backward, from a counter that has moved on.
library.define(
    "next_step(Tensor(a!) step) -> Tensor",
    reference=_count,
    fake=torch.empty_like,
)


def next_step(step: Tensor) -> Tensor:  # int64 []
    """Adds one to a counter and gives its new value, a copy that later counting does not change."""
    return torch.ops.fastgrad.next_step(step)


def _step_tensor(step: int | Tensor) -> Tensor:
    return step if isinstance(step, Tensor) else torch.tensor(step, dtype=torch.int64, device="cpu")


def normalize_grad(
    x: Tensor,  # [...], float32, bfloat16 or float16
    method: str,
    *,
    alpha: str = "ratio_first",
    eps: float = 1e-8,
    max_norm: float = 1.0,
    state: Tensor | None = None,  # float64 [2], written by the backward
) -> Tensor:  # x
    """Identity whose backward normalizes the gradient: ``dL/dx = a * (dL/dy - c)``.

    The map is that of :func:`fastgrad.normalize_` on the one gradient tensor (``dim 0`` rows for centralize; clip
    and autoscale see this tensor alone). Put it between blocks to treat the gradients that flow there.
    """
    checks.normalizer(method, alpha, state)
    checks.float_tensors("x", [x])
    state = checks.alpha_state(state, [x])
    arguments = (method, alpha, eps, max_norm, "fp32", "nearest", "none", 0, False, 0)
    return _TreatGradient.apply(x, torch.zeros((), dtype=torch.int64, device="cpu"), state, arguments, None)


def quantize_grad(
    x: Tensor,  # [...], float32, bfloat16 or float16
    format: str,
    *,
    step: int | Tensor,
    normalize: str | None = None,  # a method of normalize_
    alpha: str = "ratio_first",
    eps: float = 1e-8,
    max_norm: float = 1.0,
    state: Tensor | None = None,  # float64 [2], written by the backward
    rounding: str = "stochastic",
    scale: str | None = None,
    block: int = 128,
    pow2: bool = False,
    seed: int = DEFAULT_SEED,
    observe: Callable[[Tensor], None] | None = None,
) -> Tensor:  # x
    """Identity whose backward rounds the gradient to a format (after normalizing it, if asked to).

        dL/dx = dequantize(quantize(a * (dL/dy - c)))          E[dL/dx] = dL/dy  for stochastic rounding, no method

    ``step`` names the noise and must differ from call to call with one seed: an int, or an int64 tensor that is not
    changed before the backward, which compiled graphs need. :class:`fastgrad.nn.TreatGradient` counts by itself.
    Noise is keyed by the storage order of ``x``. ``observe`` is called in the backward with what the rounding measured,
    a table of float64 [2, 16] (:mod:`fastgrad.shrinkage`). Arguments as in :func:`fastgrad.normalize_quantize_`.
    """
    return _TreatGradient.apply(*_quantize_arguments(x, format, step, normalize or "none", alpha, eps, max_norm, state,
                                                     rounding, scale, block, pow2, seed), observe)  # fmt: skip


def fake_quantize(
    x: Tensor,  # [...], float32, bfloat16 or float16
    format: str,
    *,
    step: int | Tensor,
    rounding: str = "stochastic",
    scale: str | None = None,
    block: int = 128,
    pow2: bool = False,
    seed: int = DEFAULT_SEED,
) -> Tensor:  # [...], the values of the format, in x's dtype
    """Rounds to a format forward, straight through backward (Bengio et al. 2013): ``y = q(x), dL/dx = dL/dy``.

    Noise has the purpose *activation*. Arguments as in :func:`quantize_grad`.
    """
    return _FakeQuantize.apply(*_quantize_arguments(x, format, step, "none", "one", 0.0, 1.0, None, rounding, scale,
                                                    block, pow2, seed))  # fmt: skip


def _quantize_arguments(
    x: Tensor, format: str, step: int | Tensor, method: str, alpha: str, eps: float, max_norm: float,
    state: Tensor | None, rounding: str, scale: str | None, block: int, pow2: bool, seed: int,
) -> tuple[Tensor, Tensor, Tensor, tuple]:  # fmt: skip
    checks.one_of("format", format, FORMATS)
    scale = default_scale(format) if scale is None else scale
    checks.quantizer(format, rounding, scale, block)
    checks.normalizer(method, alpha, state, "normalize")
    checks.float_tensors("x", [x])
    state = checks.alpha_state(state, [x])
    arguments = (method, alpha, eps, max_norm, format, rounding, scale, block, pow2, signed64(seed))
    return x, _step_tensor(step), state, arguments
