"""A small loader of real text: the words of this repository's documents, hashed into a vocabulary."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"


class Words(Dataset):
    """Windows of ``length`` words, int64 [length]; token = CRC-32 of the word modulo the vocabulary."""

    def __init__(self, vocabulary: int, length: int) -> None:
        words = [w for path in sorted(DOCUMENTS.glob("*.md")) for w in re.findall(r"\w+", path.read_text())]
        self.tokens = torch.tensor([zlib.crc32(word.encode()) % vocabulary for word in words])
        self.length = length

    def __len__(self) -> int:
        return len(self.tokens) // self.length

    def __getitem__(self, index: int) -> Tensor:
        return self.tokens[index * self.length : (index + 1) * self.length]


def batches(vocabulary: int, length: int) -> Iterator[Tensor]:
    """int64 [1, length], again and again, from a loader in this process: its memory is measured, too."""
    loader = DataLoader(Words(vocabulary, length), batch_size=1)
    while True:
        yield from loader
