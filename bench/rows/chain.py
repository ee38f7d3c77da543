"""Everything at once: normalize, quantize, measure q_k, weight decay, momentum, update."""

from __future__ import annotations

from functools import partial

import torch

from bench import gate, plain
from bench.floors import Floor
from bench.gate import Call
from bench.peers import torchao
from bench.rows.row import (
    DECAY,
    LR,
    MU,
    RATES,
    Build,
    Check,
    Contestant,
    Row,
    compiled,
    compiled_per_tensor,
    lists,
    loop_call,
    windowed,
)
from bench.rows.step import SIGMA_FIRST, ours, ours_optimizer, torch_optimizer
from bench.shapes import Workspace


def plain_chain(work: Workspace) -> Call:
    return Call(plain.chain_znorm_bf16_, (*lists(work), LR, MU, DECAY))


def torchao_chain(work: Workspace) -> Call:
    return Call(plain.chain_znorm_bf16_, (*lists(work), LR, MU, DECAY, torchao.bf16_rounding()))


def plain_autoscale(work: Workspace) -> Call:
    first = torch.tensor(SIGMA_FIRST, device=work.device)
    return Call(plain.chain_autoscale_e4m3_, (*lists(work), first, LR, MU, DECAY))


def _row(
    name: str,
    title: str,
    check: Check,
    ours: Build,
    optimizer: Build,
    build: Build,
    more: tuple[Contestant, ...],
) -> Row:
    contestants = (
        *windowed("momentum"),
        Contestant("fastgrad.optim.SGD.step", "ours", optimizer, dtypes=("fp32",)),
        Contestant("fastgrad.sgd_step_", "ours", ours),
        Contestant("torch eager", "eager", build),
        *more,
        compiled(build),
        Contestant(
            "only torch.optim.SGD(fused=True)", "reference", partial(torch_optimizer, decay=DECAY, fused=True),
            partial(gate.momentum, **RATES),
        ),
        Contestant(
            "only bare momentum (read g once)", "reference", partial(loop_call, loop=Floor("momentum")),
            gate.nothing,
        ),
    )  # fmt: skip
    return Row(name, title, "read g; read g, p, m; write p, m", 2, 16, check, contestants)


def chain_rows() -> tuple[Row, ...]:
    return (
        _row(
            "chain", "ZNorm, stochastic bf16, q_k, weight decay, momentum, update",
            partial(gate.chain, method="znorm", format="bf16", **RATES),
            partial(ours, method="znorm", format="bf16"),
            partial(ours_optimizer, method="znorm", format="bf16"), plain_chain,
            (
                Contestant("torch eager, rounding by torchao", "peer", torchao_chain, None, "torchao"),
                compiled_per_tensor(plain_chain, 3),
            ),
        ),
        _row(
            "chain_fp8", "Autoscale, stochastic fp8_e4m3, q_k, weight decay, momentum, update",
            partial(gate.chain, method="autoscale", format="fp8_e4m3", first=SIGMA_FIRST, **RATES),
            partial(ours, method="autoscale", format="fp8_e4m3", scale="tensor"),
            partial(ours_optimizer, method="autoscale", format="fp8_e4m3"), plain_autoscale, (),
        ),
    )  # fmt: skip
