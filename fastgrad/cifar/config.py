"""What an experiment is: one dataclass, whose fields are the options of ``fastgrad cifar train``."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from fastgrad.cifar.augment import STRONG_LABEL_SMOOTHING, Augment
from fastgrad.cifar.errors import UsageError
from fastgrad.cifar.models import MODELS

Normalize = Literal["centre", "znorm", "autoscale", "clip", "centralize"]
Alpha = Literal["ratio_first", "ratio_max", "sigma", "inverse_log", "log", "one_plus", "one"]
Format = Literal["bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "int8", "int4"]

# Where the files lie does not matter to a run: that the images are the same is checked by their fingerprint.
NOT_COMPARED = ("data",)


@dataclass(frozen=True)
class Config:
    """All that decides the numbers of a run: two runs of one Config on one machine are equal bit for bit."""

    data: Annotated[
        str, "digits (embedded), cifar10, cifar100, or a path: official archive, image folder, tar"
    ] = "digits"
    model: Annotated[str, f"One of {', '.join(MODELS)}"] = "resnet20"
    epochs: Annotated[int, "Passes over the training set"] = 200
    batch_size: Annotated[int, "Images a step"] = 128
    optimizer: Annotated[
        Literal["sgd", "adam"], "sgd (with momentum), or adam (betas 0.9 and 0.999), both fed the treated gradients"
    ] = "sgd"
    lr: Annotated[float, "Peak learning rate"] = 0.1
    schedule: Annotated[
        Literal["cosine", "multistep", "staircase", "constant"],
        "After the warm-up: cosine to 0; a tenth of the rate at 1/2 and again at 3/4 of the run; three quarters of it "
        "after every 3/20 of the run; or constant",
    ] = "cosine"
    warmup_epochs: Annotated[float, "Linear warm-up from 0, in epochs; at most a tenth of the run"] = 5.0
    momentum: Annotated[float, "Momentum of sgd"] = 0.9
    nesterov: Annotated[bool, "Nesterov momentum of sgd"] = False
    weight_decay: Annotated[
        float, "Coupled weight decay, on all parameters, added after the gradients' treatment"
    ] = 5e-4
    label_smoothing: Annotated[
        float | None, f"Label smoothing; not given: {STRONG_LABEL_SMOOTHING} with --augment strong, else 0"
    ] = None
    normalize: Annotated[Normalize | None, "Gradient normalization; not given: none"] = None
    alpha: Annotated[Alpha, "How autoscale makes its factor from the global std"] = "ratio_first"
    max_norm: Annotated[float, "Largest global gradient norm, for --normalize clip"] = 1.0
    grad_format: Annotated[Format | None, "Number format the gradients are rounded to; not given: none"] = (
        None
    )
    rounding: Annotated[Literal["stochastic", "nearest", "truncate"], "How they are rounded"] = "stochastic"
    scale: Annotated[Literal["tensor", "block"] | None, "Scale of the format; not given: none"] = None
    block: Annotated[int, "Elements of a block, for --scale block: 16, 32, 64, 128 or 256"] = 32
    pow2: Annotated[bool, "Scales are powers of two"] = False
    stats: Annotated[
        Literal["auto", "cached", "two_reads", "lagged"], "How the statistics for the normalization are had"
    ] = "auto"
    nonfinite: Annotated[
        Literal["propagate", "skip", "error"], "What a step does when a gradient is not finite"
    ] = "propagate"
    compensate: Annotated[Literal["q"] | None, "Divide the step by the measured shrinkage"] = None
    backward_format: Annotated[
        Format | None, "Round the gradient that passes from block to block; not given: no"
    ] = None
    backward_normalize: Annotated[
        Normalize | None, "Normalize the gradient that passes from block to block; not given: no"
    ] = None
    augment: Annotated[
        Augment, "none, plain (crop, flip), or strong (operations on the image, MixUp, CutMix)"
    ] = "plain"
    autocast: Annotated[bool, "Compute the forward pass in bfloat16 where torch.autocast does"] = False
    compile: Annotated[
        bool, "Train through torch.compile: faster after half a minute, and other last bits than without it"
    ] = False
    channels_last: Annotated[
        bool | None, "Memory format of images and weights; not given: channels last for RGB images"
    ] = None
    seed: Annotated[int, "Of weights, batches, augmentation and rounding noise"] = 0
    limit_train: Annotated[int | None, "Train on so many images only, the first ones of each class"] = None
    threads: Annotated[int | None, "CPU threads; not given: as torch chooses"] = None
    device: Annotated[Literal["auto", "cpu", "cuda"], "auto: cuda if there is one"] = "auto"
    monitor_steps: Annotated[
        int, "At most so many steps of the run are kept by the monitor, evenly spaced"
    ] = 2000

    def __post_init__(self) -> None:
        for name, (kind, _) in documented_fields().items():
            _check_type(name, getattr(self, name), kind)
        least = dict(epochs=1, batch_size=2, monitor_steps=1, threads=1, limit_train=1)
        for name, bound in (least | dict(weight_decay=0, warmup_epochs=0, seed=0)).items():
            value = getattr(self, name)
            if value is not None and not value >= bound:
                raise UsageError(f"{name}: expected at least {bound}, got {value}")
        for name in ("lr", "max_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name}: expected a positive number, got {getattr(self, name)}")
        for name in ("momentum", "label_smoothing"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"{name}: expected a number in [0, 1), got {value}")
        if self.block not in (16, 32, 64, 128, 256):
            raise UsageError(f"block: expected 16, 32, 64, 128 or 256, got {self.block}")
        if self.model not in MODELS:
            raise UsageError(f"model: expected one of {', '.join(MODELS)}; got {self.model!r}")
        if self.nesterov and self.momentum == 0:
            raise UsageError("nesterov: needs momentum above 0")
        if self.optimizer == "adam" and (self.nesterov or self.compensate):
            raise UsageError("nesterov and compensate belong to the step of --optimizer sgd")
        if self.optimizer == "adam" and self.nonfinite == "skip":
            raise UsageError("nonfinite: torch's Adam cannot skip a step; expected propagate or error")
        if self.compile and (self.backward_format or self.backward_normalize):
            raise UsageError("compile: what passes from block to block is not treated inside a compiled network")
        if self.grad_format is None and (self.scale or self.compensate):
            raise UsageError("scale and compensate belong to a format: give grad_format too")

    @property
    def smoothing(self) -> float:
        """The label smoothing in force."""
        if self.label_smoothing is not None:
            return self.label_smoothing
        return STRONG_LABEL_SMOOTHING if self.augment == "strong" else 0.0

    @property
    def treatment(self) -> str:
        """What is done to the gradients, in a few words."""
        words = []
        if self.normalize:
            words.append(self.normalize + (f"({self.alpha})" if self.normalize == "autoscale" else ""))
        if self.grad_format:
            words.append(f"{self.grad_format} {self.rounding}")
        if self.scale:
            words.append("per tensor" if self.scale == "tensor" else f"blocks of {self.block}")
        if self.compensate:
            words.append("compensated")
        if passed := [word for word in (self.backward_normalize, self.backward_format) if word]:
            words.append(f"backward {' '.join(passed)}")
        return ", ".join(words) or "none"

    def folder_name(self, data_name: str) -> str:
        """A name for the run folder where none is given."""
        words = [self.model, data_name, self.normalize, self.grad_format, f"seed{self.seed}"]
        text = "-".join(word for word in words if word)
        return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Fields in which a stored run differs from this one, as ``name (stored -> asked)``."""
        own = dataclasses.asdict(self)
        names = [name for name in {**own, **other} if name not in NOT_COMPARED]
        missing = object()
        return [
            f"{name} ({other.get(name, 'unknown')} -> {own.get(name, 'unknown')})"
            for name in names
            if own.get(name, missing) != other.get(name, missing)
        ]

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of step 0, 1, ...: a function of the step, so that a resumed run needs no state."""
        total = self.epochs * steps_per_epoch
        warmup = min(self.warmup_epochs * steps_per_epoch, total / 10)
        if step < warmup:
            return self.lr * min(1.0, (step + 1) / warmup)
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "multistep":
            return self.lr * 0.1 ** ((step >= total / 2) + (step >= total * 3 / 4))
        if self.schedule == "staircase":
            return self.lr * 0.75 ** int(step * 20 / (3 * total))
        return self.lr / 2 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))


def documented_fields() -> dict[str, tuple[Any, str]]:
    """Name -> (type, sentence) of every field of Config, in order."""
    hints = get_type_hints(Config, include_extras=True)
    return {
        f.name: (hints[f.name].__origin__, hints[f.name].__metadata__[0]) for f in dataclasses.fields(Config)
    }


def _check_type(name: str, value: Any, kind: Any) -> None:
    """``kind`` is a class, a Literal, or one of these or None."""
    kinds = [kind] if get_origin(kind) is Literal or isinstance(kind, type) else list(get_args(kind))
    for one in kinds:
        if get_origin(one) is Literal:
            if value in get_args(one):
                return
        # True is an int to Python, and 1 is as good a float as 1.0.
        elif isinstance(value, bool):
            if one is bool:
                return
        elif isinstance(value, (int, float) if one is float else one):
            return
    words = [
        ", ".join(map(repr, get_args(one)))
        if get_origin(one) is Literal
        else one.__name__.replace("Type", "")
        for one in kinds
    ]
    raise UsageError(f"{name}: expected {' or '.join(words)}; got {value!r}")
