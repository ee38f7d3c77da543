"""fastgrad in the Trainer of transformers: its optimizers, gradient release, the Monitor, int8 weights."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from fastgrad import optim, shrinkage
from fastgrad.integrations.accelerate import release_gradients, unwrap
from fastgrad.monitor import Monitor
from fastgrad.ops import checks
from fastgrad.release import Released
from fastgrad.weights import Int8Weight, dense_state_dict

OPTIMIZERS = {"adamw": optim.AdamW, "sgd": optim.SGD}
INT8_WEIGHTS = "int8_weights.pt"  # in a checkpoint, beside the dense weights
_OURS = {"optimizer": "adamw", "release": False, "accumulate_format": "bf16", "monitor": True}
_FROM_ARGUMENTS = {  # option of the optimizer -> of TrainingArguments
    "lr": "learning_rate",
    "weight_decay": "weight_decay",
    "max_norm": "max_grad_norm",
    "betas": "adam_beta1, adam_beta2",
}


class FastgradTrainerMixin:
    """A Trainer that trains with :mod:`fastgrad.optim`.

        class MyTrainer(FastgradTrainerMixin, Trainer): ...
        MyTrainer(model, arguments, ..., fastgrad_options={"state_format": "int8", "release": True}).train()

    fastgrad_options: a constructor argument, or an attribute of the class.

    - ``optimizer``: ``"adamw"`` (the default) or ``"sgd"``. Learning rate, weight decay, and for AdamW betas and eps
      come from the TrainingArguments; parameter groups are the Trainer's (no decay of biases and norms).
    - ``release``: gradients are used and freed inside backward (:func:`fastgrad.release_gradients`), sums of
      ``gradient_accumulation_steps`` micro-batches are kept in ``accumulate_format`` (default ``"bf16"``).
    - ``monitor``: True (the default), False, or options of the :class:`fastgrad.Monitor` that ``trainer.monitor`` is.
      Its newest values are logged as ``fastgrad/...`` with the loss, and its norm of all gradients as ``grad_norm``, so
      that the Trainer needs no pass of its own for that.
    - all others are those of the optimizer: state_format, factored, normalize, grad_format, stats, ...

    ``normalize="clip"`` clips to ``max_grad_norm`` in the optimizer's own call, in the place of the Trainer's clipping.
    Checkpoints resume with the bits of the uninterrupted run. Int8 weights (:func:`fastgrad.quantize_weights_`) are
    saved dense, for ``from_pretrained``, and exactly, in ``int8_weights.pt``, for resuming.

    Errors: ValueError for options that do not exist or that TrainingArguments say, and, with ``release``, for a
    ``max_grad_norm`` above 0 (the Trainer's default is 1) without ``normalize="clip"``, for fp16 and for DeepSpeed.
    """

    fastgrad_options: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, *args: Any, fastgrad_options: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        given = self.fastgrad_options if fastgrad_options is None else fastgrad_options
        self.fastgrad_options = {**_OURS, **given}
        self.monitor: Monitor | None = None
        self.released: Released | None = None
        self._monitored: torch.optim.Optimizer | None = None
        super().__init__(*args, **kwargs)
        self._check_options()
        self.add_callback(_Lifetime(self))

    # The optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None:
            return self.optimizer
        self.optimizer_cls_and_kwargs = self._class_and_arguments()
        try:
            optimizer = super().create_optimizer(model)
        finally:
            self.optimizer_cls_and_kwargs = None
        names = {id(p): name for name, p in (model or self.model).named_parameters()}
        for group in optimizer.param_groups:
            group["param_names"] = [names[id(p)] for p in group["params"]]
        return optimizer

    def _class_and_arguments(self) -> tuple[type, dict[str, Any]]:
        options = {k: v for k, v in self.fastgrad_options.items() if k not in _OURS}
        kind, args = self.fastgrad_options["optimizer"], self.args
        options["lr"] = args.learning_rate
        if kind == "adamw":
            options.update(betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
        if self._clips_in_step:
            options["max_norm"] = args.max_grad_norm
        return OPTIMIZERS[kind], options

    @property
    def _clips_in_step(self) -> bool:
        return self.fastgrad_options.get("normalize") == "clip"

    def _check_options(self) -> None:
        options, args = self.fastgrad_options, self.args
        checks.one_of("fastgrad_options['optimizer']", options["optimizer"], tuple(OPTIMIZERS))
        kind = OPTIMIZERS[options["optimizer"]]
        elsewhere = {**_FROM_ARGUMENTS, **({"eps": "adam_epsilon"} if kind is optim.AdamW else {})}
        known = [*_OURS, *(k for k in inspect.signature(kind).parameters if k != "params" and k not in elsewhere)]
        for name in options:
            if name in elsewhere:
                raise ValueError(f"fastgrad_options: {name!r}: expected in TrainingArguments, as {elsewhere[name]}")
            if name not in known:
                raise ValueError(f"fastgrad_options: {name!r} is unknown; expected {', '.join(known)}")
        if self.optimizer_cls_and_kwargs is not None:
            raise ValueError("optimizer_cls_and_kwargs: the optimizer is fastgrad's; expected only fastgrad_options")
        if self._clips_in_step and not args.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm: normalize='clip' clips to it; expected > 0, got {args.max_grad_norm}")
        if not options["release"]:
            return
        if args.max_grad_norm > 0 and not self._clips_in_step:
            raise ValueError(
                f"max_grad_norm: got {args.max_grad_norm} (the Trainer's default is 1), but the norm of all gradients "
                "is unknown while released gradients are used. Expected 0, or fastgrad_options with normalize='clip' "
                "and stats='lagged', which clip to max_grad_norm by the norm of the last step"
            )
        if self.is_deepspeed_enabled:
            raise ValueError("deepspeed: it reduces and keeps gradients itself; released gradients need FSDP2 or none")

    # Training

    def _begin(self) -> None:
        """Called when model, optimizer and scheduler are prepared, and a checkpoint is loaded."""
        optimizer = unwrap(self.optimizer)
        if self.fastgrad_options["monitor"] and self._monitored is not optimizer:
            if self.monitor is not None:
                self.monitor.close()
            given = self.fastgrad_options["monitor"]
            more = given if isinstance(given, Mapping) else {}
            self.monitor, self._monitored = Monitor(optimizer, self.model.named_parameters(), **more), optimizer
        if self.fastgrad_options["release"]:
            self._end()
            self.released = release_gradients(
                self.accelerator,
                self.model_wrapped,
                self.optimizer,
                accumulate=self.args.gradient_accumulation_steps,
                accumulate_format=self.fastgrad_options["accumulate_format"],
            )

    def _end(self) -> None:
        if self.released is not None:
            self.released.remove()

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | float | None:
        return None if self._clips_in_step else super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        """Nothing where the optimizer's step measures it (or where gradients are gone already)."""
        if grad_norm is None and (self.monitor is not None or self.fastgrad_options["release"]):
            return None
        return super()._get_grad_norm(model, grad_norm)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs.update(self._measured(with_norm="grad_norm" not in logs))
        super().log(logs, *args, **kwargs)

    def _measured(self, with_norm: bool) -> dict[str, float]:
        """What the Monitor and the handle of release have to say about the last step."""
        values: dict[str, float] = {}
        latest = {} if self.monitor is None else self.monitor.latest()
        if latest:
            values = {f"fastgrad/{k}": v for k, v in latest.items() if k not in ("step", "global_norm")}
            if with_norm:  # of all parameters, also those that are not normalized
                values["grad_norm"] = _norm_of_all(self._monitored.table)
        if self.released is not None and self.released.skipped:
            values["fastgrad/skipped"] = sum(self.released.skipped.values())
        return values

    # Int8 weights

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        exact = {k: v for k, v in self.model.state_dict().items() if isinstance(v, Int8Weight)}
        if exact and state_dict is None:
            state_dict = dense_state_dict(self.model)
        super()._save(output_dir, state_dict)
        if exact and self.args.should_save:
            folder = self.args.output_dir if output_dir is None else output_dir
            torch.save(exact, os.path.join(folder, INT8_WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_exact_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_exact_weights(self.state.best_model_checkpoint)

    def _load_exact_weights(self, folder: str) -> None:
        file = os.path.join(folder, INT8_WEIGHTS)
        if os.path.isfile(file) and any(isinstance(p, Int8Weight) for p in self.model.parameters()):
            self.model.load_state_dict(torch.load(file, weights_only=True), strict=False)


class FastgradTrainer(FastgradTrainerMixin, Trainer):
    """``transformers.Trainer`` with :class:`FastgradTrainerMixin`."""


class _Lifetime(TrainerCallback):
    """Tells the mix-in when a training begins and ends."""

    def __init__(self, trainer: FastgradTrainerMixin) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._begin()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._end()


def _norm_of_all(table: Tensor) -> float:
    n, mean, m2 = (shrinkage.column(table[:-1], name) for name in ("n", "mean", "m2"))
    return float(shrinkage.norm(n, mean, m2).nan_to_num(0.0).square().sum().sqrt())
