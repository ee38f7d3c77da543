"""QPyTorch: stochastic rounding that is simulated in float32. It compiles itself at its first import."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from bench import gate, plain
from bench.gate import Call
from bench.rows.row import Contestant
from bench.shapes import Workspace

BITS = {"bf16": (8, 7), "fp8_e4m3": (4, 3), "fp8_e5m2": (5, 2)}  # exponent, mantissa


def _quant() -> ModuleType:
    """Its import calls ninja, which pip puts beside python: not on the path where no environment is activated."""
    if shutil.which("ninja") is None:
        os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return importlib.import_module("qtorch.quant")


def _float_quantize(work: Workspace, format: str) -> Call:
    float_quantize = _quant().float_quantize
    exponent, mantissa = BITS[format]
    one = torch.ones(1)

    def quantize(grads: list[Tensor]) -> list[tuple[Tensor, Tensor, None]]:
        results = []
        for g in grads:
            scale = plain.current_scale(g.float(), plain.LARGEST[format]) if format in plain.LARGEST else one
            x = g.float() * (1.0 / scale) if format in plain.LARGEST else g
            results.append((float_quantize(x, exponent, mantissa, rounding="stochastic"), scale, None))
        return results

    return Call(quantize, (work.grads,))


def float_quantize(format: str) -> tuple[Contestant, ...]:
    check = partial(gate.rounded, format=format, measured=False)
    name = f"qtorch float_quantize{BITS[format]} (fp32 out, no q_k)"
    return (Contestant(name, "reference", partial(_float_quantize, format=format), check, "qtorch", "C++"),)


def _block_quantize(work: Workspace) -> Call:
    block_quantize = _quant().block_quantize

    def quantize(grads: list[Tensor]) -> list[Tensor]:
        rows = (plain.blocks(g, 256) for g in grads)
        return [block_quantize(x, wl=8, dim=0, rounding="stochastic") for x in rows]

    def view(result: list[Tensor]) -> list[Tensor]:
        return [x.view(-1)[: g.numel()].view(g.shape) for x, g in zip(result, work.grads, strict=True)]

    return Call(quantize, (work.grads,), view)


def int8() -> tuple[Contestant, ...]:
    check = partial(gate.restored, block=256, tolerance=2.0**-6)  # a gap where the absmax is a power of two
    name = "qtorch block_quantize(8), rows of 256 (scale 2^k, fp32 out, no q_k)"
    return (Contestant(name, "reference", _block_quantize, check, "qtorch", "C++"),)
