"""AdamW in float32 beside torch's fused step, on the very same memory: ``python -m bench.same_memory``.

In the table of ``bench.run`` every contestant has states of its own, and where memory has two speeds (by the pages that
a process happens to get) they differ by that. Here both optimizers step the same parameters, gradients and moments.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

import fastgrad
from bench import machine
from bench.shapes import LISTS


def pair(shapes: list[tuple[int, ...]]) -> dict[str, torch.optim.Optimizer]:
    """Two optimizers of the same parameters, with the same tensors as moments."""
    parameters = [nn.Parameter(torch.randn(shape) * 0.02) for shape in shapes]
    for p in parameters:
        p.grad = torch.randn_like(p) * 1e-3
    ours = fastgrad.optim.AdamW(parameters, lr=1e-6)
    theirs = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    ours.step()
    theirs.step()
    for p in parameters:
        theirs.state[p].update({name: ours.state[p][name] for name in ("exp_avg", "exp_avg_sq")})
    return {"fastgrad.optim.AdamW": ours, "torch.optim.AdamW(fused=True)": theirs}


def measure(optimizers: dict[str, torch.optim.Optimizer], rounds: int) -> dict[str, list[float]]:
    """Seconds of steps, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for i in range(rounds):
        for name, optimizer in list(optimizers.items())[:: 1 if i % 2 else -1]:
            begin = time.perf_counter()
            optimizer.step()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.same_memory", description=__doc__)
    parser.add_argument("--list", default="gpt", choices=sorted(LISTS))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine.sentence(), f"Threads: {options.threads}.")
    medians = []
    for name, values in measure(pair(LISTS[options.list]()), options.rounds).items():
        low, middle, high = statistics.quantiles(values, n=4)
        medians.append(middle)
        print(f"{name:30} {1e3 * middle:7.2f} ms  (quartiles {1e3 * low:.2f} to {1e3 * high:.2f})")
    print(f"ours / theirs: {medians[0] / medians[1]:.3f}")


if __name__ == "__main__":
    main()
