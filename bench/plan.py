"""What a run measures: lists, rows, dtypes, threads and instruction sets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bench.cached import LARGE, SMALL
from bench.rows import KINDS, PROBE, ROWS, Contestant
from fastgrad import library

BEST = library.instruction_set()  # of this process


@dataclass(frozen=True)
class Part:
    """Every combination of these. An instruction set that is not this process's needs one of its own."""

    lists: tuple[str, ...]
    rows: tuple[str, ...]
    dtypes: tuple[str, ...]
    threads: tuple[int, ...]
    isa: str
    kinds: tuple[str, ...] = KINDS  # of contestants

    def options(self) -> list[str]:
        """The arguments of ``bench.run`` for this part."""
        return [
            *("--lists", ",".join(self.lists)), *("--rows", ",".join(self.rows)),
            *("--dtype", ",".join(self.dtypes)), *("--threads", ",".join(map(str, self.threads))),
            *("--isa", self.isa), *("--kinds", ",".join(self.kinds)),
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        """torch's kernels and what it compiles are limited to the same set, so that contestants stay equals."""
        limits = {"FASTGRAD_CPU": self.isa}
        if self.isa in ("avx2", "avx512"):
            limits["ATEN_CPU_CAPABILITY"] = self.isa
        return os.environ | limits

    def settings(self) -> Iterator[tuple[str, str, int, str]]:
        """(list, dtype, threads, row), the costly changes outermost."""
        for name in self.lists:
            for dtype in self.dtypes:
                for threads in self.threads:
                    for row in self.rows:
                        if dtype in ROWS[row].dtypes:
                            yield name, dtype, threads, row

    def contestants(self, row: str) -> list[Contestant]:
        """The probe and those of a row."""
        return [PROBE, *(c for c in ROWS[row].contestants if c.kind in self.kinds)]


def instruction_sets() -> list[str]:
    """Those that can run here."""
    return list(library.native.instruction_sets()) if library.native is not None else [BEST]


def default_parts() -> list[Part]:
    """What ten minutes on two cores are enough for.

    All rows of the two models in float32 with torch's threads, the main ones of the large tensor, fastgrad alone in the
    cache, and against plain torch in a few of the other settings.
    """
    threads, every = torch.get_num_threads(), tuple(ROWS)
    plain = ("probe", "floor", "ours", "eager", "foreach", "fused")
    large = ("moments", "znorm", "int8", "chain")
    parts = [
        Part(("gpt", "resnet56"), every, ("fp32",), (threads,), BEST),
        Part(("one",), large, ("fp32",), (threads,), BEST),
        Part((SMALL, LARGE), every, ("fp32",), (1,), BEST, ("ours",)),
        Part(("gpt",), ("moments", "znorm", "int8", "chain"), ("bf16",), (threads,), BEST, plain),
    ]
    if threads > 1:
        parts.append(Part(("gpt",), ("moments", "int8", "chain"), ("fp32",), (1,), BEST, plain))
    if BEST == "avx512" and "avx2" in instruction_sets():
        parts.append(Part(("gpt",), ("moments", "int8", "chain"), ("fp32",), (threads,), "avx2", plain))
    return parts
