"""What autograd keeps for the backward, compressed: packed in the forward, unpacked in the backward.

The graph does nothing else: every tensor of the list is saved by a node of its own, which gives it back. Models are in
``bench.activations``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import fastgrad
from bench import gate, plain
from bench.floors import Floor, bind
from bench.gate import Call, require, sample
from bench.gate.rounding import RoundingErrors
from bench.peers import bitsandbytes
from bench.rows.row import Contestant, Row
from bench.shapes import Workspace

BLOCK = 128


class Keep(torch.autograd.Function):
    """Saves x and appends what comes back to a list; the anchor makes autograd call the backward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, anchor: Tensor, restored: list[Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.restored = restored
        return anchor.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[None, Tensor, None]:
        ctx.restored.extend(ctx.saved_tensors)
        return None, gradient, None


def through(work: Workspace, context: Callable[[], AbstractContextManager]) -> Call:
    """Forward and backward of the list within a context; gives the restored tensors in their order."""
    anchor = torch.zeros((), requires_grad=True, device=work.device)

    def step(tensors: list[Tensor]) -> list[Tensor]:
        restored: list[Tensor] = []
        with torch.enable_grad():
            with context():
                outputs = [Keep.apply(t, anchor, restored) for t in tensors]
            torch.autograd.grad(torch.stack(outputs).sum(), anchor)
        restored.reverse()  # the backward runs from the last to the first
        return restored

    return Call(step, (work.grads,))


def ours(work: Workspace, format: str) -> Call:
    steps = itertools.count()
    # Every tensor of the list goes through the codec, small ones too; "statistics" do not arise in this order.
    return through(
        work, lambda: fastgrad.compress_saved_tensors(format, block=BLOCK, min_elements=1, step=next(steps))
    )


def hooks(work: Workspace, pack: Callable, unpack: Callable) -> Call:
    return through(work, lambda: saved_tensors_hooks(pack, unpack))


def compiled_hooks(work: Workspace) -> Call:
    """Shapes stay outside of the graphs, so that one serves all tensors."""
    encode = torch.compile(lambda flat: plain.int8_codes(flat, BLOCK)[1:], fullgraph=True, dynamic=True)
    decode = torch.compile(plain.decode_int8, fullgraph=True, dynamic=True)

    def pack(t: Tensor) -> plain.Packed:
        return *encode(t.reshape(-1)), t.shape, t.dtype

    def unpack(packed: plain.Packed) -> Tensor:
        codes, scale, shape, dtype = packed
        return decode(codes, scale, dtype).view(-1)[: shape.numel()].view(shape)

    return hooks(work, pack, unpack)


def cast_hooks(work: Workspace) -> Call:
    def pack(t: Tensor) -> tuple[Tensor, torch.dtype]:
        return t.to(torch.float8_e4m3fn), t.dtype

    def unpack(packed: tuple[Tensor, torch.dtype]) -> Tensor:
        return packed[0].to(packed[1])

    return hooks(work, pack, unpack)


def bitsandbytes_hooks(work: Workspace) -> Call:
    return hooks(work, partial(bitsandbytes.pack, block=BLOCK), bitsandbytes.unpack)


def round_trip(work: Workspace, streaming: bool) -> Call:
    """Codes are written, then read and widened."""
    there, back = bind(Floor("to_u8", streaming=streaming), work), bind(Floor("from_u8"), work)
    return Call(lambda: (there(), back()))


def unbiased_int8(work: Workspace, call: Call, result: list[Tensor]) -> None:
    """Restored tensors are codes times the scale of their block, rounded stochastically.

    A context may leave tensors that are small beside their neighbours as they are: those are equal.
    """
    require(len(result) == len(work.grads), f"{len(result)} tensors, expected {len(work.grads)}")
    errors, elements = RoundingErrors("int8"), 0
    for i, (g, back) in enumerate(zip(work.initial["grads"], result, strict=True)):
        require(back.shape == g.shape and back.dtype == g.dtype, f"restored[{i}] is {back.dtype} {list(back.shape)}")
        if torch.equal(g, back):
            continue
        elements += g.numel()
        scale = plain.blocks(g, BLOCK).abs().amax(1).repeat_interleave(BLOCK)[: g.numel()] / 127
        x, s = sample(g), sample(scale)
        # bfloat16 rounds what is restored once more, to nearest.
        slack = (x / s).abs() * (2.0**-8 if g.dtype == torch.bfloat16 else 1e-6)
        errors.add(f"restored[{i}]", x / s, sample(back) / s, slack)
    require(elements > 0.9 * work.elements, f"{elements} of {work.elements} elements were compressed")
    errors.check()


def cast(work: Workspace, call: Call, result: list[Tensor]) -> None:
    """Without a scale: gradients of 2^-12 have no more than a few bits left in fp8_e4m3."""
    for i, (g, back) in enumerate(zip(work.initial["grads"], result, strict=True)):
        error = (sample(back) - sample(g)).abs()
        worst = float((error - sample(g).abs() * 2.0**-4).amax())
        require(worst <= 2.0**-10, f"restored[{i}] is off by {worst}")


def activation_rows() -> tuple[Row, ...]:
    floor = tuple(
        Contestant(
            f"floor: to_u8{' streaming' * streaming}, then from_u8", "floor",
            partial(round_trip, streaming=streaming), gate.nothing,
        )
        for streaming in (False, True)
    )  # fmt: skip
    return (
        Row(
            "activations", "Saved tensors in int8 in blocks of 128: packed, then restored",
            "read x, write 1 byte; read 1 byte, write x (and 8 of scale per 128)", 2, 2 + 8 / BLOCK, unbiased_int8,
            (
                *floor,
                Contestant("fastgrad.compress_saved_tensors", "ours", partial(ours, format="int8")),
                Contestant(
                    "saved_tensors_hooks, bit trick", "eager",
                    partial(hooks, pack=plain.pack_int8, unpack=plain.unpack_int8),
                ),
                Contestant("saved_tensors_hooks, compiled", "compile", compiled_hooks, compiles="tensor"),
                Contestant("saved_tensors_hooks, cast to fp8_e4m3 (nearest, no scale)", "reference", cast_hooks, cast),
                Contestant(
                    "saved_tensors_hooks, bitsandbytes (nearest, own codes)", "reference", bitsandbytes_hooks,
                    partial(gate.restored, block=BLOCK, tolerance=0.02), "bitsandbytes",
                ),
            ),
        ),
    )  # fmt: skip
