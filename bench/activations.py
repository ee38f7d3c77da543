"""``python -m bench.activations``: memory, gradient error and time of compressed activations, as a table."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgrad
from bench import machine, sections
from bench.peak import peak_bytes
from fastgrad.activations import SAVED_FORMATS, compress_saved_tensors
from fastgrad.cifar import models

MEAN_OF = 16  # gradients, whose mean shows what is bias: noise is a quarter of one gradient's


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A language model of 4 blocks of width 256, whose loss is fastgrad's."""

    def __init__(self, words: int = 8192, width: int = 256, heads: int = 8, layers: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)), nn.LayerNorm(width))

    def forward(self, ids: Tensor) -> Tensor:  # [B, T + 1] -> the loss
        hidden = self.blocks(self.embedding(ids[:, :-1]))
        return fastgrad.linear_cross_entropy(hidden, self.embedding.weight, ids[:, 1:])


def transformer() -> tuple[nn.Module, Callable[[], Tensor]]:
    torch.manual_seed(0)
    model, ids = Transformer(), torch.randint(0, 8192, (4, 257))
    nn.init.normal_(model.embedding.weight, std=0.05)
    return model, lambda: model(ids)


def resnet20() -> tuple[nn.Module, Callable[[], Tensor]]:
    torch.manual_seed(0)
    model = models.build("resnet20", 10, 3, None)
    images, labels = torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))
    return model, lambda: F.cross_entropy(model(images), labels)


MODELS = {
    "transformer": ("Transformer, 4 blocks of width 256, 4 x 256 tokens", transformer),
    "resnet20": ("ResNet-20, 64 images of 32 x 32", resnet20),
}


def gradient(model: nn.Module, loss: Callable[[], Tensor], context: object) -> Tensor:
    """All gradients of one step, float64 [n]."""
    model.zero_grad()
    with context:
        value = loss()
    value.backward()
    return torch.cat([p.grad.flatten().double() for p in model.parameters()])


def seconds(steps: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time of each step; they take turns."""
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            samples[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values[1:]) for name, values in samples.items()}


def peak(name: str, format: str | None, threads: int) -> int:
    setup = f"""
from bench.activations import MODELS, gradient, context_of
torch.set_num_threads({threads})
model, loss = MODELS[{name!r}][1]()
for p in model.parameters():
    p.grad = torch.zeros_like(p)
def step():
    with context_of({format!r}):
        value = loss()
    value.backward()
torch.nn.functional.gelu(torch.randn(64, 64) @ torch.randn(64, 64))"""
    return peak_bytes(setup, "step")


def context_of(format: str | None, **options: object) -> object:
    return torch.enable_grad() if format is None else compress_saved_tensors(format, **options)


def table(name: str, repeats: int) -> list[str]:
    title, make = MODELS[name]
    model, loss = make()
    threads = torch.get_num_threads()
    exact = gradient(model, loss, torch.enable_grad())
    steps = {f: (lambda f=f: gradient(model, loss, context_of(f))) for f in (None, *SAVED_FORMATS)}
    times = seconds(steps, repeats)
    lines = [
        f"### {title}",
        "",
        "| saved as | saved, MiB | peak of the process, MiB | error of the gradient | cosine | error of a mean of "
        f"{MEAN_OF} | time |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for format in (None, *SAVED_FORMATS):
        high, ratio = peak(name, format, threads) / 2**20, times[format] / times[None]
        if format is None:
            with compress_saved_tensors(min_elements=1 << 40) as saved:
                loss()
            size = saved.measure().bytes_before / 2**20
            lines.append(f"| as it is | {size:.1f} | {high:.0f} | 0 | 1 | 0 | {1e3 * times[None]:.0f} ms |")
            continue
        context = compress_saved_tensors(format, step=0)
        first = gradient(model, loss, context)
        report, mean = context.measure(), first / MEAN_OF
        for step in range(1, MEAN_OF):
            mean += gradient(model, loss, context_of(format, step=step)) / MEAN_OF
        cosine = float(first @ exact / (first.norm() * exact.norm()))
        one, many = (float((g - exact).norm() / exact.norm()) for g in (first, mean))
        kept = f"{report.bytes_kept / 2**20:.1f} ({report.bytes_before / report.bytes_kept:.2f} x)"
        lines.append(
            f"| {format} | {kept} | {high:.0f} | {one:.2%} | {cosine:.5f} | {many:.2%} | {ratio:.2f} x |"
        )
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(report.left.items()))
        stored = f"{report.compressed} of {report.saved} saved tensors are compressed into {len(report.tensors)}"
    lines += ["", f"{stored}; left alone: {left}."]
    return lines


def main(argv: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(prog="python -m bench.activations", description=__doc__)
    arguments.add_argument("--models", default=",".join(MODELS), help=f"some of {','.join(MODELS)}")
    arguments.add_argument("--repeats", type=int, default=7, help="timed steps of each (default 7)")
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--out", type=Path, help="a markdown file whose section is replaced, beside what is printed")
    options = arguments.parse_args(argv)
    torch.set_num_threads(options.threads)
    lines = ["## Saved activations", ""]
    for name in options.models.split(","):
        lines += [*table(name, options.repeats), ""]
    print("\n".join(lines), flush=True)
    if options.out:
        lines += [machine.sentence(), "", "```", "python -m bench.activations --out docs/memory.md", "```"]
        sections.replace(options.out, "activations", "\n".join(lines), "Memory")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
