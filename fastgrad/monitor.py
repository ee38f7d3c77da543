"""``Monitor``: keeps, writes and draws the table that every optimizer step measures anyway."""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from fastgrad import monitor_files, monitor_tensorboard
from fastgrad.monitor_names import ALL, LayerNames
from fastgrad.monitor_quantities import QUANTITIES, check_quantity, measure, measure_with_list, summary
from fastgrad.monitor_ring import Ring
from fastgrad.ops import checks
from fastgrad.shrinkage import COLUMNS, column

_PENDING = 64  # device tables held before one transfer
_BLOCK = 256  # steps read at a time


class Monitor:
    """Records the table of every step of an optimizer; reads, writes and draws it.

        monitor = Monitor(optimizer, model.named_parameters())
        ...train...
        monitor.latest()["global_std"]; monitor.write("run.parquet"); monitor.plot("figures")

    source
        ``fastgrad.optim.SGD`` or the handle of ``fastgrad.attach``: has ``add_observer(fn)``, which calls
        ``fn(step, table, params)`` after every step.
    named_parameters
        Pairs (name, Parameter), or a mapping of them, matched by identity. A tied parameter is one layer
        under its first name. Without it the names are those of the source's ``param_groups``, or "param0",
        "param1", ... in their order (of appearance, if there are none).
    capacity
        Steps held. The oldest are dropped beyond it, and the file of ``write`` starts with the oldest one
        held. Full, it takes ``capacity * (layers + 1) * 128`` bytes (10,000 steps of 167 layers: 215 MB).
    every
        Only steps divisible by it are recorded (and sent to TensorBoard).
    tensorboard
        A SummaryWriter, or the folder of a new one (which ``close`` closes). Every recorded step sends
        global_std, alpha, and per layer the std; if something was quantized also q_mean and q per quantized
        layer. At about 30 us a scalar (10 ms for 167 layers) this is the dear part: raise ``every``.

    A step costs one copy of the table on the CPU. Tables on a device are kept as they are and moved
    together, 64 steps at a time or when something is read, so that other steps do not wait for the device;
    TensorBoard gets them then, under the time of their step. A step number that comes again replaces what
    was held from that step on. Reading never changes what is held. Not thread-safe.
    """

    def __init__(
        self,
        source: Any,
        named_parameters: Iterable[tuple[str, Parameter]] | Mapping[str, Parameter] | None = None,
        *,
        capacity: int = 10_000,
        every: int = 1,
        tensorboard: Any = None,
    ) -> None:
        for name, value in (("capacity", capacity), ("every", every)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Monitor: {name} must be an integer of at least 1, got {value!r}")
        if not callable(getattr(source, "add_observer", None)):
            raise TypeError(
                "Monitor: source must have add_observer (fastgrad.optim.SGD, the handle of fastgrad.attach), "
                f"got {checks.type_name(source)}"
            )
        self._every = every
        self._ring = Ring(capacity)
        self._rows: dict[str, int] = {}  # layer name -> row of the ring
        self._names = LayerNames(source, named_parameters)
        self._params: list[Parameter] | None = None  # of the last step, and where its table rows go
        self._target = torch.zeros(1, dtype=torch.int64, device="cpu")
        self._pending: list[tuple[int, Tensor, Tensor, float]] = []
        self._owns_writer = isinstance(tensorboard, str | os.PathLike)
        self._writer = monitor_tensorboard.open_writer(tensorboard) if self._owns_writer else tensorboard
        self._handle = source.add_observer(self._observe)

    # Reading

    @property
    def layers(self) -> list[str]:
        """Names of the layers that had a row at some step, in model order."""
        return self._names.sort(self._rows)

    @property
    def quantities(self) -> list[str]:
        """What ``series`` and ``grid`` know and ``write`` writes: columns, and quotients of columns."""
        return list(QUANTITIES)

    def latest(self) -> dict[str, float]:
        """The last recorded step as plain numbers; {} before the first.

        step; global_mean, global_std, global_norm of the list row (gradient units); alpha, its column a;
        q_mean, q_min: mean (every layer counts the same) and smallest of the projection q_k over the
        quantized layers, those with sum_yy > 0, or 1 if there is none; noise_variance: mean square rounding
        noise per element over the quantized layers, (gradient units) squared; saturated, zeroed, nonfinite:
        elements of all layers.
        """
        self._flush()
        if not len(self._ring):
            return {}
        return {"step": self._ring.last_step(), **summary(self._ring.read(self._order(), -1)[0])}

    def series(
        self,
        layer: str | None,  # None or "(all)": the list
        quantity: str,
    ) -> tuple[Tensor, Tensor]:  # steps int64 [S'], values float64 [S']
        """One quantity of one layer at the held steps at which the layer had a gradient, oldest first."""
        check_quantity(quantity, "series")
        self._flush()
        if layer is not None and layer != ALL and layer not in self._rows:
            if not self._rows:
                raise ValueError(f"Monitor.series: no step was recorded yet, so there is no layer, got {layer!r}")
            raise ValueError(f"Monitor.series: layer must be None or one of {', '.join(self.layers)}, got {layer!r}")
        # The noise variance of the list needs the layers.
        order = self._order() if layer in (None, ALL) else [self._rows[layer]]
        formula = measure_with_list if layer in (None, ALL) else measure
        blocks = [
            (steps[present], formula(tables, quantity)[present, 0])
            for steps, tables in self._blocks(order)
            for present in [~column(tables, "n")[:, 0].isnan()]
        ]
        return _join([steps for steps, _ in blocks]).long(), _join([values for _, values in blocks])

    def grid(self, quantity: str) -> tuple[Tensor, Tensor]:
        """(steps int64 [S], values float64 [S, len(layers)]); NaN where a layer had no gradient."""
        check_quantity(quantity, "grid")
        self._flush()
        values = [measure(tables, quantity) for _, tables in self._blocks(self._order()[1:])]
        return self._ring.read_steps(), _join(values).reshape(len(self._ring), len(self._rows))

    def write(self, path: str | os.PathLike) -> Path:
        """Write .parquet (needs pyarrow) or .csv: one row per held step and layer, step by step.

        Columns: step, layer, then ``quantities``. The first row of a step has layer "(all)", the list row:
        its q, norm_ratio and cosine are of all layers as one vector, its noise_variance that of ``latest``.
        Layers without a gradient at a step have no row there. The file appears complete under its name or
        not at all.
        """
        self._flush()
        return monitor_files.write(path, ["step", "layer", *QUANTITIES], self._columns())

    @staticmethod
    def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
        """The columns of a written file: int64 for step and counts, str for layer, float64 for the rest."""
        return monitor_files.read(path)

    def plot(self, folder: str | os.PathLike) -> list[Path]:
        """Draw the held steps into PNG files in ``folder`` (made if missing) and return their paths.

        std per layer as lines and as a heat map, global std; q per layer and counts of zeroed and saturated
        elements if something was quantized; alpha and the layers' factors if something was normalized. No
        step: no file.
        """
        from fastgrad import monitor_plots  # matplotlib takes half a second and is not needed to train

        self._flush()
        return monitor_plots.draw(self, Path(folder))

    # Keeping

    def state_dict(self) -> dict[str, Any]:
        """Copies of all that is held; loads with ``torch.load(weights_only=True)``.

        {"version": 1, "layers": L names, "steps": int64 [S], "tables": float64 [S, 1 + L, 16]}. Row 0 of a
        table is the list; the rows of layers without a gradient are NaN.
        """
        self._flush()
        steps, tables = self._ring.read_steps(), self._ring.read(self._order())
        return {"version": 1, "layers": self.layers, "steps": steps, "tables": tables}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace what is held by a ``state_dict`` (its newest ``capacity`` steps); layers match by name."""
        if state.get("version") != 1:
            raise ValueError(f"Monitor.load_state_dict: version must be 1, got {state.get('version')!r}")
        layers, steps, tables = list(state["layers"]), state["steps"], state["tables"]
        expected = (len(steps), 1 + len(layers), len(COLUMNS))
        if tuple(tables.shape) != expected:
            raise ValueError(
                f"Monitor.load_state_dict: tables must have shape {list(expected)}, got {list(tables.shape)}"
            )
        self._pending.clear()
        self._ring.clear()
        self._params, self._rows = None, {name: 1 + i for i, name in enumerate(layers)}
        self._ring.reserve(1 + len(layers), 1 + self._names.trainable)
        # The file has the list first, ``append`` wants it last.
        target = torch.tensor([*range(1, 1 + len(layers)), 0], device="cpu")
        for step, table in zip(steps.tolist(), tables.to("cpu", torch.float64), strict=True):
            self._ring.append(step, table[target], target)

    def close(self) -> None:
        """Stop recording; what is held stays readable. A SummaryWriter that was given is only flushed."""
        self._flush()
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
            if self._writer is not None:
                self._writer.close() if self._owns_writer else self._writer.flush()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        self._flush()
        closed = ", closed" if self._handle is None else ""
        held = f"{len(self._ring)} of {self._ring.capacity} steps, {len(self._rows)} layers"
        return f"Monitor({held}, every={self._every}{closed})"

    # Recording

    def _observe(self, step: int, table: Tensor, params: list[Parameter]) -> None:
        """table: float64 [T + 1, 16], row T = the list; row i belongs to params[i]."""
        if step % self._every:
            return
        # Identity, not ==: Parameters compare elementwise. The list may be the source's own, and change.
        last = self._params
        if last is None or len(params) != len(last) or not all(map(operator.is_, params, last)):
            self._place(params)
        if table.shape[0] != len(self._target):
            raise ValueError(
                f"Monitor: table must be [{len(params) + 1}, {len(COLUMNS)}] for {len(params)} parameters, "
                f"got {list(table.shape)}"
            )
        if self._writer is None and not self._pending and self._is_here(table):
            self._ring.append(step, table, self._target)
            return
        self._pending.append((step, table, self._target, time.time()))
        if len(self._pending) >= _PENDING or self._is_here(table):
            self._flush()

    @staticmethod
    def _is_here(table: Tensor) -> bool:
        return table.device.type == "cpu"

    def _place(self, params: list[Parameter]) -> None:
        """Give new parameters a name and a row of the ring, and note where the table rows of this list go."""
        if len(set(map(id, params))) < len(params):
            raise ValueError("Monitor: params must not hold a parameter twice")
        target = [self._rows.setdefault(self._names.of(param), 1 + len(self._rows)) for param in params]
        self._ring.reserve(1 + len(self._rows), 1 + self._names.trainable)
        self._target = torch.tensor([*target, 0], dtype=torch.int64, device="cpu")
        self._params = list(params)

    def _flush(self) -> None:
        """Move the pending tables into the ring (one wait for the device) and to TensorBoard."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        tables = [table for _, table, _, _ in pending]
        devices = {table.device for table in tables}
        for device in devices:
            if device.type != "cpu":
                # The steps may have run on a stream that is not the current one.
                torch.accelerator.synchronize(device)
        if len(devices) == 1:
            tables = torch.cat(tables).cpu().split([len(table) for table in tables])
        for (step, _, target, seconds), table in zip(pending, tables, strict=True):
            self._ring.append(step, table.cpu(), target)
            if self._writer is not None:
                newest = self._ring.read(self._order(), -1)[0]
                monitor_tensorboard.send(self._writer, step, seconds, self.layers, newest)

    # Blocks

    def _order(self) -> list[int]:
        """Rows of the ring: the list, then the layers in model order."""
        return [0, *(self._rows[name] for name in self.layers)]

    def _blocks(self, rows: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """(steps [B], tables [B, len(rows), 16]) of the held steps, in blocks that keep the copies small."""
        steps = self._ring.read_steps()
        for first in range(0, len(steps), _BLOCK):
            yield steps[first : first + _BLOCK], self._ring.read(rows, first, first + _BLOCK)

    def _columns(self) -> Iterator[dict[str, np.ndarray]]:
        """The rows of the file, one dict of columns per block of steps."""
        names = np.array([ALL, *self.layers], dtype=object)
        for steps, tables in self._blocks(self._order()):
            present = ~column(tables, "n").isnan()  # [B, 1 + L]
            where, which = present.nonzero(as_tuple=True)
            block = {"step": steps[where].numpy(), "layer": names[which.numpy()]}
            for name in QUANTITIES:
                values = measure_with_list(tables, name)[present].numpy()
                block[name] = values.astype(np.int64) if name in monitor_files.INTEGERS else values
            yield block


def _join(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64, device="cpu")
