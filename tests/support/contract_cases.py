"""Choosing cases: every pair of values of two axes at least once, rather than the whole grid."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence

Case = dict[str, object]


def pairwise(
    axes: Mapping[str, Sequence[object]], seed: int, adjust: Callable[[Case], Case] = lambda case: case
) -> list[Case]:
    """Cases that hold every pair of values of any two axes that `adjust` leaves possible.

    adjust: turns a combination that is not legal into a legal one.
    """
    rng = random.Random(seed)
    names = list(axes)

    def pairs(case: Case) -> set[tuple]:
        return {(a, case[a], b, case[b]) for a, b in itertools.combinations(names, 2)}

    wanted = {(a, va, b, vb) for a, b in itertools.combinations(names, 2) for va in axes[a] for vb in axes[b]}
    order = sorted(wanted, key=repr)
    rng.shuffle(order)
    cases: list[Case] = []
    for a, va, b, vb in order:
        if (a, va, b, vb) not in wanted:
            continue
        candidates = []
        for _ in range(12):
            free = {name: rng.choice(values) for name, values in axes.items()}
            candidates.append(adjust({**free, a: va, b: vb}))
        best = max(candidates, key=lambda case: len(pairs(case) & wanted))
        wanted -= pairs(best) | {(a, va, b, vb)}  # a pair that cannot be had is given up
        cases.append(best)
    return cases


def grid(axes: Mapping[str, Sequence[object]], legal: Callable[[Case], bool] = lambda case: True) -> list[Case]:
    """Every legal combination."""
    combinations = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    return [case for case in combinations if legal(case)]


def name(case: Case) -> str:
    """A test id."""
    return "-".join(str(value).removeprefix("torch.") for value in case.values())
