"""A row of the benchmark and who competes in it; what the rows are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench import gate
from bench.floors import Floor, bind
from bench.gate import Call
from bench.shapes import DTYPES, Workspace

KINDS = ("probe", "floor", "ours", "eager", "foreach", "fused", "compile", "peer", "reference")
LR, MU, DECAY = 1e-3, 0.9, 1e-4
RATES = {"lr": LR, "mu": MU, "decay": DECAY}
FOREACH_NORM = 1e-2  # it is off by 1.4e-3 with 25 M elements and 5.1e-3 with 64 M, and is timed all the same

Build = Callable[[Workspace], Call]
Check = Callable[[Workspace, Call, object], None]


@dataclass(frozen=True)
class Contestant:
    """``build`` gives the call that is timed; it may hold what a training loop keeps from step to step.

    A contestant of kind ``reference`` does less work than the row asks for; its name says what is missing.

    compiles: what its first call compiles. ``list``: a graph of all tensors, or one for every shape; ``tensor``: one
    that serves all; ``C++``: a library's own sources, once for an installation.
    """

    name: str
    kind: str
    build: Build
    check: Check | None = None  # default: that of the row
    package: str | None = None  # a library besides torch and fastgrad; that it is missing is no failure
    compiles: str = ""
    dtypes: tuple[str, ...] = tuple(DTYPES)  # of gradients, that it takes


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    traffic: str  # what is moved, in words
    gradients: int  # times that an element of a gradient is read or written
    others: float  # bytes per element that are moved besides
    check: Check
    contestants: tuple[Contestant, ...]
    dtypes: tuple[str, ...] = tuple(DTYPES)
    together: bool = True  # False: contestants hold so much that they are timed one after another

    def bytes(self, dtype: str = "fp32") -> float:
        """Moved per element."""
        return self.gradients * DTYPES[dtype].itemsize + self.others


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


def whole_list_first(body: str) -> tuple[Contestant, ...]:
    """The body over the whole list after reading all of it: what needs one number of the list cannot use a cache."""
    return floors(Floor(body, True))


# The same loop in every row: how much its time scatters over a run is the noise of the machine.
PROBE = Contestant(
    "probe: read", "probe", partial(loop_call, loop=Floor("nothing", read_first=True)), gate.nothing
)


def on_grads(function: Callable[..., object], work: Workspace, *arguments: object) -> Call:
    return Call(function, (work.grads, *arguments))


def lists(work: Workspace) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    return work.grads, work.params, work.momenta


def compiled(build: Build) -> Contestant:
    """torch.compile of a function of the whole list."""

    def build_compiled(work: Workspace) -> Call:
        call = build(work)
        function = torch.compile(call.function, fullgraph=True, dynamic=False)
        return Call(function, call.arguments, call.view)

    return Contestant("torch.compile of the list", "compile", build_compiled, compiles="list")


def compiled_per_tensor(build: Build, count: int = 1, flat: bool = True) -> Contestant:
    """torch.compile of one tensor's work, called for each: one graph for all sizes.

    count: how many of the call's arguments are lists; the function gives a list, or nothing.
    flat: shapes do not matter; else there is a graph for every number of dimensions.
    """

    def build_compiled(work: Workspace) -> Call:
        call = build(work)
        function = torch.compile(call.function, fullgraph=True, dynamic=True)
        many, rest = call.arguments[:count], call.arguments[count:]
        if flat:
            many = tuple([t.view(-1) for t in tensors] for tensors in many)

        def each(*arguments: list[Tensor]) -> list:
            found: list = []
            for tensors in zip(*arguments, strict=True):
                found += function(*([t] for t in tensors), *rest) or ()
            return found

        return Call(each, many, call.view)

    return Contestant("torch.compile of a tensor", "compile", build_compiled, compiles="tensor")
