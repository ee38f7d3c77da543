"""The addresses, sizes and places that the kernels are handed, made on the host and copied to the device at once."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from . import formats, jobs, memory, sgd

TILE, CHUNK_TILES = 1024, 64
TYPES = {torch.float32: formats.FP32.value, torch.bfloat16: formats.BF16.value, torch.float16: formats.FP16.value}
MIXED, ABSENT = memory.MIXED.value, sgd.ABSENT.value


@dataclass(frozen=True)
class Bounds:
    """The groups of a halving tree: group g is made of the leaves bounds[g] .. bounds[g + 1] - 1."""

    bounds: Tensor  # int64 [groups + 1]
    leaves: int
    groups: int
    largest: int  # leaves of the largest group

    @staticmethod
    def make(starts: Tensor, leaves: int) -> Bounds:
        bounds = torch.cat([starts, torch.tensor([leaves], device="cpu")])
        largest = int((bounds[1:] - bounds[:-1]).max()) if starts.numel() else 0
        return Bounds(bounds, leaves, starts.numel(), largest)


@dataclass(frozen=True)
class Grid:
    """How tensors, each of some equal parts, are cut into programs and tiles, and how tiles are merged."""

    spans: Tensor  # the tensor of every program
    first_span: Tensor  # [T]
    first_tile: Tensor  # [T]
    first_part: Tensor  # [T]
    tiles: int
    parts: int
    levels: tuple[Bounds, ...]  # tiles to chunks, chunks to parts; parts to tensors if a tensor has several
    by_parts: bool


def _starts(totals: Tensor) -> Tensor:
    return totals.cumsum(0) - totals


def _places(totals: Tensor) -> tuple[Tensor, Tensor]:
    """The owner of each of sum(totals) things, and its number among those of its owner."""
    owner = torch.repeat_interleave(torch.arange(totals.numel(), device="cpu"), totals)
    return owner, torch.arange(owner.numel(), device="cpu") - _starts(totals)[owner]


@lru_cache(maxsize=16)
def make_grid(lengths: tuple[int, ...], parts: tuple[int, ...], tiles_per_program: int) -> Grid:
    """lengths: elements of one part of every tensor; parts: how many it has, 0 if there is no element."""
    length, count = torch.tensor(lengths, device="cpu"), torch.tensor(parts, device="cpu")
    tiles = (length + TILE - 1) // TILE
    spans = (tiles + tiles_per_program - 1) // tiles_per_program
    chunks = (tiles + CHUNK_TILES - 1) // CHUNK_TILES
    first_tile, first_chunk, first_part = _starts(count * tiles), _starts(count * chunks), _starts(count)
    tile_total, chunk_total, part_total = int((count * tiles).sum()), int((count * chunks).sum()), int(count.sum())

    owner, number = _places(count * chunks)
    part, chunk = number // chunks[owner], number % chunks[owner]
    levels = [Bounds.make(first_tile[owner] + part * tiles[owner] + chunk * CHUNK_TILES, tile_total)]
    by_parts = max(parts, default=0) > 1
    if by_parts:
        owner, number = _places(count)
        levels.append(Bounds.make(first_chunk[owner] + number * chunks[owner], chunk_total))
        levels.append(Bounds.make(first_part, part_total))
    else:
        levels.append(Bounds.make(first_chunk, chunk_total))
        # Empty tensors have a place as well.
        first_part, part_total = torch.arange(len(parts), device="cpu"), len(parts)
    return Grid(
        spans=_places(count * spans)[0],
        first_span=_starts(count * spans),
        first_tile=first_tile,
        first_part=first_part,
        tiles=tile_total,
        parts=part_total,
        levels=tuple(levels),
        by_parts=by_parts,
    )


def whole_grid(sizes: Sequence[int], tiles_per_program: int) -> Grid:
    """The grid of tensors that are one part each."""
    return make_grid(tuple(sizes), tuple(int(n > 0) for n in sizes), tiles_per_program)


@dataclass(frozen=True)
class Run:
    """The programs that treat the tensors of one kind."""

    kind: Hashable
    tensors: list[int]
    first: int
    programs: int


def runs_of(grid: Grid, kinds: Sequence[Hashable]) -> tuple[Tensor, Tensor, list[Run]]:
    """The tensor of every program of a grid, those of one kind together; the first program of every tensor, counted
    from the first of its kind; and the runs of the kinds, without those that have no program."""
    if len(set(kinds)) == 1:
        every = [Run(kinds[0], list(range(len(kinds))), 0, grid.spans.numel())] if grid.spans.numel() else []
        return grid.spans, grid.first_span, every
    bounds = torch.cat([grid.first_span, torch.tensor([grid.spans.numel()], device="cpu")])
    counts = (bounds[1:] - bounds[:-1]).tolist()
    by_kind: dict[Hashable, list[int]] = {}
    for i, kind in enumerate(kinds):
        if counts[i]:
            by_kind.setdefault(kind, []).append(i)
    starts, runs, first = [0] * len(counts), [], 0
    for kind, tensors in by_kind.items():
        programs = 0
        for i in tensors:
            starts[i] = programs
            programs += counts[i]
        runs.append(Run(kind, tensors, first, programs))
        first += programs
    order = torch.tensor([i for run in runs for i in run.tensors], dtype=torch.int64, device="cpu")
    in_order = torch.tensor([counts[i] for i in order.tolist()], dtype=torch.int64, device="cpu")
    spans = torch.repeat_interleave(order, in_order)
    return spans, torch.tensor(starts, device="cpu"), runs


def sizes_of(model: Sequence[Tensor], **others: Sequence[Tensor] | None) -> list[int]:
    """Elements of every tensor; what is read and written beside it must have as many."""
    sizes = [t.numel() for t in model]
    for name, tensors in others.items():
        if tensors is not None and [t.numel() for t in tensors] != sizes:
            raise ValueError(f"{name}: expected {len(sizes)} tensors with as many elements as the gradients")
    return sizes


def common_type(tensors: Sequence[Tensor] | None) -> int:
    """The one type of a list of tensors, or MIXED; ABSENT without a list."""
    if not tensors:
        return ABSENT
    types = {TYPES[t.dtype] for t in tensors}
    return types.pop() if len(types) == 1 else MIXED


def is_aligned(*lists: Sequence[Tensor] | None) -> bool:
    """Whether all tensors start at a multiple of 16 bytes."""
    return all(t.data_ptr() % 16 == 0 for tensors in lists if tensors for t in tensors)


class Jobs:
    """The rows that the kernels read, one for each tensor; see jobs.py."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.rows = torch.zeros(len(sizes), jobs.COLUMNS.value, dtype=torch.int64, device="cpu")
        self.set(jobs.N, sizes)

    def set(self, column, values: Sequence[int] | Tensor) -> None:
        if not isinstance(values, Tensor):
            values = torch.tensor(values, dtype=torch.int64, device="cpu")
        self.rows[:, column.value] = values

    def set_tensors(self, tensors: Sequence[Tensor] | None, column, type_column=None) -> None:
        if tensors:
            self.set(column, [t.data_ptr() for t in tensors])
            if type_column is not None:
                self.set(type_column, [TYPES[t.dtype] for t in tensors])

    def set_places(
        self, own: Grid, starts: Tensor, parts: Grid, lengths: Sequence[int], part_counts: Sequence[int]
    ) -> None:
        """Where the programs and results of every tensor begin: in its one grid, and in that of its parts."""
        self.set(jobs.LENGTH, lengths)
        self.set(jobs.ROWS, part_counts)
        self.set(jobs.FIRST_PART, parts.first_part)
        self.set(jobs.PART_SPAN, parts.first_span)
        self.set(jobs.PART_TILE, parts.first_tile)
        self.set(jobs.SPAN, starts)
        self.set(jobs.TILE_PLACE, own.first_tile)


def header(*values: tuple[object, int]) -> Tensor:
    """The numbers of a call, each at its place: (place, number)."""
    packed = torch.zeros(jobs.HEADER, dtype=torch.int64, device="cpu")
    for column, value in values:
        packed[column.value] = value
    return packed


def float64_bits(value: float) -> int:
    return struct.unpack("<q", struct.pack("<d", value))[0]


# What a captured graph will copy again when it is replayed.
_captured: list[Tensor] = []


def upload(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """int64 tensors as tensors on the device, in one copy that the host does not wait for; 16-byte aligned."""
    flat = [torch.cat([p.reshape(-1), p.new_zeros(p.numel() % 2)]) for p in parts]
    packed = torch.cat(flat)
    if device.type == "cuda":
        packed = packed.pin_memory()
        if torch.cuda.is_current_stream_capturing():
            _captured.append(packed)
    moved = packed.to(device, non_blocking=True).split([f.numel() for f in flat])
    return [m[: p.numel()] for m, p in zip(moved, parts, strict=True)]
