"""Data-parallel trainings whose gradients travel in few bits, for tests/distributed/test_compressed.py."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fastgrad
from fastgrad.distributed import CompressedGradients, compress_gradients

STEPS = 4
OPTIONS = {
    "int8": {},
    "int8 feedback": {"format": "int8", "rounding": "nearest", "error_feedback": True},
    "bf16": {},
    "fp8_e4m3": {"block": 64},
    "fp8_e5m2": {},
    "int4": {"block": 32},
    "fp4_e2m1": {},
}


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    # Parts that end in the middle of a block. After a first step with one bucket, DDP closes one after 1 MiB and the
    # others after bucket_cap_mb; the last is shorter than a tile for each rank.
    return nn.Sequential(nn.Linear(48, 601), nn.GELU(), nn.Linear(601, 516), nn.GELU(), nn.Linear(516, 5)).to(dtype)


def loss_of(model: nn.Module, step: int, rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * step + rank)
    dtype = next(model.parameters()).dtype
    x = torch.randn(16, 48, generator=generator)
    return (model(x.to(dtype)).float() - 3.0 * x[:, :5]).square().mean()


def parallel(dtype: torch.dtype = torch.float32, **options) -> DistributedDataParallel:
    return DistributedDataParallel(network(dtype), bucket_cap_mb=0.05, **options)


@contextlib.contextmanager
def recorded(compressed: CompressedGradients):
    """(index, names of parameters, what went in, what came out) of every bucket, in the order of the hooks."""
    found, send = [], compressed._send

    def recording(bucket):
        names = [compressed._names[id(p)] for p in bucket.parameters()]
        entry = [bucket.index(), names, bucket.buffer().clone(), None]
        found.append(entry)
        sent = send(bucket)
        sent.future.then(lambda done: entry.__setitem__(3, done.value().clone()))
        return sent

    compressed._send = recording
    yield found
    del compressed._send


def exchange(rank: int, ranks: int, *names: str) -> dict[str, list]:
    """Of every step: the buckets, what came out, the measurements."""
    results = {}
    for name in names:
        option, _, dtype = name.partition("@")
        model = parallel(getattr(torch, dtype or "float32"))
        compressed = compress_gradients(model, **({"format": option} | OPTIONS[option]))
        steps = []
        for step in range(STEPS):
            with recorded(compressed) as buckets:
                loss_of(model, step, rank).backward()
            steps.append({"buckets": buckets, "latest": compressed.latest()})
            model.zero_grad()
        results[name] = steps
    return results


def average(rank: int, ranks: int, option: str, steps: str) -> dict[str, Tensor]:
    """The mean over steps of what one and the same gradient became, and the exact mean over ranks."""
    model = parallel()
    loss_of(model, 0, rank).backward()
    exact = torch.cat([p.grad.flatten().double() for p in model.parameters()])
    compressed = compress_gradients(model, **({"format": option} | OPTIONS[option]))
    total = torch.zeros_like(exact)
    for _ in range(int(steps)):
        model.zero_grad()
        loss_of(model, 0, rank).backward()
        total += torch.cat([p.grad.flatten().double() for p in model.parameters()])
    return {"exact": exact, "mean": total / int(steps), "latest": compressed.latest()}


def nonfinite(rank: int, ranks: int) -> dict[str, dict]:
    """What ranks have when one of them has a NaN or an infinity in one place."""
    results = {}
    for format in ("int8", "int4", "bf16", "fp8_e4m3"):
        for value in (torch.nan, torch.inf):
            model = parallel()
            compress_gradients(model, format)
            optimizer = fastgrad.optim.SGD(model.parameters(), 0.1, nonfinite="skip")
            scale = torch.ones(5)
            scale[3] = value
            loss = (model(torch.ones(2, 48)) * (scale if rank == ranks - 1 else 1.0)).sum()
            loss.backward()
            bad = {n: int((~torch.isfinite(p.grad)).sum()) for n, p in model.module.named_parameters()}
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
            kept = all(map(torch.equal, before, model.parameters()))
            results[f"{format} {value}"] = {"bad": bad, "kept": kept}
    return results


class Training:
    """A training with an optimizer of ours on compressed gradients, accumulated over two micro-batches."""

    def __init__(self, rank: int, option: str, **options) -> None:
        self.rank = rank
        self.model = parallel(gradient_as_bucket_view=True, **options)
        self.compressed = None
        if option != "none":
            self.compressed = compress_gradients(self.model, **({"format": option} | OPTIONS[option]))
        self.optimizer = fastgrad.optim.AdamW(self.model.parameters(), 3e-3, state_format="int8")

    def steps(self, steps: range) -> list[float]:
        losses = []
        for step in steps:
            with self.model.no_sync():
                loss_of(self.model, 2 * step, self.rank).backward()
            loss = loss_of(self.model, 2 * step + 1, self.rank)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]


def train(rank: int, ranks: int, steps: str, *options: str) -> dict[str, tuple]:
    results = {}
    for option in options:
        training = Training(rank, option)
        results[option] = training.steps(range(int(steps))), training.weights()
    return results


def resume(rank: int, ranks: int, folder: str, option: str) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of an uninterrupted run, and of one that went on from files."""
    whole = Training(rank, option)
    whole.steps(range(6))
    first = Training(rank, option)
    first.steps(range(3))
    path = Path(folder) / f"rank{rank}-saved.pt"
    states = [first.model.module.state_dict(), first.optimizer.state_dict(), first.compressed.state_dict()]
    torch.save(states, path)
    second = Training(rank, option)
    second.steps(range(1))  # DDP makes its buckets anew after the first step
    for target, state in zip(
        (second.model.module, second.optimizer, second.compressed), torch.load(path, weights_only=True), strict=True
    ):
        target.load_state_dict(state)
    second.steps(range(3, 6))
    return whole.weights(), second.weights()


