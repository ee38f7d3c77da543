"""The rows of the benchmark and who competes in each: fastgrad, plain PyTorch, torch.compile, floors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import fastgrad
from bench import adamw, gate, plain
from bench.floors import Floor, bind
from bench.gate import Call
from bench.shapes import Workspace
from fastgrad import shrinkage

KINDS = ("floor", "ours", "eager", "foreach", "fused", "compile", "peer", "reference")
LR, MU, DECAY = 1e-3, 0.9, 1e-4
RATES = {"lr": LR, "mu": MU, "decay": DECAY}
HYPER = (LR, MU, 0.0, DECAY, 0.0, 0.0, 0.0, 0.0)
SIGMA_FIRST = 2.0**-10  # the sigma of autoscale's first step
FOREACH_NORM = 1e-2  # it is off by 1.4e-3 with 25 M elements and 5.1e-3 with 64 M, and is timed all the same
DELAYED = 1.25  # a delayed absmax is this much larger than the current one


@dataclass(frozen=True)
class Contestant:
    """``build`` gives the call that is timed; it may hold what a training loop keeps from step to step."""

    name: str
    kind: str
    build: Callable[[Workspace], Call]
    check: Callable[[Workspace, Call, object], None] | None = None  # default: that of the row


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    traffic: str  # what is moved, in words
    bytes: int  # per element
    check: Callable[[Workspace, Call, object], None]
    contestants: tuple[Contestant, ...]


def loop_call(work: Workspace, loop: Floor) -> Call:
    return Call(bind(loop, work))


def floors(*loops: Floor) -> tuple[Contestant, ...]:
    return tuple(
        Contestant(f"floor: {loop.name}", "floor", partial(loop_call, loop=loop), gate.nothing)
        for loop in loops
    )


def windowed(body: str, streaming: bool = False) -> tuple[Contestant, ...]:
    """Read first, then the body: over the whole list, or in windows that fit a cache."""
    return floors(*(Floor(body, True, streaming, window) for window in (0, 256 << 10, 2048 << 10)))


def compiled(build: Callable[[Workspace], Call], name: str = "torch.compile of the list") -> Contestant:
    def build_compiled(work: Workspace) -> Call:
        call = build(work)
        function = torch.compile(call.function, fullgraph=True, dynamic=False)
        return Call(function, call.arguments, call.view)

    return Contestant(name, "compile", build_compiled)


# --- statistics and normalization


def _table_moments(table: Tensor) -> list[tuple[float, float]]:
    return [
        (float(std), float(mean))
        for std, mean in zip(shrinkage.std(table[:-1, 0], table[:-1, 2]), table[:-1, 1], strict=True)
    ]


def ours_moments(work: Workspace) -> Call:
    return Call(fastgrad.gradient_moments, (work.grads,), _table_moments)


def ours_znorm(work: Workspace) -> Call:
    return Call(fastgrad.normalize_, (work.grads, "znorm"))


def on_grads(function: Callable[..., object], work: Workspace) -> Call:
    return Call(function, (work.grads,))


# --- quantizing


def _stored(result: tuple[list[fastgrad.Quantized], Tensor]) -> list[plain.Rounded]:
    stored, table = result
    factors = shrinkage.projection(table[:-1, 8], table[:-1, 9])
    return [(x.codes, x.scale, k) for x, k in zip(stored, factors, strict=True)]


def delayed_scales(work: Workspace) -> list[Tensor]:
    return [(g.abs().amax() * DELAYED / 448.0).reshape(1) for g in work.initial["grads"]]


def ours_quantize(work: Workspace, format: str, given: bool = False, keep: bool = False, **options: object) -> Call:
    """``keep``: into the memory of the first call, as a training loop does (and the floors do)."""
    steps = itertools.count()
    if given:
        options["scale"] = delayed_scales(work)
    if keep:
        options["out"], _ = fastgrad.quantize(work.grads, format, **options)

    def quantize(grads: list[Tensor]) -> tuple[list[fastgrad.Quantized], Tensor]:
        return fastgrad.quantize(grads, format, step=next(steps), **options)

    return Call(quantize, (work.grads,), _stored)


def plain_delayed(work: Workspace) -> Call:
    return Call(plain.quantize_e4m3, (work.grads, delayed_scales(work)))


# --- steps


def _lists(work: Workspace) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    return work.grads, work.params, work.momenta


def ours_step(work: Workspace, method: str, format: str, scale: str = "none", measure: bool = True) -> Call:
    hyper = torch.tensor([HYPER], dtype=torch.float64)
    if method == "none":
        hyper[0, 3] = 0.0
    state = torch.tensor([SIGMA_FIRST, SIGMA_FIRST], dtype=torch.float64, device=work.device)
    steps = itertools.count()

    def step(grads: list[Tensor], params: list[Tensor], momenta: list[Tensor]) -> Tensor:
        return fastgrad.sgd_step_(
            params, grads, momenta, hyper,
            method=method, format=format, scale=scale, state=state, measure=measure, step=next(steps),
        )  # fmt: skip

    return Call(step, _lists(work), lambda table: shrinkage.projection(table[:-1, 8], table[:-1, 9]))


def ours_sgd(work: Workspace, method: str | None, format: str | None) -> Call:
    """fastgrad.optim.SGD on the same memory: what training code calls."""
    parameters = [torch.nn.Parameter(p) for p in work.params]
    optimizer = fastgrad.optim.SGD(
        parameters, lr=LR, momentum=MU, weight_decay=DECAY if method else 0.0, normalize=method, grad_format=format,
        eligible=lambda parameter, group: (True, True),
    )  # fmt: skip
    optimizer._progress.alpha_state.fill_(SIGMA_FIRST)
    for parameter, g, m in zip(parameters, work.grads, work.momenta, strict=True):
        parameter.grad = g
        optimizer.state[parameter]["momentum_buffer"] = m

    def step() -> Tensor | None:
        optimizer.step()
        return optimizer.table

    return Call(step, (), lambda table: shrinkage.projection(table[:-1, 8], table[:-1, 9]))


def torch_sgd(work: Workspace, decay: float = 0.0, **options: bool) -> Call:
    """torch.optim.SGD on the same memory."""
    parameters = [torch.nn.Parameter(p) for p in work.params]
    optimizer = torch.optim.SGD(parameters, lr=LR, momentum=MU, weight_decay=decay, **options)
    for parameter, g, m in zip(parameters, work.grads, work.momenta, strict=True):
        parameter.grad = g
        optimizer.state[parameter]["momentum_buffer"] = m
    return Call(optimizer.step)


def plain_momentum(work: Workspace) -> Call:
    return Call(plain.momentum_, (*_lists(work), LR, MU))


def plain_chain(work: Workspace) -> Call:
    return Call(plain.chain_znorm_bf16_, (*_lists(work), LR, MU, DECAY))


def plain_autoscale(work: Workspace) -> Call:
    first = torch.tensor(SIGMA_FIRST, device=work.device)
    return Call(plain.chain_autoscale_e4m3_, (*_lists(work), first, LR, MU, DECAY))


def _quantize_row(
    name: str, title: str, traffic: str, moved: int, build: Callable[[Workspace], Call], check: Callable,
    floor: tuple[Contestant, ...], **options: object,
) -> Row:  # fmt: skip
    contestants = (
        *floor,
        Contestant("fastgrad.quantize(out=)", "ours", partial(ours_quantize, keep=True, **options)),
        Contestant("fastgrad.quantize", "ours", partial(ours_quantize, **options)),
        Contestant("torch eager, bit trick", "eager", build),
        compiled(build),
    )
    return Row(name, title, traffic, moved, check, contestants)


def _chain_row(
    name: str,
    title: str,
    check: Callable,
    ours: Callable[[Workspace], Call],
    optimizer: Callable[[Workspace], Call],
    build: Callable[[Workspace], Call],
) -> Row:
    contestants = (
        *windowed("momentum"),
        Contestant("fastgrad.optim.SGD.step", "ours", optimizer),
        Contestant("fastgrad.sgd_step_", "ours", ours),
        Contestant("torch eager", "eager", build),
        compiled(build),
        Contestant(
            "only torch.optim.SGD(fused=True)", "reference", partial(torch_sgd, decay=DECAY, fused=True),
            partial(gate.momentum, **RATES),
        ),
        Contestant(
            "only bare momentum (20 bytes)", "reference", partial(loop_call, loop=Floor("momentum")),
            gate.nothing,
        ),
    )  # fmt: skip
    return Row(name, title, "read g; read g, p, m; write p, m", 24, check, contestants)


_U16 = floors(Floor("to_u16"), Floor("to_u16", streaming=True))
_U8 = floors(Floor("to_u8"), Floor("to_u8", streaming=True))

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row(
            "moments", "Mean and std of every tensor", "read g", 4, gate.moments,
            (
                *floors(Floor("nothing", read_first=True)),
                Contestant("fastgrad.gradient_moments", "ours", ours_moments),
                Contestant("torch.std_mean loop", "eager", partial(on_grads, plain.std_mean)),
                Contestant("g.std(), g.mean() loop", "eager", partial(on_grads, plain.std_and_mean)),
                Contestant(
                    "foreach_norm, mean() loop", "foreach", partial(on_grads, plain.foreach_std_mean),
                    partial(gate.moments, tolerance=FOREACH_NORM),
                ),
                compiled(partial(on_grads, plain.std_mean)),
            ),
        ),
        Row(
            "znorm", "ZNorm in place", "read g; read g, write g", 12, gate.znorm,
            (
                *windowed("in_place"),
                Contestant("fastgrad.normalize_", "ours", ours_znorm),
                Contestant("std_mean, sub_, div_ loop", "eager", partial(on_grads, plain.znorm_)),
                Contestant(
                    "mean() loop, foreach norm, sub, div", "foreach", partial(on_grads, plain.foreach_znorm_),
                    partial(gate.znorm, tolerance=FOREACH_NORM),
                ),
                compiled(partial(on_grads, plain.znorm_)),
            ),
        ),
        _quantize_row(
            "bf16", "Stochastic rounding to bf16, with q_k", "read g, write 2 bytes", 6,
            partial(on_grads, plain.quantize_bf16), partial(gate.rounded, format="bf16"), _U16, format="bf16",
        ),
        _quantize_row(
            "fp8", "Stochastic rounding to fp8_e4m3, current scale per tensor, with q_k",
            "read g; read g, write 1 byte", 9, partial(on_grads, plain.quantize_e4m3),
            partial(gate.rounded, format="fp8_e4m3"),
            (*windowed("to_u8"), *windowed("to_u8", streaming=True)), format="fp8_e4m3",
        ),
        _quantize_row(
            "fp8_delayed", "Stochastic rounding to fp8_e4m3, scale given, with q_k", "read g, write 1 byte",
            5, plain_delayed, partial(gate.rounded, format="fp8_e4m3", stretch=DELAYED), _U8,
            format="fp8_e4m3", given=True,
        ),
        _quantize_row(
            "int8", "Stochastic rounding to int8, a scale per 256 elements, with q_k",
            "read g, write 1 byte (and 4 of scale per 256)", 5, partial(on_grads, plain.quantize_int8),
            partial(gate.rounded, format="int8", block=256), _U8, format="int8", scale="block", block=256,
        ),
        Row(
            "momentum", "SGD with momentum, nothing else", "read g, p, m; write p, m", 20,
            partial(gate.momentum, lr=LR, mu=MU, decay=0.0),
            (
                *floors(Floor("momentum")),
                Contestant(
                    "fastgrad.sgd_step_(measure=False)", "ours",
                    partial(ours_step, method="none", format="fp32", measure=False),
                ),
                Contestant("fastgrad.optim.SGD.step", "ours", partial(ours_sgd, method=None, format=None)),
                Contestant("torch.optim.SGD(foreach=False)", "eager", partial(torch_sgd, foreach=False)),
                Contestant("torch.optim.SGD(foreach=True)", "foreach", partial(torch_sgd, foreach=True)),
                Contestant("torch.optim.SGD(fused=True)", "fused", partial(torch_sgd, fused=True)),
                compiled(plain_momentum),
            ),
        ),
        _chain_row(
            "chain", "ZNorm, stochastic bf16, q_k, weight decay, momentum, update",
            partial(gate.chain, method="znorm", format="bf16", **RATES),
            partial(ours_step, method="znorm", format="bf16"),
            partial(ours_sgd, method="znorm", format="bf16"), plain_chain,
        ),
        _chain_row(
            "chain_fp8", "Autoscale, stochastic fp8_e4m3, q_k, weight decay, momentum, update",
            partial(gate.chain, method="autoscale", format="fp8_e4m3", first=SIGMA_FIRST, **RATES),
            partial(ours_step, method="autoscale", format="fp8_e4m3", scale="tensor"),
            partial(ours_sgd, method="autoscale", format="fp8_e4m3"), plain_autoscale,
        ),
        Row(
            "adamw", "AdamW; the floor is that of float32", "read g, p, m, v; write p, m, v", 28, gate.nothing,
            (*floors(Floor("adamw")), *(Contestant(*each) for each in adamw.contestants())),
        ),
    )
}  # fmt: skip
