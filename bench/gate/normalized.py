"""Statistics, and gradients that were normalized in place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.gate.call import Call, require, sample
from bench.shapes import Workspace

EPS = 1e-8
# A careful call rounds to bfloat16 once (2^-8), torch's own ops after the subtraction and after the division.
BF16_TOLERANCE = 2.0**-6


def moments(
    work: Workspace, call: Call, result: list[tuple[float, float]], *, tolerance: float = 1e-4
) -> None:
    truth = work.moments
    require(len(result) == len(truth), f"{len(result)} tensors, expected {len(truth)}")
    for i, ((std, mean), (std64, mean64)) in enumerate(zip(result, truth, strict=True)):
        require(abs(float(std) / std64 - 1) < tolerance, f"std[{i}] = {float(std)}, expected {std64}")
        require(
            abs(float(mean) - mean64) < tolerance * std64, f"mean[{i}] = {float(mean)}, expected {mean64}"
        )


def norms(work: Workspace, call: Call, result: list[Tensor]) -> None:
    """Of those that give no mean: the Euclidean norm of every tensor, to a percent (float32 sums drift)."""
    require(len(result) == len(work.moments), f"{len(result)} norms, expected {len(work.moments)}")
    for i, (norm, (std, mean), g) in enumerate(zip(result, work.moments, work.grads, strict=True)):
        expected = math.sqrt(g.numel() * (std * std + mean * mean))
        require(abs(float(norm) / expected - 1) < 1e-2, f"norm[{i}] = {float(norm)}, expected {expected}")


def mapped(
    work: Workspace, call: Call, result: object, *, method: str, tolerance: float = 1e-4, **options: float
) -> None:
    """Every gradient went through the affine map of a method; errors in units of |expected| + its rms."""
    if work.dtype != "fp32":
        tolerance += BF16_TOLERANCE
    for i, (y, expected) in enumerate(zip(work.grads, _expected(work, method, **options), strict=True)):
        unit = expected.abs() + expected.square().mean().sqrt()
        error = float(((sample(y) - expected).abs() / unit).amax())
        require(error < tolerance, f"y[{i}] is off by {error}")


def _expected(work: Workspace, method: str, max_norm: float = 0.0) -> list[Tensor]:
    grads, truth = work.initial["grads"], work.moments
    if method == "znorm":
        return [(sample(g) - mean) / (std + EPS) for g, (std, mean) in zip(grads, truth, strict=True)]
    if method == "sample std only":  # n - 1, and no mean
        stds = (std * math.sqrt(g.numel() / (g.numel() - 1)) for g, (std, _) in zip(grads, truth, strict=True))
        return [sample(g) / (std + EPS) for g, std in zip(grads, stds, strict=True)]
    if method == "centralize":
        return [_centralized(g) for g in grads]
    if method == "autoscale":  # alpha = -log(sigma)
        alpha = -math.log(work.sigma)
        return [(sample(g) - mean) * alpha for g, (_, mean) in zip(grads, truth, strict=True)]
    assert method == "clip", method
    square = sum(g.numel() * (std * std + mean * mean) for g, (std, mean) in zip(grads, truth, strict=True))
    factor = min(1.0, max_norm / (math.sqrt(square) + 1e-6))
    return [sample(g) * factor for g in grads]


def _centralized(g: Tensor) -> Tensor:
    if g.dim() < 2:
        return sample(g)
    rows = g.reshape(len(g), -1)
    means = torch.stack([row.double().mean() for row in rows.split(1)])
    return sample(g) - sample(means.view(-1, 1).expand(rows.shape))
