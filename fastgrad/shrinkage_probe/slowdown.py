"""Does the measured shrinkage predict how much slower a low-precision run learns?

If g~ = q g + noise and the noise does not matter, a step mu on g~ is a step q mu on g: at a constant learning rate the
run is after k steps where full precision is after q k. The *pace* of a run is the measured counterpart of q: the median
over its epochs e of e' / e, where e' is the (interpolated) epoch at which full precision had the same training loss.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from fastgrad.cifar.runs import NOT_GROUPED, Group

QUANTIZATION = ("grad_format", "rounding", "scale", "block", "pow2", "compensate")


@dataclass(frozen=True)
class Comparison:
    """A group of low-precision runs beside the full-precision group of the same other options."""

    group: Group
    baseline: Group
    q: float  # mean over steps and seeds of the projection of all gradients as one vector
    paces: tuple[float, ...]  # one a seed; NaN where the baseline never came that far, or the run never learned

    @property
    def pace(self) -> float:
        return float(np.mean(self.paces))

    @property
    def predicted(self) -> float:
        """What the model says of the pace: q, or 1 where the step is divided by it."""
        return 1.0 if self.group.config.compensate else self.q


def pace(loss: np.ndarray, reference: np.ndarray) -> float:
    """Median over epochs 2, 3, ... of (time at which ``reference`` had this loss) / (time of the run).

    loss, reference: training loss of epochs 1, 2, ... of the run and of full precision. It is the mean over an epoch,
    so its time is the epoch's middle: 0.5, 1.5, ... Epochs whose loss the reference passed before its first or reached
    only after its last are left out; NaN if none is left.
    """
    # A loss that rises again would give an epoch two places on the reference: its running minimum has one.
    falling = np.minimum.accumulate(reference)
    times = np.arange(len(reference)) + 0.5
    ratios = []
    for time, value in zip(times[1:], loss[1:], strict=False):
        if np.isfinite(value) and falling[-1] <= value <= falling[0]:
            ratios.append(np.interp(-value, -falling, times) / time)
    return float(np.median(ratios)) if ratios else float("nan")


def compare(groups: list[Group]) -> list[Comparison]:
    """Every finished low-precision group that has a finished baseline, beside it."""
    baselines = {_others(group): group for group in groups if not group.config.grad_format and group.finished}
    found = []
    for group in groups:
        baseline = baselines.get(_others(group))
        if baseline is None or group.config.grad_format is None or not group.finished:
            continue
        reference = baseline.curve("train_loss")[1].mean(0)
        own = {run.config.seed: np.array(run.curve("train_loss")[1]) for run in baseline.finished}
        # A seed is held against full precision from the same seed: the same weights, batches and augmentation.
        paces = tuple(pace(np.array(run.curve("train_loss")[1]), own.get(run.config.seed, reference))
                      for run in group.finished)  # fmt: skip
        q = np.mean([np.nanmean(run.recorded["q"]) for run in group.finished])
        found.append(Comparison(group, baseline, float(q), paces))
    return found


def _others(group: Group) -> tuple:
    """The options that a low-precision run shares with its baseline."""
    options = dataclasses.asdict(group.config)
    return tuple((name, options[name]) for name in options if name not in (*QUANTIZATION, *NOT_GROUPED))
