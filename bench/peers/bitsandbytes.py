"""bitsandbytes: quantization in blocks with codes of its own, SGD and AdamW of 8 bits."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from bench import gate
from bench.gate import Call
from bench.peers.own_state import step_of
from bench.rows.row import LR, MU, RATES, Contestant
from bench.shapes import Workspace


def pack(t: Tensor, block: int = 256) -> tuple:
    from bitsandbytes import functional

    return functional.quantize_blockwise(t, blocksize=block)


def unpack(packed: tuple) -> Tensor:
    from bitsandbytes import functional

    return functional.dequantize_blockwise(*packed)


def _blockwise(work: Workspace) -> Call:
    pack(work.grads[0])  # what is missing is missing here

    def quantize(grads: list[Tensor]) -> list[tuple]:
        return [pack(g) for g in grads]

    return Call(quantize, (work.grads,), lambda result: [unpack(each) for each in result])


def _fp4(work: Workspace) -> Call:
    from bitsandbytes import functional

    def quantize(grads: list[Tensor]) -> list[tuple]:
        return [functional.quantize_4bit(g, blocksize=64, quant_type="fp4") for g in grads]

    def view(result: list[tuple]) -> list[Tensor]:
        pairs = zip(result, work.grads, strict=True)
        return [functional.dequantize_4bit(codes, state).view(g.shape) for (codes, state), g in pairs]

    return Call(quantize, (work.grads,), view)


def int8() -> tuple[Contestant, ...]:
    # Half of the widest gap of its codes, which are denser near zero.
    check = partial(gate.restored, block=256, tolerance=0.02)
    name = "bitsandbytes quantize_blockwise (nearest, own codes, no q_k)"
    return (Contestant(name, "reference", _blockwise, check, "bitsandbytes"),)


def fp4() -> tuple[Contestant, ...]:
    check = partial(gate.restored, block=64, tolerance=0.17)
    name = "bitsandbytes quantize_4bit, fp4 in blocks of 64 (nearest, own codes, no q_k)"
    return (Contestant(name, "reference", _fp4, check, "bitsandbytes"),)


def _sgd(parameters: list[nn.Parameter], kind: str) -> torch.optim.Optimizer:
    from bitsandbytes import optim

    return getattr(optim, kind)(parameters, LR, MU)


def momentum() -> tuple[Contestant, ...]:
    own = {"lr": RATES["lr"], "mu": RATES["mu"]}
    return (
        Contestant(
            "bitsandbytes SGD", "peer", partial(step_of, make=partial(_sgd, kind="SGD")),
            partial(gate.two_steps, **own), "bitsandbytes", dtypes=("fp32",),
        ),
        Contestant(
            "bitsandbytes SGD8bit (8-bit momentum)", "reference", partial(step_of, make=partial(_sgd, kind="SGD8bit")),
            partial(gate.two_steps, **own, tolerance=2e-2), "bitsandbytes", dtypes=("fp32",),
        ),
    )  # fmt: skip


def adamw(parameters: list[nn.Parameter], betas: tuple, eps: float, decay: float, lr: float) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, lr, betas, eps, decay)
