"""Real text as windows of tokens: documents, their split, packing, and the order in which a seed reads them."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor

PARTS = ("train", "validation", "held_out")
REPORTS = "torchxrayvision/data/NLMCXR_reports.tgz"
Documents = dict[str, str]  # id -> text


def radiology_reports(archive: bytes) -> Documents:
    """Findings and impression of the Open-i reports, by report id; one with a text that came before is left out."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if not member.name.endswith(".xml"):
                continue
            root = ElementTree.fromstring(tar.extractfile(member).read())
            parts = {e.get("Label"): (e.text or "").strip() for e in root.iter("AbstractText")}
            lines = [f"{n.capitalize()}: {parts[n]}" for n in ("FINDINGS", "IMPRESSION") if parts.get(n)]
            if lines:
                found[root.find("uId").get("id")] = "\n".join(lines)
    return _first_of_equal({name: found[name] for name in sorted(found, key=_natural)})


def paragraphs(path: Path) -> Documents:
    """The paragraphs of a text file, between blank lines."""
    parts = [part.strip() for part in re.split(r"\n\s*\n", path.read_text()) if part.strip()]
    return _first_of_equal({str(i): part for i, part in enumerate(parts)})


def _natural(name: str) -> tuple[str, int]:
    return re.sub(r"\d", "", name), int(re.sub(r"\D", "", name) or 0)


def _first_of_equal(documents: Documents) -> Documents:
    # A normal chest X-ray is often reported in the very same words: one of them in training would be known later.
    first: dict[str, str] = {}
    for name, text in documents.items():
        first.setdefault(text, name)
    return {name: text for text, name in first.items()}


def part_of(name: str) -> str:
    """Where a document belongs, by its id: a tenth to validation, a tenth held out, the rest to training."""
    tenth = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % 10
    return "held_out" if tenth == 0 else "validation" if tenth == 1 else "train"


def windows(texts: Iterable[str], encode: Callable[[str], list[int]], end: int, length: int) -> Tensor:
    """Texts one after another, ``end`` after each, cut into int64 [windows, length]; what is left over is dropped."""
    stream: list[int] = []
    for text in texts:
        stream += [*encode(text), end]
    count = len(stream) // length
    return torch.tensor(stream[: count * length], dtype=torch.int64).view(count, length)


def tokenized(documents: Documents, encode: Callable[[str], list[int]], end: int, length: int) -> dict[str, Tensor]:
    """Windows of every part; raises where a part gets none."""
    parts = {
        part: windows((t for n, t in documents.items() if part_of(n) == part), encode, end, length) for part in PARTS
    }
    empty = [part for part, made in parts.items() if not len(made)]
    if empty:
        raise ValueError(f"tokenized: expected at least {length} tokens in every part, too few in {', '.join(empty)}")
    return parts


def batch(data: Tensor, seed: int, step: int, size: int) -> Tensor:
    """The windows of one step, int64 [size, T]: a function of the seed and the step alone.

    Epochs follow one another, each in a random order of its own, without a break between them.
    """
    rows = []
    for position in range(step * size, (step + 1) * size):
        epoch, index = divmod(position, len(data))
        generator = torch.Generator().manual_seed((seed << 20) + epoch)
        rows.append(torch.randperm(len(data), generator=generator)[index])
    return data[torch.stack(rows)]
