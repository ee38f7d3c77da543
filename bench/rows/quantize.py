"""Real low-precision storage of every gradient, stochastically rounded, with the shrinkage q_k measured."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

import fastgrad
from bench import gate, plain
from bench.floors import Floor
from bench.gate import Call
from bench.peers import bitsandbytes, heavyball, pytorch_optimizer, qtorch, torchao
from bench.rows.row import Build, Contestant, Row, compiled, compiled_per_tensor, floors, on_grads, windowed
from bench.shapes import Workspace
from fastgrad import shrinkage

DELAYED = 1.25  # a delayed absmax is this much larger than the current one
FLOAT32_DOT = 1e-3  # torch.dot of 25 M products is off by 3.4e-4
FLOAT8 = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}


def as_numbers(codes: Tensor, n: int, format: str) -> Tensor:
    """Codes as the numbers they stand for where the scale is 1."""
    if format != "fp4_e2m1":
        return codes
    pairs = torch.stack((codes & 15, codes >> 4), dim=-1)
    return plain.values_of_fp4(pairs.view(-1)[:n])


def stored(result: tuple[list[fastgrad.Quantized], Tensor]) -> list[plain.Rounded]:
    quantized, table = result
    factors = shrinkage.projection(table[:-1, 8], table[:-1, 9])
    return [
        (as_numbers(x.codes, torch.Size(x.shape).numel(), x.format), x.scale, k)
        for x, k in zip(quantized, factors, strict=True)
    ]


def delayed_scales(work: Workspace) -> list[Tensor]:
    return [(g.float().abs().amax() * DELAYED / 448.0).reshape(1) for g in work.initial["grads"]]


def ours(work: Workspace, format: str, given: bool = False, keep: bool = False, **options: object) -> Call:
    """``keep``: into the memory of the first call, as a training loop does (and the floors do)."""
    steps = itertools.count()
    if given:
        options["scale"] = delayed_scales(work)
    if keep:
        options["out"], _ = fastgrad.quantize(work.grads, format, **options)

    def quantize(grads: list[Tensor]) -> tuple[list[fastgrad.Quantized], Tensor]:
        return fastgrad.quantize(grads, format, step=next(steps), **options)

    return Call(quantize, (work.grads,), stored)


def plain_fp8(work: Workspace, format: str, given: bool = False) -> Call:
    if given:
        return Call(_delayed, (work.grads, delayed_scales(work)))
    return on_grads(plain.quantize_fp8, work, format)


def _delayed(grads: list[Tensor], scales: list[Tensor]) -> list[plain.Rounded]:
    return plain.quantize_fp8(grads, "fp8_e4m3", scales)


def plain_fp4(work: Workspace) -> Call:
    sizes = [g.numel() for g in work.grads]

    def view(result: list[plain.Rounded]) -> list[plain.Rounded]:
        return [
            (as_numbers(codes, n, "fp4_e2m1"), scale, factor)
            for (codes, scale, factor), n in zip(result, sizes, strict=True)
        ]

    return Call(plain.quantize_fp4, (work.grads,), view)


def nearest_fp8(work: Workspace, format: str) -> Call:
    largest = plain.LARGEST[format]

    def cast(grads: list[Tensor]) -> list[tuple[Tensor, Tensor, None]]:
        scales = [plain.current_scale(g.float(), largest) for g in grads]
        return [
            ((g.float() * (1.0 / s)).to(FLOAT8[format]), s, None) for g, s in zip(grads, scales, strict=True)
        ]

    return Call(cast, (work.grads,))


def nearest_bf16(work: Workspace) -> Call:
    ones = torch.ones(1)

    def cast(grads: list[Tensor]) -> list[tuple[Tensor, Tensor, None]]:
        return [(g.to(torch.bfloat16), ones, None) for g in grads]

    return Call(cast, (work.grads,))


def _row(
    name: str, title: str, traffic: str, gradients: int, others: float, floor: tuple[Contestant, ...],
    build: Build, references: tuple[Contestant, ...] = (), *, lists: int = 1, gated: dict | None = None,
    dtypes: tuple[str, ...] = ("fp32", "bf16"), **options: object,
) -> Row:  # fmt: skip
    check = partial(gate.rounded, format=options["format"], **(gated or {}))
    loose = partial(check, factor_tolerance=FLOAT32_DOT)
    contestants = (
        *floor,
        Contestant("fastgrad.quantize(out=)", "ours", partial(ours, keep=True, **options)),
        Contestant("fastgrad.quantize", "ours", partial(ours, **options)),
        Contestant("torch eager, bit trick", "eager", build, loose),
        replace(compiled_per_tensor(build, lists), check=loose),
        replace(compiled(build), check=loose),
        *references,
    )
    return Row(name, title, traffic, gradients, others, check, contestants, dtypes)


def _fp8(format: str) -> Row:
    nearest = Contestant(
        "torch: nearest, no q_k", "reference", partial(nearest_fp8, format=format),
        partial(gate.rounded, format=format, rounding="nearest", measured=False),
    )  # fmt: skip
    return _row(
        "fp8" if format == "fp8_e4m3" else format,
        f"Stochastic rounding to {format}, current scale per tensor, with q_k",
        "read g; read g, write 1 byte", 2, 1, (*windowed("to_u8"), *windowed("to_u8", streaming=True)),
        partial(plain_fp8, format=format), (nearest, *qtorch.float_quantize(format)), format=format,
    )  # fmt: skip


def quantize_rows() -> tuple[Row, ...]:
    u16 = floors(Floor("to_u16"), Floor("to_u16", streaming=True))
    u8 = floors(Floor("to_u8"), Floor("to_u8", streaming=True))
    nearest = Contestant(
        "torch: nearest, no q_k", "reference", nearest_bf16,
        partial(gate.rounded, format="bf16", rounding="nearest", measured=False),
    )  # fmt: skip
    return (
        _row(
            "bf16", "Stochastic rounding to bf16, with q_k", "read g, write 2 bytes", 1, 2, u16,
            partial(on_grads, plain.quantize_bf16),
            (
                nearest, *torchao.rounding(), *pytorch_optimizer.rounding(), *heavyball.rounding(),
                *qtorch.float_quantize("bf16"),
            ),
            dtypes=("fp32",), format="bf16",
        ),
        _fp8("fp8_e4m3"),
        _fp8("fp8_e5m2"),
        _row(
            "fp8_delayed", "Stochastic rounding to fp8_e4m3, scale given, with q_k", "read g, write 1 byte",
            1, 1, u8, partial(plain_fp8, format="fp8_e4m3", given=True), lists=2,
            gated={"stretch": DELAYED}, format="fp8_e4m3", given=True,
        ),
        _row(
            "int8", "Stochastic rounding to int8, a scale per 256 elements, with q_k",
            "read g, write 1 byte (and 4 of scale per 256)", 1, 1 + 4 / 256, u8,
            partial(on_grads, plain.quantize_int8),
            (*torchao.int8(), *bitsandbytes.int8(), *qtorch.int8()),
            gated={"block": 256}, format="int8", scale="block", block=256,
        ),
        # The floor writes a byte, twice the codes.
        _row(
            "fp4", "Stochastic rounding to fp4_e2m1, a power of two per 32 elements, with q_k",
            "read g, write half a byte (and 4 of scale per 32)", 1, 1 / 2 + 4 / 32, u8, plain_fp4,
            (*torchao.fp4(), *bitsandbytes.fp4()),
            gated={"block": 32, "pow2": True}, format="fp4_e2m1", scale="block", block=32, pow2=True,
        ),
    )  # fmt: skip
