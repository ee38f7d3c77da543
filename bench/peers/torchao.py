"""torchao: stochastic rounding and AdamW of few bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from bench import gate, plain
from bench.gate import Call
from bench.rows.row import Contestant
from bench.shapes import Workspace


def bf16_rounding() -> Callable[[Tensor], Tensor]:
    from torchao.optim.quant_utils import _fp32_to_bf16_sr

    return _fp32_to_bf16_sr


def _bf16(work: Workspace, compiled: bool) -> Call:
    one, ones = bf16_rounding(), torch.ones(1)
    if compiled:
        one = torch.compile(one, fullgraph=True, dynamic=True)

    def quantize(grads: list[Tensor]) -> list[tuple[Tensor, Tensor, None]]:
        return [(one(g), ones, None) for g in grads]

    return Call(quantize, (work.grads,))


def rounding() -> tuple[Contestant, ...]:
    check = partial(gate.rounded, format="bf16", measured=False)
    return (
        Contestant(
            "torchao _fp32_to_bf16_sr (no q_k)", "reference", partial(_bf16, compiled=False), check, "torchao"
        ),
        Contestant(
            "torchao _fp32_to_bf16_sr, compiled (no q_k)", "reference", partial(_bf16, compiled=True), check,
            "torchao", compiles="tensor",
        ),
    )  # fmt: skip


def _int8(work: Workspace) -> Call:
    from torchao.prototype.quantized_training.int8 import quantize_int8_rowwise

    def quantize(grads: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        return [quantize_int8_rowwise(plain.blocks(g, 256), stochastic_rounding=True) for g in grads]

    def view(result: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor, None]]:
        sizes = [g.numel() for g in work.grads]
        return [(codes.view(-1)[:n], scale, None) for (codes, scale), n in zip(result, sizes, strict=True)]

    return Call(quantize, (work.grads,), view)


def int8() -> tuple[Contestant, ...]:
    check = partial(gate.rounded, format="int8", block=256, measured=False)
    name = "torchao quantize_int8_rowwise, rows of 256 (no q_k)"
    return (Contestant(name, "reference", _int8, check, "torchao"),)


def _mxfp4(work: Workspace) -> Call:
    from torchao.prototype.mx_formats.mx_tensor import to_mx

    def quantize(grads: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        return [to_mx(plain.blocks(g, 32), torch.float4_e2m1fn_x2, 32) for g in grads]

    def view(result: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        return [_of_mx(*pair, g) for pair, g in zip(result, work.grads, strict=True)]

    return Call(quantize, (work.grads,), view)


def _of_mx(scale: Tensor, codes: Tensor, like: Tensor) -> Tensor:
    """Powers of two and nibbles, as one of to_mx's results is them."""
    pairs = codes.view(torch.uint8).reshape(-1)
    values = plain.values_of_fp4(torch.stack((pairs & 15, pairs >> 4), dim=-1).view(-1, 32))
    powers = torch.exp2(scale.view(torch.uint8).float().reshape(-1, 1) - 127)
    return (values * powers).view(-1)[: like.numel()].view(like.shape)


def fp4() -> tuple[Contestant, ...]:
    # The scale is rounded down: with an absmax of almost 8 scales, the largest code being 6, a quarter is cut off.
    check = partial(gate.restored, block=32, tolerance=0.26)
    return (Contestant("torchao to_mx (nearest, saturates, no q_k)", "reference", _mxfp4, check, "torchao"),)


def adamw(
    parameters: list[nn.Parameter], kind: str, betas: tuple, eps: float, decay: float, lr: float
) -> torch.optim.Optimizer:
    from torchao import optim

    return getattr(optim, kind)(
        parameters, lr, betas=betas, eps=eps, weight_decay=decay, bf16_stochastic_round=True
    )
