"""Parameters that are sharded over ranks along dim 0 (``fully_shard``): what shards cannot know of the whole.

Statistics are those of the whole tensor, bit for bit: every rank sends the moments of the chunks and tiles that it has
whole, and the raw elements of tiles that are cut (docs/numerics.md, sections 1 and 6). Traffic for a rank: 48 bytes for
65,536 elements, and at most 4 + 6 KiB for each end of a shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from fastgrad.ops.gradient_moments import gradient_moments
from fastgrad.ops.sweeps import NORMALIZE
from fastgrad.reference import normalizers
from fastgrad.reference import sweep as reference
from fastgrad.reference.moments import CHUNK_TILES, TILE, merge_all

CHUNK = TILE * CHUNK_TILES
MOMENTS = reference.A  # columns of the moments


@dataclass(frozen=True)
class Run:
    """A run of elements of a whole tensor."""

    first: int
    end: int

    def within(self, other: Run) -> bool:
        return other.first <= self.first and self.end <= other.end

    def cut(self, other: Run) -> Run:
        return Run(max(self.first, other.first), min(self.end, other.end))


@dataclass(frozen=True)
class Layout:
    """How one tensor lies on the ranks."""

    whole: Run
    row_length: int
    rows: int
    runs: tuple[Run, ...]  # of every rank of the group; empty: each rank has all of it


class Sharded:
    """The parameters of a list on the ranks of one process group."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.group = _group_of(parameters)
        self.rank, self.ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.layouts = [_layout_of(p, self.ranks) for p in parameters]
        self.offsets = [layout.runs[self.rank].first if layout.runs else 0 for layout in self.layouts]
        self.whole_rows = [layout.rows for layout in self.layouts]
        self.bounds: list[float] | None = None

    # Statistics of the whole

    def measure(
        self,
        grads: Sequence[Tensor],  # local
        flags: Sequence[int],
        *,
        method: str,
        eps: float,
        max_norm: float,
        alpha: str,
        state: Tensor,
        lagged: Tensor | None,
        inv_scale: float = 1.0,
    ) -> Tensor:  # float64 [T+1, 16]
        """The table of the whole tensors as far as it is known before the step, equal on all ranks; sets ``bounds``."""
        if inv_scale != 1.0:
            factor = torch.tensor(inv_scale, dtype=torch.float64, device="cpu").float()
            grads = [g.float() * factor for g in grads]
        by_rows = [
            method == "centralize" and bool(f & NORMALIZE) and not self._is_vector(i) for i, f in enumerate(flags)
        ]
        leaves = self._exchange(grads, by_rows)
        count = len(grads)
        table = torch.zeros(count + 1, reference.COLUMNS, dtype=torch.float64, device="cpu")
        table[:, [reference.A, reference.SCALE, reference.K]] = 1.0
        for i, some in enumerate(leaves):
            table[i, :MOMENTS] = merge_all(some)
        normalized = [bool(f & NORMALIZE) for f in flags]
        table[count] = reference.list_row(table[:count], normalized)
        source = table if lagged is None else lagged.cpu()
        maps = normalizers.coefficients(
            method, source[:count, :MOMENTS], source[count, :MOMENTS], normalized,
            eps=eps, max_norm=max_norm, alpha_rule=alpha, state=tuple(state.tolist()),
        )  # fmt: skip
        for i, some in enumerate(leaves):
            parts = some if by_rows[i] else table[i : i + 1, :MOMENTS]
            c = parts[:, 1].to(torch.float32) if by_rows[i] else maps.c[i : i + 1]
            identity = not normalized[i] or method == "none"
            table[i, reference.ABSMAX] = float(reference.mapped_absmax(parts, c, maps.a[i], identity))
        table[count, reference.ABSMAX] = table[:count, reference.ABSMAX].max()
        self.bounds = table[:count, reference.ABSMAX].tolist()
        return table.to(grads[0].device)

    def merge(self, table: Tensor, whole: Tensor) -> Tensor:
        """The table of a step on the shards as that of the whole: moments from ``whole``, the sums of all ranks.

        Sums of shards are added in the order of the ranks: equal on all of them, but not to the bits of one rank.
        """
        columns = slice(reference.SUM_YY, reference.ABSMAX + 1)
        mine = table[:-1, columns].contiguous()
        every = [torch.empty_like(mine) for _ in range(self.ranks)]
        dist.all_gather(every, mine, group=self.group)
        out = table.clone()
        out[:, :MOMENTS] = whole[:, :MOMENTS]
        for i, layout in enumerate(self.layouts):
            if not layout.runs:
                continue
            parts = torch.stack([each[i] for each in every])
            out[i, columns] = parts.cumsum(0)[-1]
            out[i, reference.SCALE] = table[i, reference.SCALE]
            out[i, reference.ABSMAX] = parts[:, -1].max()
        row = reference.list_row(out[:-1].cpu(), [True] * len(self.layouts)).to(out.device)
        out[-1, reference.SUM_YY :] = row[reference.SUM_YY :]
        return out

    # Factored second moments

    def empty_sums(self, states: Sequence[dict], rows: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Work space for the sums of squares of factored tensors; empty for the others. rows: of the shards."""
        row_sums, column_sums = [], []
        for i, (state, count) in enumerate(zip(states, rows, strict=True)):
            factored = "exp_avg_sq_row" in state
            device = next(iter(state.values())).device if not factored else state["exp_avg_sq_row"].device
            sizes = (count, self.layouts[i].row_length) if factored else (0, 0)
            row_sums.append(torch.zeros(sizes[0], dtype=torch.float64, device=device))
            column_sums.append(torch.zeros(sizes[1], dtype=torch.float64, device=device))
        return row_sums, column_sums

    def add_over_ranks(self, column_sums: Sequence[Tensor]) -> None:
        """Adds up the sums of columns in place. They are exact: the order of the ranks does not matter."""
        some = [s for s, layout in zip(column_sums, self.layouts, strict=True) if layout.runs and s.numel()]
        if not some:
            return
        flat = torch.cat(some)
        dist.all_reduce(flat, group=self.group)
        for target, total in zip(some, flat.split([s.numel() for s in some]), strict=True):
            target.copy_(total)

    # The exchange

    def _is_vector(self, i: int) -> bool:
        return self.layouts[i].rows == 0

    def _pieces(self, i: int, rank: int, by_rows: bool) -> tuple[list[Run], list[Run]]:
        """What a rank sends of tensor i: runs whose moments it sends, and runs of raw elements."""
        layout = self.layouts[i]
        own = layout.runs[rank] if layout.runs else layout.whole
        if by_rows:
            firsts = range(own.first, own.end, layout.row_length) if layout.row_length else ()
            return [Run(first, first + layout.row_length) for first in firsts], []
        measured, raw = [], []
        for chunk in _grid(own, CHUNK):
            chunk = chunk.cut(layout.whole)
            if chunk.within(own):
                measured.append(chunk)
                continue
            for tile in _grid(chunk.cut(own), TILE):
                tile = tile.cut(layout.whole)
                measured.append(tile) if tile.within(own) else raw.append(tile.cut(own))
        return measured, raw

    def _exchange(self, grads: Sequence[Tensor], by_rows: Sequence[bool]) -> list[Tensor]:
        """Per tensor the moments [k, 6] of its chunks (or rows), of all ranks, in order."""
        views, sent = [], []
        for i, g in enumerate(grads):
            flat = g.reshape(-1)
            measured, raw = self._pieces(i, self.rank, by_rows[i])
            views += [flat[run.first - self.offsets[i] : run.end - self.offsets[i]] for run in measured]
            sent += [flat[run.first - self.offsets[i] : run.end - self.offsets[i]].double() for run in raw]
        moments = gradient_moments(views)[:-1, :MOMENTS].reshape(-1) if views else None
        own = (
            torch.cat([*([] if moments is None else [moments]), *sent])
            if views or sent
            else grads[0].new_zeros(0).double()
        )
        plans = [[self._pieces(i, r, by_rows[i]) for i in range(len(grads))] for r in range(self.ranks)]
        lengths = [
            sum(MOMENTS * len(measured) + sum(run.end - run.first for run in raw) for measured, raw in plan)
            for plan in plans
        ]
        longest = max(lengths)
        padded = torch.cat([own, own.new_zeros(longest - own.numel())])
        every = [torch.empty_like(padded) for _ in range(self.ranks)]
        dist.all_gather(every, padded, group=self.group)
        known = [self._unpack(plans[r], every[r].cpu()) for r in range(self.ranks)]
        return [self._assemble(i, [k[i] for k in known], by_rows[i]) for i in range(len(grads))]

    def _unpack(self, plan: list[tuple[list[Run], list[Run]]], data: Tensor) -> list[tuple[dict, dict]]:
        """Of one rank: per tensor moments by run, and raw elements by run."""
        at = 0
        out: list[tuple[dict, dict]] = []
        for measured, _ in plan:
            moments = data[at : at + MOMENTS * len(measured)].view(-1, MOMENTS)
            at += MOMENTS * len(measured)
            out.append((dict(zip(measured, moments, strict=True)), {}))
        for (_, raw), (_, elements) in zip(plan, out, strict=True):
            for run in raw:
                elements[run] = data[at : at + run.end - run.first].float()
                at += run.end - run.first
        return out

    def _assemble(self, i: int, known: list[tuple[dict, dict]], by_rows: bool) -> Tensor:
        layout = self.layouts[i]
        if not layout.runs:
            known = known[self.rank : self.rank + 1]  # every rank has all of it
        moments = {run: value for measured, _ in known for run, value in measured.items()}
        if by_rows:
            return torch.stack([moments[run] for run in sorted(moments, key=lambda run: run.first)])
        raw = sorted(((run, e) for _, elements in known for run, e in elements.items()), key=lambda pair: pair[0].first)
        cut: dict[Run, list[Tensor]] = {}
        for run, elements in raw:
            tile = next(iter(_grid(run, TILE))).cut(layout.whole)
            cut.setdefault(tile, []).append(elements)
        if cut:
            measured = gradient_moments([torch.cat(parts) for parts in cut.values()])[:-1, :MOMENTS]
            moments.update(zip(cut, measured, strict=True))
        leaves = []
        for chunk in _grid(layout.whole, CHUNK):
            chunk = chunk.cut(layout.whole)
            if chunk not in moments:
                moments[chunk] = merge_all(torch.stack([moments[t.cut(layout.whole)] for t in _grid(chunk, TILE)]))
            leaves.append(moments[chunk])
        return torch.stack(leaves) if leaves else torch.zeros(0, MOMENTS, dtype=torch.float64, device="cpu")


def _grid(run: Run, size: int) -> list[Run]:
    """The parts of a grid that a run touches."""
    if run.end <= run.first:
        return []
    return [Run(k * size, (k + 1) * size) for k in range(run.first // size, (run.end + size - 1) // size)]


def _is_rows(placement: Placement) -> bool:
    # Not a kind of Shard that takes its rows in turns.
    return type(placement) is Shard and isinstance(placement, Shard) and placement.dim == 0


def _group_of(parameters: Sequence[Tensor]) -> dist.ProcessGroup:
    """The one group that all sharded parameters share."""
    groups = {}
    for i, p in enumerate(parameters):
        if not isinstance(p, DTensor):
            continue
        dims = [d for d, placement in enumerate(p.placements) if not isinstance(placement, Replicate)]
        if len(dims) > 1 or any(not _is_rows(p.placements[d]) for d in dims):
            raise ValueError(
                f"params[{i}]: expected to be sharded along dim 0 over one mesh dimension (fully_shard), replicated "
                f"over others; got {p.placements}: a rank of another layout does not have whole rows"
            )
        group = p.device_mesh.get_group(dims[0] if dims else 0)
        groups[group.group_name] = group
    if len(groups) != 1:
        raise ValueError(f"params: expected one process group for all sharded parameters, got {len(groups)}")
    return next(iter(groups.values()))


def _layout_of(p: Tensor, ranks: int) -> Layout:
    rows = p.shape[0] if p.dim() > 1 else 0
    row_length = p.numel() // p.shape[0] if p.dim() and p.shape[0] else 0
    whole = Run(0, p.numel())
    if not isinstance(p, DTensor) or not any(isinstance(placement, Shard) for placement in p.placements):
        return Layout(whole, row_length, rows, ())
    runs = []
    for rank in range(ranks):
        size, first = Shard.local_shard_size_and_offset(p.shape[0], ranks, rank)
        first = min(first, p.shape[0])
        runs.append(Run(first * row_length, (first + size) * row_length))
    return Layout(whole, row_length, rows, tuple(runs))
