"""The memory of ``fastgrad.Monitor``: the tables of the last steps in one preallocated tensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgrad.shrinkage import COLUMNS

_N = COLUMNS.index("n")


class Ring:
    """The newest ``capacity`` steps: ``data`` float64 [capacity, rows, 16], row 0 the list, row i layer i.

    A layer without a row at a step has n = NaN there; ``read`` returns NaN in all 16 columns for it.
    The system commits memory as steps arrive, not at allocation; full, it holds ``capacity * rows * 128``
    bytes.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.clear()

    def clear(self) -> None:
        self.steps = [0] * self.capacity
        self.data = torch.empty(self.capacity, 0, len(COLUMNS), dtype=torch.float64, device="cpu")
        self.used = 0  # rows in use, the list's included
        self._start = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def reserve(self, rows: int, room: int = 0) -> None:
        """Bring ``rows`` rows into use; if they do not fit, reallocate for at least ``max(rows, room)``."""
        if rows > self.data.shape[1]:
            # Growth by half keeps the copies rare when layers appear one by one (unfreezing).
            room = max(rows, room, self.used + self.used // 2)
            grown = torch.empty(self.capacity, room, len(COLUMNS), dtype=torch.float64, device="cpu")
            held = self.positions()
            grown[held, : self.used] = self.data[held, : self.used]
            self.data = grown
        if rows > self.used:
            self.data[self.positions(), self.used : rows, _N] = math.nan
            self.used = rows

    def append(
        self,
        step: int,
        table: Tensor,  # [T + 1, 16] float64 on the CPU, row T = the list
        rows: Tensor,  # [T + 1] int64: the row of ``data`` of each row of the table
    ) -> None:
        """Copy one table in; the oldest step makes room when the ring is full.

        Held steps that are not before ``step`` are dropped first: a run that went back to a checkpoint, or
        repeated a skipped step, overwrites what it held and the steps stay increasing.
        """
        while self._count and self.last_step() >= step:
            self._count -= 1
        if self._count == self.capacity:
            self._start = (self._start + 1) % self.capacity
            self._count -= 1
        position = (self._start + self._count) % self.capacity
        target = self.data[position]
        if table.shape[0] < self.used:
            target[: self.used, _N] = math.nan
        target.index_copy_(0, rows, table)
        self.steps[position] = step
        self._count += 1

    def last_step(self) -> int:
        return self.steps[(self._start + self._count - 1) % self.capacity]

    def positions(self, first: int = 0, last: int | None = None) -> Tensor:
        """int64 [last - first]: where held steps lie in ``data``, oldest first (as a list slice)."""
        first, last, _ = slice(first, last).indices(self._count)
        return (torch.arange(first, max(first, last), device="cpu") + self._start) % self.capacity

    def read_steps(self) -> Tensor:
        """int64 [S]: the held steps, oldest first."""
        return torch.tensor([self.steps[i] for i in self.positions().tolist()], dtype=torch.int64, device="cpu")

    def read(
        self,
        rows: list[int],
        first: int = 0,
        last: int | None = None,
    ) -> Tensor:  # [last - first, len(rows), 16], a copy
        """The tables of the held steps ``first .. last - 1``, counted from the oldest; by default all."""
        position = self.positions(first, last)
        values = self.data[position[:, None], torch.tensor(rows, dtype=torch.int64, device="cpu")[None, :]]
        # Row and column memory that was never written must not leak into files and checkpoints.
        values[values[..., _N].isnan()] = math.nan
        return values
