"""``python -m bench.cross_entropy``: peak memory, error and time of a head's loss, forward and backward, as a table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import fastgrad
from bench import machine, sections
from bench.activations import seconds
from bench.peak import peak_bytes

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def naive(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ weight.t()).float(), targets)


def torch_chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.linear_cross_entropy(hidden, weight, targets, options=torch.nn.LinearCrossEntropyOptions())


def ours(mebibytes: int) -> Loss:
    return lambda *inputs: fastgrad.linear_cross_entropy(*inputs, chunk_bytes=mebibytes << 20, backend="chunked")


CONTESTANTS: dict[str, Loss] = {
    "F.cross_entropy(hidden @ weight.T)": naive,
    **({"F.linear_cross_entropy(options=...)": torch_chunked} if hasattr(F, "linear_cross_entropy") else {}),
    "fastgrad, 64 MiB": ours(64),
    "fastgrad, 16 MiB": ours(16),
}


def inputs(tokens: int, words: int, features: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.empty(tokens, features, dtype=dtype), torch.empty(words, features, dtype=dtype)
    hidden.normal_(), weight.normal_(std=features**-0.5)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, words, (tokens,))


def step(loss: Loss, hidden: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor]:
    value = loss(hidden, weight, targets)
    return [value.detach(), *torch.autograd.grad(value, (hidden, weight))]


def errors(loss: Loss, made: tuple[Tensor, Tensor, Tensor], truth: list[Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(step(loss, *made), truth, strict=True)]


def table(tokens: int, words: int, features: int, name: str, repeats: int) -> list[str]:
    dtype = getattr(torch, name)
    made = inputs(tokens, words, features, dtype)
    exact = [t.detach().double().requires_grad_() for t in made[:2]]
    truth = step(naive, *exact, made[2])
    times = seconds({n: (lambda loss=loss: step(loss, *made)) for n, loss in CONTESTANTS.items()}, repeats)
    size = dtype.itemsize * words * features / 2**20
    lines = [
        f"### {tokens} tokens, {words} words, width {features}, {name}",
        "",
        f"The weight's gradient, which everyone has to make, takes {size:.0f} MiB; float32 logits would take "
        f"{4 * tokens * words / 2**20:.0f} MiB.",
        "",
        "| | peak, MiB | time, ms | error of the loss | of hidden's gradient | of the weight's gradient |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for contestant, loss in CONTESTANTS.items():
        setup = f"""
from bench.cross_entropy import CONTESTANTS, inputs, step
torch.set_num_threads({torch.get_num_threads()})
made = inputs({tokens}, {words}, {features}, {dtype})
small = inputs(8, 64, {features}, {dtype})
step(CONTESTANTS[{contestant!r}], *small)"""
        high = peak_bytes(setup, f"lambda: step(CONTESTANTS[{contestant!r}], *made)") / 2**20
        wrong = " | ".join(f"{error:.1e}" for error in errors(loss, made, truth))
        lines.append(f"| {contestant} | {high:.0f} | {1e3 * times[contestant]:.0f} | {wrong} |")
    return lines


def main(argv: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(prog="python -m bench.cross_entropy", description=__doc__)
    arguments.add_argument("--tokens", type=int, default=1024)
    arguments.add_argument("--words", type=int, default=49_152)
    arguments.add_argument("--features", type=int, default=576)
    arguments.add_argument("--dtypes", default="float32,bfloat16", help="float32,bfloat16,float16")
    arguments.add_argument("--repeats", type=int, default=5, help="timed steps of each (default 5)")
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--out", type=Path, help="a markdown file whose section is replaced, beside what is printed")
    options = arguments.parse_args(argv)
    torch.set_num_threads(options.threads)
    lines = ["## The loss without its logits", ""]
    for dtype in options.dtypes.split(","):
        lines += [*table(options.tokens, options.words, options.features, dtype, options.repeats), ""]
    print("\n".join(lines), flush=True)
    if options.out:
        lines += [machine.sentence(), "", "```", "python -m bench.cross_entropy --out docs/memory.md", "```"]
        sections.replace(options.out, "cross entropy", "\n".join(lines), "Memory")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
