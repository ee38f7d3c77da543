"""A source of tables computed in float64 from real gradients, for the tests of the Monitor."""

import math

import numpy as np
import torch
from torch import nn

from fastgrad.shrinkage import COLUMNS

# fmt: off
QUANTITIES = [
    "n", "mean", "std", "norm", "min", "max", "nonfinite", "a", "c", "q", "norm_ratio", "cosine",
    "noise_variance", "zeroed", "saturated", "scale", "absmax", "k",
]
# fmt: on


class Source:
    """What an optimizer does for its observers: after a backward, a table of the gradients that are there.

    y = (x - mean) * alpha, alpha = std / first std (autoscale); q = y rounded on a coarse grid of 9 values.
    """

    def __init__(self, quantize=True):
        self.observers, self.quantize, self.first = {}, quantize, None
        self.gradients = {}  # step -> {parameter: (x, y, q, counts)}

    def add_observer(self, fn):
        key = object()
        self.observers[key] = fn
        source = self

        class Handle:
            def remove(self):
                source.observers.pop(key, None)

        return Handle()

    def step(self, step, params):
        params = [param for param in params if param.grad is not None]
        xs = [param.grad.double().flatten() for param in params]
        finite = [x[x.isfinite()] for x in xs]
        everything = torch.cat([*finite, torch.zeros(0, dtype=torch.float64)])
        sigma = everything.std(correction=0).item() if len(everything) else 0.0
        self.first = self.first or sigma
        alpha = sigma / self.first if sigma else 1.0
        rows, kept = [], {}
        for param, x, good in zip(params, xs, finite, strict=True):
            n, mean = len(good), good.mean().item() if len(good) else 0.0
            row = dict.fromkeys(COLUMNS, 0.0) | {
                "n": n,
                "mean": mean,
                "a": alpha,
                "c": mean,
                "scale": 1.0,
                "k": 1.0,
            }
            row["m2"] = (good - mean).square().sum().item()
            row["min"], row["max"] = (good.min().item(), good.max().item()) if n else (math.inf, -math.inf)
            row["nonfinite"] = len(x) - n
            y = (good - mean) * alpha
            q = y
            if self.quantize and n:
                scale = y.std(correction=0).item() / 2 or 1.0
                q = (y / scale).clamp(-4, 4).round() * scale
                row |= {
                    "sum_yy": (y * y).sum(),
                    "sum_yq": (y * q).sum(),
                    "sum_qq": (q * q).sum(),
                    "scale": scale,
                }
                row |= {"zeroed": ((y != 0) & (q == 0)).sum(), "saturated": ((y / scale).abs() > 4).sum()}
                row["absmax"] = y.abs().max().item()
            rows.append(row)
            kept[param] = (good, y, q)
        whole = {name: sum(float(row[name]) for row in rows) for name in COLUMNS}
        mean = everything.mean().item() if len(everything) else 0.0
        whole |= {"mean": mean, "m2": (everything - mean).square().sum().item(), "a": alpha, "c": 0.0}
        whole |= {"scale": 1.0, "k": 1.0, "absmax": max((row["absmax"] for row in rows), default=0.0)}
        whole["min"] = min((row["min"] for row in rows), default=math.inf)
        whole["max"] = max((row["max"] for row in rows), default=-math.inf)
        table = torch.tensor(
            [[float(row[name]) for name in COLUMNS] for row in [*rows, whole]], dtype=torch.float64
        )
        self.gradients[step] = kept
        for fn in list(self.observers.values()):
            fn(step, table, params)


class Run:
    """Backward passes of a small network; the parameters named ``absent`` have no gradient at that step."""

    def __init__(self, quantize=True, depth=3, seed=0):
        torch.manual_seed(seed)
        blocks = [layer for _ in range(depth - 1) for layer in (nn.Linear(12, 12), nn.Tanh())]
        self.model = nn.Sequential(*blocks, nn.Linear(12, 4))
        self.source = Source(quantize)
        self.named = dict(self.model.named_parameters())

    def step(self, step, absent=()):
        generator = torch.Generator().manual_seed(step)
        self.model.zero_grad()
        self.model(torch.randn(8, 12, generator=generator)).square().sum().mul(1 + step).backward()
        for name in absent:
            self.named[name].grad = None
        self.source.step(step, list(self.named.values()))

    def steps(self, first, last, absent=lambda step: ()):
        for step in range(first, last):
            self.step(step, absent(step))


def assert_same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype.kind == b[name].dtype.kind, name
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def alternating(step):
    return ("0.weight",) if step % 3 == 0 else ("2.bias", "4.weight") if step % 3 == 1 else ()
