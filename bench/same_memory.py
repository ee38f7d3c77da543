"""AdamW in float32 beside torch's fused step, on the very same memory: ``python -m bench.same_memory``.

In the table of ``bench.run`` every contestant has states of its own, and where memory has two speeds (by the pages that
a process happens to get) they differ by that. Here both optimizers step the same parameters, gradients and moments.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import fastgrad
from bench import machine
from bench.activations import seconds
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.same_memory", description=__doc__)
    parser.add_argument("--list", default="gpt", choices=sorted(LISTS))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine.sentence(), f"Threads: {options.threads}.")
    optimizers = pair(LISTS[options.list]())
    medians = seconds({name: optimizer.step for name, optimizer in optimizers.items()}, options.rounds)
    for name, median in medians.items():
        print(f"{name:30} {1e3 * median:7.2f} ms")
    ours, theirs = medians.values()
    print(f"ours / theirs: {ours / theirs:.3f}")


if __name__ == "__main__":
    main()
