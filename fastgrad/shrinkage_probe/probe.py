"""At chosen steps of a training, every quantizer rounds a copy of every gradient; the training does not notice.

``quantizers.parquet``: a row for each step, quantizer and layer, with the columns of ``COLUMNS``; the layer "(all)" is
all gradients as one vector.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastgrad import shrinkage
from fastgrad.cifar.errors import UsageError
from fastgrad.ops.quantize import quantize
from fastgrad.replacing import replacing
from fastgrad.shrinkage import column

FORMATS = ("bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "int8", "int4")
ROUNDINGS = ("stochastic", "nearest", "truncate")
SCALES: dict[str, dict[str, Any]] = {  # name -> options of fastgrad.quantize
    "none": {"scale": "none"},
    "tensor": {"scale": "tensor"},
    "block 32": {"scale": "block", "block": 32},
    "block 32, power of two": {"scale": "block", "block": 32, "pow2": True},
}
COLUMNS = ("step", "layer", "format", "rounding", "scale", "n", "q", "norm_ratio", "cosine", "noise_variance",
           "relative_noise", "zeroed", "saturated")  # fmt: skip
ALL = "(all)"


@dataclass(frozen=True)
class Quantizer:
    format: str
    rounding: str
    scale: str  # a name of SCALES

    def __str__(self) -> str:
        return f"{self.format} {self.rounding}, {self.scale}"


def quantizers() -> list[Quantizer]:
    return [Quantizer(*words) for words in itertools.product(FORMATS, ROUNDINGS, SCALES)]


def chosen_steps(total: int, count: int) -> list[int]:
    """``count`` steps of 0 .. total - 1, the first and the last among them, evenly spaced."""
    if count < 1:
        raise UsageError(f"probes: expected at least 1, got {count}")
    return sorted({round(i) for i in np.linspace(0, total - 1, min(count, total))})


class Probe:
    """Collects the rows; ``measure(step, model)`` is called between backward and the optimizer's step."""

    def __init__(self, steps: list[int], seed: int) -> None:
        self.steps, self.seed = set(steps), seed
        self._rows: list[dict[str, np.ndarray]] = []

    def measure(self, step: int, model: nn.Module) -> None:
        if step not in self.steps:
            return
        named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
        grads = [grad for _, grad in named]
        layers = np.array([*(name for name, _ in named), ALL], object)
        for quantizer in quantizers():
            options = SCALES[quantizer.scale]
            # The noise of a step is that of a run that rounds its gradients with this seed.
            _, table = quantize(
                grads, quantizer.format, rounding=quantizer.rounding, seed=self.seed, step=step, moments=True, **options
            )
            self._rows.append(_measured(step, layers, quantizer, table[:-1]))

    def write(self, path: Path) -> Path:
        """The rows so far, as one file that appears complete or not at all."""
        import pyarrow
        import pyarrow.parquet

        columns = {name: np.concatenate([rows[name] for rows in self._rows]) for name in COLUMNS}
        with replacing(path, "wb") as file:
            pyarrow.parquet.write_table(pyarrow.table(columns), file)
        return path


def read(path: Path) -> dict[str, np.ndarray]:
    """The columns of a written file."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=list(COLUMNS))
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise UsageError(f"{path}: not a file of fastgrad shrinkage quantizers ({error})") from error
    return {name: table.column(name).to_numpy() for name in COLUMNS}


def select(columns: dict[str, np.ndarray], **values: str) -> dict[str, np.ndarray]:
    """The rows in which every named column has the given value."""
    keep = np.ones(len(columns["step"]), bool)
    for name, value in values.items():
        keep &= columns[name] == value
    return {name: part[keep] for name, part in columns.items()}


def present(columns: dict[str, np.ndarray]) -> Iterator[Quantizer]:
    """The quantizers that the rows hold, in the order of ``quantizers()``."""
    held = set(zip(columns["format"], columns["rounding"], columns["scale"], strict=True))
    return (one for one in quantizers() if (one.format, one.rounding, one.scale) in held)


def _measured(step: int, layers: np.ndarray, quantizer: Quantizer, table: torch.Tensor) -> dict[str, np.ndarray]:
    # The last row of the op's table measures moments of the list, not its rounding: those sums are made here.
    sums = {name: column(table, name) for name in ("n", "sum_yy", "sum_yq", "sum_qq", "zeroed", "saturated")}
    n, yy, yq, qq, zeroed, saturated = (torch.cat([value, value.sum()[None]]) for value in sums.values())
    noise = shrinkage.noise_variance(n, yy, yq, qq)
    count = len(layers)
    values = {
        "n": n.to(torch.int64),
        "q": shrinkage.projection(yy, yq),
        "norm_ratio": shrinkage.norm_ratio(yy, qq),
        "cosine": shrinkage.cosine(yy, yq, qq),
        "noise_variance": noise,
        "relative_noise": torch.where(yy > 0, noise * n / yy, torch.zeros_like(yy)),
        "zeroed": zeroed / n,
        "saturated": saturated / n,
    }
    return {
        "step": np.full(count, step, np.int64),
        "layer": layers,
        **{name: np.full(count, getattr(quantizer, name), object) for name in ("format", "rounding", "scale")},
        **{name: value.numpy() for name, value in values.items()},
    }
