"""The TensorBoard side of ``fastgrad.Monitor``."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from fastgrad.monitor_quantities import is_quantized, measure, summary


def open_writer(folder: str | os.PathLike) -> Any:
    """A new SummaryWriter of torch that writes into ``folder``."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "Monitor: tensorboard=folder needs TensorBoard (pip install tensorboard)"
        ) from error
    return SummaryWriter(os.fspath(folder))


def send(
    writer: Any,  # has add_scalar(tag, value, step, walltime=seconds)
    step: int,
    seconds: float,  # since 1970, when the step was observed
    layers: list[str],  # L names
    table: Tensor,  # [1 + L, 16], row 0 = the list
) -> None:
    """gradient/{global_std, alpha, q_mean}, std/<layer> and q/<layer>; q only where quantized."""
    numbers = summary(table)
    quantized = is_quantized(table[1:])
    scalars = {"gradient/global_std": numbers["global_std"], "gradient/alpha": numbers["alpha"]}
    if quantized.any():
        scalars["gradient/q_mean"] = numbers["q_mean"]
    for name, std, q, has_q in zip(
        layers,
        measure(table[1:], "std").tolist(),
        measure(table[1:], "q").tolist(),
        quantized.tolist(),
        strict=True,
    ):
        # NaN: the layer had no gradient, or none that is finite. A gap says so better than a NaN marker.
        if std == std:
            scalars[f"std/{name}"] = std
        if has_q:
            scalars[f"q/{name}"] = q
    for tag, value in scalars.items():
        writer.add_scalar(tag, value, step, walltime=seconds)
