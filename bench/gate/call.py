"""A call that is timed, and how a gate calls it once and looks at what it did."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from bench.shapes import Workspace

SAMPLE = 1 << 16  # elements of a tensor that are looked at one by one


class Wrong(AssertionError):
    """A contestant that does not do the work."""


def identity(result: object) -> object:
    return result


@dataclass(frozen=True)
class Call:
    """What is timed, ``function(*arguments)``, and how the gate reads its result."""

    function: Callable[..., object]
    arguments: tuple = ()
    view: Callable[[object], object] = identity

    def __call__(self) -> object:
        return self.function(*self.arguments)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Wrong(message)


def run(work: Workspace, call: Call, check: Callable[[Workspace, Call, object], None]) -> float:
    """Calls a contestant on fresh data and checks what it did; raises :class:`Wrong`. Gives the seconds of the call."""
    work.reset()
    begin = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - begin
    check(work, call, call.view(result))
    return seconds


def nothing(work: Workspace, call: Call, result: object) -> None:
    """Floors compute nothing; tests/test_bench_floors.py checks the loops."""


def sample(t: Tensor) -> Tensor:
    """All elements in float64, or an even selection of a large tensor."""
    return t.reshape(-1)[:: -(-t.numel() // SAMPLE)].double()
