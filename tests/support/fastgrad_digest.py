"""Prints a digest of the bits of many results: run in processes with other settings, it must not change."""

from __future__ import annotations

import hashlib

import torch

import fastgrad
from fastgrad.ops import sweeps


def digest() -> str:
    total = hashlib.sha256()

    def add(*tensors: torch.Tensor) -> None:
        for t in tensors:
            total.update(t.detach().contiguous().reshape(-1).view(torch.uint8).numpy(force=True).tobytes())

    generator = torch.Generator().manual_seed(5)
    x = [torch.randn(*shape, generator=generator) for shape in ((3, 1025), (70_000,), (7,), (33, 5))]
    for format in sweeps.FORMATS:
        codes, table = fastgrad.quantize(x, format)
        add(table, *(q.codes for q in codes), *(q.scale for q in codes), *fastgrad.dequantize(codes))
    for method in sweeps.METHODS:
        p, m = [t.clone() for t in x], [torch.zeros_like(t) for t in x]
        hyper = torch.tensor([[0.1, 0.9, 0.0, 0.01, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
        add(fastgrad.sgd_step_(p, x, m, hyper, method=method, format="fp8_e4m3", scale="tensor"), *p, *m)
    return total.hexdigest()


if __name__ == "__main__":
    print(fastgrad.library.instruction_set(), digest())
