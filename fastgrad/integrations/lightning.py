"""Callbacks of Lightning: gradient release, and the Monitor's values in its loggers."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from fastgrad.monitor import Monitor
from fastgrad.release import Released, release_gradients


class ReleaseGradients(pl.Callback):
    """:func:`fastgrad.release_gradients` for the optimizer of a LightningModule, from the start of fit to its end.

        Trainer(callbacks=[ReleaseGradients()], accumulate_grad_batches=4)     # configure_optimizers: fastgrad.optim

    accumulate: backward passes to an update; default the Trainer's ``accumulate_grad_batches``. An update that the
        Trainer wants earlier, at the end of an epoch, takes the sum so far.
    accumulate_format: how sums of micro-batches are kept.

    ``released`` is the handle, while training. Works with automatic and with manual optimization.

    Errors: ValueError for ``gradient_clip_val`` (there are no gradients to clip: give the optimizer
    ``normalize="clip", stats="lagged"``, which clips by the norm of the last step), for a precision with a GradScaler
    (``"16-mixed"``: use ``"bf16-mixed"``), and for more than one optimizer (each backward would
    update the parameters of all); TypeError for an optimizer of somebody else's and for DDP (use FSDP2).
    """

    def __init__(self, *, accumulate: int | None = None, accumulate_format: str = "bf16") -> None:
        self.accumulate = accumulate
        self.accumulate_format = accumulate_format
        self.released: Released | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise ValueError(f"configure_optimizers: expected one optimizer, got {len(trainer.optimizers)}")
        if trainer.gradient_clip_val:
            raise ValueError(
                f"gradient_clip_val: got {trainer.gradient_clip_val}, but gradients are released inside backward, "
                "there are none to clip; give the optimizer normalize='clip', stats='lagged', max_norm=..., which "
                "clips by the norm of the last step"
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(
                f"precision: {trainer.precision!r} scales the loss by a factor that is known only after backward, when "
                "gradients were used already; expected 'bf16-mixed' or '32-true'"
            )
        self.released = release_gradients(
            trainer.strategy.model or pl_module,
            trainer.optimizers[0],
            accumulate=self._micro_batches(trainer),
            accumulate_format=self.accumulate_format,
        )
        self.released.as_optimizer()

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if self.released is not None:
            self.released.accumulate = self._micro_batches(trainer)  # a GradientAccumulationScheduler changes it

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end()

    def _micro_batches(self, trainer: pl.Trainer) -> int:
        return trainer.accumulate_grad_batches if self.accumulate is None else self.accumulate

    def _end(self) -> None:
        if self.released is not None:
            self.released.remove()


class FastgradMonitor(pl.Callback):
    """A :class:`fastgrad.Monitor` for every optimizer of a LightningModule; its newest values are logged.

        Trainer(callbacks=[FastgradMonitor()], log_every_n_steps=10)           # configure_optimizers: fastgrad.optim

    source: what is monitored instead of the optimizers: the handle of ``fastgrad.attach``.
    prefix: of the names in the loggers; with several optimizers their number follows it.
    options: of :class:`fastgrad.Monitor`: capacity, every, tensorboard.

    ``monitors`` holds the Monitors, ``monitor`` the first: what they recorded stays readable after training.
    """

    def __init__(self, source: Any = None, *, prefix: str = "fastgrad/", **options: Any) -> None:
        self.source, self.prefix, self.options = source, prefix, options
        self.monitors: list[Monitor] = []

    @property
    def monitor(self) -> Monitor:
        return self.monitors[0]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()
        sources = trainer.optimizers if self.source is None else [self.source]
        self.monitors = [Monitor(source, pl_module.named_parameters(), **self.options) for source in sources]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        steps = trainer.global_step // max(len(trainer.optimizers), 1)
        if not trainer.log_every_n_steps or steps % trainer.log_every_n_steps:
            return
        for i, monitor in enumerate(self.monitors):
            prefix = self.prefix if len(self.monitors) == 1 else f"{self.prefix}{i}/"
            values = {f"{prefix}{name}": float(v) for name, v in monitor.latest().items() if name != "step"}
            pl_module.log_dict(values, on_step=True, on_epoch=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        for monitor in self.monitors:
            monitor.close()
