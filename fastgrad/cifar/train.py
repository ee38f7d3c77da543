"""One experiment: the training loop.

A run is a function of its Config. Batches, augmentation, learning rate and rounding noise depend on the
position (epoch, batch) and the seed only; everything else that a step changes is in the checkpoint. So a run
that was stopped anywhere and resumed ends in the same bits as one that was not.
"""

import dataclasses
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgrad.cifar import data as datasets
from fastgrad.cifar import models, report, treatment
from fastgrad.cifar.augment import Batches, normalised
from fastgrad.cifar.checkpoint import RunFolder
from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError
from fastgrad.cifar.progress import Progress, StopRequest
from fastgrad.cifar.runs import find
from fastgrad.monitor import Monitor

READ_EVERY = 10  # steps between two readings of loss and monitor; on a GPU each is a wait
TEST_BATCH = 1000


@dataclass
class Position:
    """Where a run is, and what it has counted since the epoch began."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    seconds: float = 0.0
    # float64 [3]: sum of losses, of hits, number of images
    totals: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    readings: dict[str, float] = field(default_factory=dict)  # sums of what the monitor said, and "count"
    rows: list[dict[str, float]] = field(default_factory=list)  # of metrics.csv


def train(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    download: bool = False,
    say: Callable[[str], None] = print,
    on_step: Callable[[Position], None] | None = None,
    on_gradients: Callable[[int, nn.Module], None] | None = None,
) -> bool:
    """Run ``config`` into the folder ``out``; False if SIGINT or SIGTERM stopped it, to be resumed.

    download      fetch cifar10 or cifar100 where the cache does not hold it
    say           takes the lines that are not progress
    on_step       is called after every step
    on_gradients  is called with step (from 0) and model between backward and step; it must not change them
    """
    with RunFolder(Path(out)).held() as run:
        return _train(config, run, resume, download, say, on_step, on_gradients)


def _train(
    config: Config,
    run: RunFolder,
    resume: bool,
    download: bool,
    say: Callable[[str], None],
    on_step: Callable[[Position], None] | None,
    on_gradients: Callable[[int, nn.Module], None] | None,
) -> bool:
    if resume:
        run.check_same_config(config)
    else:
        run.check_free()
    device = _device(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    data = datasets.load(config.data, download=download, limit_train=config.limit_train)
    channels = data.train_x.shape[1]
    last = config.channels_last if config.channels_last is not None else channels == 3
    memory_format = torch.channels_last if last else torch.contiguous_format

    torch.manual_seed(config.seed)
    model = models.build(config.model, len(data.classes), channels, treatment.backward(config))
    model.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]  # not in its stub
    treated = treatment.Treated(config, model)
    # Two graphs, of full and of last batches, rather than one of any size.
    forward = torch.compile(model, dynamic=False) if config.compile else model
    batches = Batches(data, batch_size=config.batch_size, augment=config.augment, seed=config.seed,
                      channels_last=last, device=device)  # fmt: skip
    monitor = treatment.monitor(config, model, treated, config.epochs * len(batches))
    test_x, test_y = data.test_x.to(device), data.test_y.to(device)

    facts = _facts(data, model, device, len(batches))
    at = Position(totals=torch.zeros(3, dtype=torch.float64, device=device))
    if resume:
        for remark in run.check_same_facts(facts):
            say(f"note: {remark}")
        at = _restore(run, at, model, treated, monitor, device)
    else:
        run.begin(config, facts)
    say(f"{facts['data_name']}: {config.model}, {facts['parameters']:,} parameters")
    say(f"gradients: {config.treatment}; augmentation: {config.augment}; results in {run.path}")

    with StopRequest() as stop, Progress(config.epochs, len(batches), config.batch_size) as progress:
        while at.epoch < config.epochs and not stop.requested:
            model.train()
            started = time.perf_counter()
            for batch in batches.epoch(at.epoch, at.batch):
                step = at.epoch * len(batches) + at.batch
                treated.set_lr(config.lr_at(step, len(batches)))
                with torch.autocast(device.type, torch.bfloat16, enabled=config.autocast):
                    logits = forward(batch.images)
                loss = batch.loss(logits.float(), config.smoothing)
                treated.optimizer.zero_grad()
                loss.backward()
                if on_gradients is not None:
                    on_gradients(step, model)
                treated.optimizer.step()

                at.batch += 1
                _count(at, loss.detach(), logits.detach(), batch.labels)
                if step % READ_EVERY == 0 or at.batch == len(batches):
                    _read(at, monitor)
                    progress.show(at)
                if on_step is not None:
                    on_step(at)
                if stop.requested:
                    break
            at.seconds += time.perf_counter() - started
            if at.batch < len(batches):
                break
            test = _evaluate(model, test_x, test_y, data, config, memory_format)
            at.rows.append(_row(at, treated.lr, *test))
            progress.show_epoch(at.rows[-1])
            at = Position(at.epoch + 1, totals=torch.zeros_like(at.totals), rows=at.rows)
            _save(run, at, model, treated, monitor)

    finished = at.epoch == config.epochs
    if not finished:
        _save(run, at, model, treated, monitor)
        say(f"stopped in epoch {at.epoch + 1} after batch {at.batch}; --resume --out {run.path} goes on")
    _draw(run, monitor)
    return finished


def _device(config: Config) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device: torch sees no cuda device")
    return torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")


def _facts(data: datasets.Dataset, model: nn.Module, device: torch.device, steps_per_epoch: int) -> dict[str, Any]:
    """What a reader of the run wants to know beside the Config."""
    return {
        "data_name": data.name,
        "fingerprint": data.fingerprint(),
        "classes": len(data.classes),
        "steps_per_epoch": steps_per_epoch,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "fastgrad_numerics": getattr(importlib.import_module("fastgrad"), "numerics_version", None),
    }


def _count(at: Position, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
    hits = (logits.argmax(1) == labels).sum()
    count = torch.tensor(len(labels), device=labels.device)
    at.totals += torch.stack([loss.double() * count, hits.double(), count.double()])


def _read(at: Position, monitor: Monitor) -> None:
    latest = monitor.latest()
    for name in ("global_std", "q_mean", "alpha") if latest else ():
        at.readings[name] = at.readings.get(name, 0.0) + float(latest[name])
    at.readings["count"] = at.readings.get("count", 0) + bool(latest)


def _row(at: Position, lr: float, test_loss: float, test_accuracy: float) -> dict[str, float]:
    loss, hits, count = at.totals.tolist()
    reading = {name: at.readings[name] / at.readings["count"] if at.readings.get("count") else float("nan")
               for name in ("global_std", "q_mean", "alpha")}  # fmt: skip
    return {
        "epoch": at.epoch + 1,
        "lr": lr,
        "train_loss": loss / count,
        "train_accuracy": hits / count,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "seconds": at.seconds,
        "images_per_second": count / at.seconds,
        **reading,
    }


@torch.no_grad()
def _evaluate(model: nn.Module, images: Tensor, labels: Tensor, data: datasets.Dataset, config: Config,
              memory_format: torch.memory_format) -> tuple[float, float]:  # fmt: skip
    """Mean loss (without smoothing) and accuracy on the test images."""
    model.eval()
    totals = torch.zeros(2, dtype=torch.float64, device=images.device)
    for x, y in zip(images.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.autocast):
            logits = model(normalised(x, data).contiguous(memory_format=memory_format))
        loss = F.cross_entropy(logits.float(), y, reduction="sum")
        totals += torch.stack([loss.double(), (logits.argmax(1) == y).sum().double()])
    loss, hits = (totals / len(labels)).tolist()
    return loss, hits


def _save(
    run: RunFolder, at: Position, model: nn.Module, treated: treatment.Treated, monitor: Monitor
) -> None:
    """metrics.csv and monitor.parquet can be made again from checkpoint.pt, which is written first."""
    run.save({
        "position": {f.name: getattr(at, f.name) for f in dataclasses.fields(at)},
        "model": model.state_dict(),
        **treated.state_dict(),
        "monitor": monitor.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if at.totals.is_cuda else None,
    })  # fmt: skip
    run.write_metrics(at.rows)
    with run.writing():
        monitor.write(run.monitor)


def _restore(run: RunFolder, at: Position, model: nn.Module, treated: treatment.Treated, monitor: Monitor,
             device: torch.device) -> Position:  # fmt: skip
    state = run.load(device)
    if state is None:
        return at
    model.load_state_dict(state["model"])
    treated.load_state_dict(state)
    monitor.load_state_dict(state["monitor"])
    torch.set_rng_state(state["rng"].cpu())
    if state["cuda_rng"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_rng"].cpu())
    at = Position(**state["position"])
    run.write_metrics(at.rows)
    return at


def _draw(run: RunFolder, monitor: Monitor) -> None:
    with run.writing():
        report.page(find([run.path])).write(run.plots)
        monitor.plot(run.plots)