def unused(rank: int, ranks: int) -> bool:
    """A parameter that only one rank uses."""

    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(48, 48), nn.Linear(48, 48)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(x) if rank == 0 else self.first(x)

    torch.manual_seed(0)
    model = DistributedDataParallel(Partly(), find_unused_parameters=True, bucket_cap_mb=0.001)
    compress_gradients(model)
    model(torch.ones(2, 48)).sum().backward()
    mine = torch.cat([p.grad.flatten() for p in model.parameters()])
    every = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(every, mine)
    return all(torch.equal(mine, other) for other in every) and bool(mine.any())


def refusals(rank: int, ranks: int) -> dict[str, str]:
    model = parallel()
    tried = {
        "model": lambda: compress_gradients(network()),
        "format": lambda: compress_gradients(model, "fp32"),
        "rounding": lambda: compress_gradients(model, rounding="up"),
        "block": lambda: compress_gradients(model, block=100),
    }
    messages = {}
    for name, call in tried.items():
        try:
            call()
            messages[name] = ""
        except (TypeError, ValueError) as error:
            messages[name] = str(error)
    compressed = compress_gradients(model)
    state = compressed.state_dict()
    for name, change in {"state format": {"format": "int4"}, "state ranks": {"ranks": 9}, "state errors": {
        "errors": {"other.weight": torch.zeros(3)}
    }}.items():  # fmt: skip
        try:
            compressed.load_state_dict(state | change)
            messages[name] = ""
        except ValueError as error:
            messages[name] = str(error)
    return messages


def jobs(rank: int, ranks: int, folder: str, *calls: str) -> dict[str, object]:
    """Several of the functions above, "name" or "name:argument,argument", in one group of processes: starting one takes
    longer than they do."""
    results = {}
    for call in calls:
        name, _, arguments = call.partition(":")
        given = [folder if a == "FOLDER" else a for a in arguments.split(",") if a]
        results[call] = globals()[name](rank, ranks, *given)
    return results


def train_until_killed(rank: int, ranks: int, started: str) -> None:
    training = Training(rank, "int8")
    for step in range(100_000):
        training.steps(range(step, step + 1))
        if step == 2 and rank == 0:
            Path(started).touch()
