"""What treating gradients costs a training step: normalization, stochastic fp8 and a Monitor, on a ResNet.

    python -m bench.overhead [--model resnet20 --batch 128 --steps 60 --threads 2 --autocast]

Two copies of one network take turns on the same batches: forward, backward, and the step of
``torch.optim.SGD(fused=True)`` or of ``fastgrad.optim.SGD(normalize="autoscale", grad_format="fp8_e4m3")`` with a
Monitor. The overhead is the difference of the medians of the optimizer times (ours with the Monitor's observer inside),
over the median of the whole step with torch's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import fastgrad
from bench import machine
from fastgrad.cifar import models
from fastgrad.replacing import replacing

WARM_UP = 5


def contestants(model: nn.Module, other: nn.Module) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
    common = dict(lr=0.1, momentum=0.9, weight_decay=5e-4)
    ours = fastgrad.optim.SGD(other.parameters(), normalize="autoscale", grad_format="fp8_e4m3", **common)
    ours.monitor = fastgrad.Monitor(ours, other.named_parameters())
    fused = torch.optim.SGD(model.parameters(), fused=True, **common)
    return {"torch fused": (model, fused), "fastgrad": (other, ours)}


def measure(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Seconds of every step: {contestant: {"whole": [...], "optimizer": [...]}}."""
    torch.manual_seed(0)
    pair = [models.build(options.model, 10, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    pair[1].load_state_dict(pair[0].state_dict())
    taking_turns = contestants(*pair)
    times = {name: {"whole": [], "optimizer": []} for name in taking_turns}
    for step in range(WARM_UP + options.steps):
        x = torch.randn(options.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        y = torch.randint(0, 10, (options.batch,))
        names = list(times) if step % 2 else list(times)[::-1]
        for name in names:
            model, optimizer = taking_turns[name]
            begin = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=options.autocast):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y)
            optimizer.zero_grad()
            loss.backward()
            before = time.perf_counter()
            optimizer.step()
            end = time.perf_counter()
            if step >= WARM_UP:
                times[name]["whole"].append(end - begin)
                times[name]["optimizer"].append(end - before)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", choices=sorted(models.MODELS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--autocast", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    times = measure(options)
    for name, parts in times.items():
        for part, values in parts.items():
            low, middle, high = statistics.quantiles(values, n=4)
            print(f"{name:12} {part:10} {1e3 * middle:9.3f} ms  (quartiles {1e3 * low:.3f} to {1e3 * high:.3f})")
    middle = {name: {part: statistics.median(v) for part, v in parts.items()} for name, parts in times.items()}
    more = middle["fastgrad"]["optimizer"] - middle["torch fused"]["optimizer"]
    print(f"overhead: {1e3 * more:.3f} ms, {more / middle['torch fused']['whole']:.2%} of a step")
    if options.json:
        with replacing(options.json, "w") as file:
            asked = vars(options) | {"json": None}
            json.dump({"machine": machine.description(), "options": asked, "seconds": times}, file)


if __name__ == "__main__":
    main()
