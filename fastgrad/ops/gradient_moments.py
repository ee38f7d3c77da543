"""gradient_moments: statistics of every tensor of a list, and of all of them together, in one read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgrad.ops import checks
from fastgrad.ops.engines import Engine, declare
from fastgrad.ops.layout import readable
from fastgrad.ops.sweeps import reference_sweep

MOMENTS = ("n", "mean", "m2", "min", "max", "nonfinite")


@torch.no_grad()
def gradient_moments(
    tensors: Sequence[Tensor],  # each [...], float32, bfloat16 or float16
) -> Tensor:  # float64 [T+1, 6]
    """Moments of every tensor; ``torch.std_mean`` of a whole list in one native call, each element read once.

    Columns, over the finite elements x of a tensor::

        n          number of finite elements
        mean       (1/n) sum x
        m2         sum (x - mean)^2,   so  var = m2/n,  std = sqrt(m2/n)
        min, max   extremes (+inf, -inf where n = 0)
        nonfinite  number of NaN and infinite elements

    Row i belongs to ``tensors[i]``; the last row is all of them together. Units are those of the tensors
    (m2: squared). Same bits on every backend and any number of threads; the error against float64 is that of a
    two-pass formula also for mean/std = 1000 and for magnitudes of 1e-23 or 1e18. See docs/numerics.md,
    section 6; the merge is that of Chan, Golub and LeVeque (1979).

    Errors: TypeError for other dtypes, sparse tensors or non-tensors; ValueError for mixed devices.
    """
    tensors = checks.tensor_list("tensors", tensors)
    checks.float_tensors("tensors", tensors)
    if not tensors:
        return reference_sweep([], flags=[])[:, :6]
    return torch.ops.fastgrad.gradient_moments(tensors)


def _implementation(engine: Engine, tensors: list[Tensor]) -> Tensor:
    return engine.sweep(readable(tensors), flags=[0] * len(tensors))[:, :6].contiguous()


def _fake(tensors: list[Tensor]) -> Tensor:
    return torch.empty(len(tensors) + 1, 6, dtype=torch.float64, device=tensors[0].device)


declare(
    "gradient_moments(Tensor[] tensors) -> Tensor",
    _implementation,
    _fake,
)
