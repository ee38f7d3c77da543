"""Lightning with released gradients and the Monitor."""

from __future__ import annotations

import math

import pytest
import torch
from contract_bits import assert_same_bits
from kept_bits import kept_tensors
from torch import nn
from torch.nn import functional as F

import fastgrad

pytest.importorskip("lightning", reason="lightning is not installed: pip install -e .[integrations]")

import lightning.pytorch as pl
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision

from fastgrad.integrations.lightning import FastgradMonitor, ReleaseGradients

ROWS = torch.randn(5 * 4, 32, generator=torch.Generator().manual_seed(3))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning", "ignore:.*does not have many workers")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class Module(pl.LightningModule):
    def __init__(self, seed: int = 0, int8: bool = False, make=None, **options) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16))
        if int8:
            fastgrad.quantize_weights_(self.model)
        self.make = make or (lambda parameters: fastgrad.optim.AdamW(parameters, 1e-2, **options))

    def loss(self, rows):
        return F.cross_entropy(self.model(rows), rows[:, :16].argmax(1))

    def training_step(self, rows, _):
        return self.loss(rows)

    def configure_optimizers(self):
        optimizer = self.make(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, 1.0, 4)]

    def train_dataloader(self):
        return torch.utils.data.DataLoader(ROWS, batch_size=4)


class Manual(Module):
    automatic_optimization = False

    def training_step(self, rows, batch):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(rows))
        optimizer.step()


def make_trainer(folder, *callbacks, **options) -> pl.Trainer:
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    return pl.Trainer(
        default_root_dir=folder, accelerator="cpu", callbacks=list(callbacks), **{**quiet, "max_epochs": 2, **options}
    )


def fitted(module: Module, trainer: pl.Trainer, **options) -> list[torch.Tensor]:
    trainer.fit(module, **options)
    return kept_tensors(module, trainer.optimizers[0])


@pytest.mark.parametrize("accumulation", (1, 2, 8), ids="accumulate{}".format)
def test_the_bits_are_those_of_fit_without_release(tmp_path, accumulation):
    """Sums end early at the end of an epoch: after one of two micro-batches, after five of eight."""
    results = []
    for callbacks in ([], [ReleaseGradients(accumulate_format="fp32")]):
        module = Module(state_format="int8", grad_format="fp8_e4m3")
        trainer = make_trainer(tmp_path, *callbacks, accumulate_grad_batches=accumulation)
        results.append(fitted(module, trainer))
        assert trainer.optimizers[0]._progress.step == trainer.global_step == 2 * math.ceil(5 / accumulation)
    assert not callbacks[0].released.active
    assert_same_bits(results[1], results[0], "released")


def test_accumulation_may_change_from_epoch_to_epoch(tmp_path):
    results = []
    for callbacks in ([], [ReleaseGradients(accumulate_format="fp32")]):
        schedule = GradientAccumulationScheduler({0: 1, 1: 3})
        results.append(fitted(Module(), make_trainer(tmp_path, schedule, *callbacks)))
    assert_same_bits(results[1], results[0], "scheduled")


def test_manual_optimization(tmp_path):
    results = [fitted(Manual(), make_trainer(tmp_path, *callbacks)) for callbacks in ([], [ReleaseGradients()])]
    assert_same_bits(results[1], results[0], "manual")


@pytest.mark.parametrize("int8", (False, True), ids=("dense", "int8 weights"))
def test_checkpoints_resume_bit_for_bit(tmp_path, int8):
    options = dict(int8=int8, state_format="int4", normalize="autoscale", stats="lagged")

    def run(seed, epochs, name, **fit):
        keep = ModelCheckpoint(tmp_path / name, filename="{epoch}", every_n_epochs=1, save_top_k=-1)
        trainer = make_trainer(
            tmp_path, ReleaseGradients(), keep, enable_checkpointing=True, max_epochs=epochs, accumulate_grad_batches=2
        )
        return fitted(Module(seed, **options), trainer, **fit)

    whole = run(0, 4, "whole")
    resumed = run(1, 4, "resumed", ckpt_path=tmp_path / "whole" / "epoch=1.ckpt", weights_only=True)
    assert_same_bits(resumed, whole, "resumed")


def test_the_monitors_values_are_logged(tmp_path):
    monitor = FastgradMonitor(capacity=8)
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(tmp_path, monitor, ReleaseGradients(), logger=logger, log_every_n_steps=2)
    trainer.fit(Module(grad_format="fp8_e4m3"))
    logger.save()
    lines = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    assert {"fastgrad/alpha", "fastgrad/global_std", "fastgrad/q_mean", "step"} <= set(names)
    values = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    assert [int(v["step"]) for v in values] == [1, 3, 5, 7, 9]
    assert all(0.9 < float(v["fastgrad/q_mean"]) < 1.1 for v in values)
    stds = monitor.monitor.series(None, "std")
    assert stds[0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]  # capacity
    assert float(values[-1]["fastgrad/global_std"]) == pytest.approx(float(stds[1][-1]), rel=1e-6)
    assert monitor.monitor.layers == [n for n, _ in Module().named_parameters()]


def test_the_monitor_of_an_attached_optimizer(tmp_path):
    monitor = FastgradMonitor()

    def make(parameters):
        optimizer = torch.optim.SGD(parameters, 0.1)
        monitor.source = fastgrad.attach(optimizer, normalize="znorm")
        return optimizer

    trainer = make_trainer(tmp_path, monitor, log_every_n_steps=1)
    trainer.fit(Module(make=make))
    assert len(monitor.monitor.series(None, "std")[0]) == 10
    assert trainer.callback_metrics["fastgrad/global_std"] > 0


def test_hooks_are_gone_after_an_exception(tmp_path):
    class Broken(Module):
        def on_train_batch_end(self, *_):
            raise FloatingPointError("on purpose")

    module, release = Broken(), ReleaseGradients()
    trainer = make_trainer(tmp_path, release, FastgradMonitor())
    with pytest.raises(FloatingPointError):
        trainer.fit(module)
    assert not release.released.active
    module.loss(ROWS).backward()
    trainer.optimizers[0].step()
    assert module.model[0].weight.grad is not None


class Two(Manual):
    def configure_optimizers(self):
        return [fastgrad.optim.SGD(layer.parameters(), 0.1) for layer in (self.model[0], self.model[2])]


@pytest.mark.parametrize(
    ("module", "options", "error", "message"),
    (
        (Module, {"gradient_clip_val": 1.0}, ValueError, "gradient_clip_val: got 1.0, .* stats='lagged'"),
        (Module, {"plugins": "scaler"}, ValueError, "precision: '16-mixed' .* expected 'bf16-mixed'"),
        (Two, {}, ValueError, "configure_optimizers: expected one optimizer, got 2"),
        ("torch", {}, TypeError, r"expected one of fastgrad\.optim, got torch\.optim\.sgd\.SGD"),
    ),
)
def test_what_cannot_be_released_says_why(tmp_path, module, options, error, message):
    if options.get("plugins"):
        options = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))]}
    made = Module(make=lambda p: torch.optim.SGD(p, 0.1)) if module == "torch" else module()
    with pytest.raises(error, match=message):
        make_trainer(tmp_path, ReleaseGradients(), **options).fit(made)
