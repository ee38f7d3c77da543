"""Statistics of every gradient."""

from __future__ import annotations

from functools import partial

from torch import Tensor

import fastgrad
from bench import gate, plain
from bench.floors import Floor
from bench.gate import Call
from bench.rows.row import FOREACH_NORM, Contestant, Row, compiled, compiled_per_tensor, floors, on_grads
from bench.shapes import Workspace
from fastgrad import shrinkage


def of_table(table: Tensor) -> list[tuple[float, float]]:
    """(std, mean) of every tensor."""
    stds = shrinkage.std(table[:-1, 0], table[:-1, 2])
    return [(float(std), float(mean)) for std, mean in zip(stds, table[:-1, 1], strict=True)]


def ours(work: Workspace) -> Call:
    return Call(fastgrad.gradient_moments, (work.grads,), of_table)


def moments_row() -> Row:
    return Row(
        "moments", "Mean and std of every tensor", "read g", 1, 0, gate.moments,
        (
            *floors(Floor("nothing", read_first=True)),
            Contestant("fastgrad.gradient_moments", "ours", ours),
            Contestant("torch.std_mean loop", "eager", partial(on_grads, plain.std_mean)),
            Contestant("g.std(), g.mean() loop", "eager", partial(on_grads, plain.std_and_mean)),
            Contestant(
                "foreach_norm, mean() loop", "foreach", partial(on_grads, plain.foreach_std_mean),
                partial(gate.moments, tolerance=FOREACH_NORM),
            ),
            compiled_per_tensor(partial(on_grads, plain.std_mean)),
            compiled(partial(on_grads, plain.std_mean)),
            Contestant(
                "torch._foreach_norm (no mean)", "reference", partial(on_grads, plain.foreach_norm), gate.norms
            ),
        ),
    )  # fmt: skip
