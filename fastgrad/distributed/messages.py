"""What ranks send one another of a bucket: a header, the scales of blocks and codes, in one run of bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgrad.ops.quantize import Quantized
from fastgrad.reference.formats import FORMATS
from fastgrad.reference.moments import TILE
from fastgrad.reference.scales import block_count

HEADER = 8  # float64 numbers
_ALIGNED = 64  # bytes

UNSCALED = ("bf16", "fp16")  # wide enough to hold gradients as they are


@dataclass(frozen=True)
class Layout:
    """A bucket of ``n`` elements cut into one part for each rank, all but the last ones whole tiles, and the bytes of a
    message about a part. Messages have equal lengths, those of the longest part."""

    n: int
    ranks: int
    format: str
    block: int  # elements to a scale; 0: no scales

    @property
    def part(self) -> int:
        """Elements of the longest part."""
        tiles = -(-self.n // TILE)
        return min(-(-tiles // self.ranks) * TILE, self.n)

    def bounds(self, rank: int) -> tuple[int, int]:
        return min(rank * self.part, self.n), min((rank + 1) * self.part, self.n)

    def parts(self, flat: Tensor) -> list[Tensor]:  # [n] -> one view for each rank
        return [flat[slice(*self.bounds(rank))] for rank in range(self.ranks)]

    @property
    def _scales_at(self) -> int:
        return 8 * HEADER

    def _codes_at(self, n: int) -> int:
        scales = 4 * (block_count(n, self.block) if self.block else 1)
        return self._scales_at + _rounded_up(scales)

    @property
    def length(self) -> int:
        """Bytes of a message."""
        return self._codes_at(self.part) + _rounded_up(self._code_bytes(self.part))

    def _code_bytes(self, n: int) -> int:
        spec = FORMATS[self.format]
        return (n + 1) // 2 if spec.packed else n * spec.dtype.itemsize

    def empty(self, device: torch.device) -> Tensor:
        """Memory of a message for each rank, uint8 [ranks, length]."""
        return torch.empty(self.ranks, self.length, dtype=torch.uint8, device=device)

    def header(self, message: Tensor) -> Tensor:  # uint8 [..., length] -> float64 [..., HEADER]
        return message[..., : 8 * HEADER].view(torch.float64)

    def stored(self, message: Tensor, rank: int) -> Quantized:  # uint8 [length]
        """The numbers of a message about the part of ``rank``: views of its bytes."""
        first, end = self.bounds(rank)
        n = end - first
        scales, codes_at = block_count(n, self.block) if self.block else 1, self._codes_at(n)
        return Quantized(
            codes=message[codes_at : codes_at + self._code_bytes(n)].view(FORMATS[self.format].dtype),
            scale=message[self._scales_at : self._scales_at + 4 * scales].view(torch.float32),
            format=self.format,
            block=self.block,
            shape=(n,),
            stride=(1,),
            dtype=torch.float32,
        )


def _rounded_up(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
