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
    pace: float  # NaN where the baseline never came that far, or the run never learned

    @property
    def predicted(self) -> float:
        """What the model says of the pace: q, or 1 where the step is divided by it."""
        return 1.0 if self.group.config.compensate else self.q


def pace(loss: np.ndarray, reference: np.ndarray) -> float:
    """Median over epochs 2, 3, ... of (epoch at which ``reference`` had this loss) / epoch.

    loss, reference: training loss after epochs 1, 2, ... of the run and of full precision. Epochs whose loss the
    reference passed before its first or reached only after its last are left out; NaN if none is left.
    """
    # A loss that rises again would give an epoch two places on the reference: its running minimum has one.
    falling = np.minimum.accumulate(reference)
    epochs = np.arange(1, len(reference) + 1)
    ratios = []
    for i, value in enumerate(loss[1:], 2):
        if np.isfinite(value) and falling[-1] <= value <= falling[0]:
            ratios.append(np.interp(-value, -falling, epochs) / i)
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
        paces = [pace(loss, reference) for loss in group.curve("train_loss")[1]]
        q = np.mean([np.nanmean(run.recorded["q"]) for run in group.finished])
        found.append(Comparison(group, baseline, float(q), float(np.mean(paces))))
    return found


def _others(group: Group) -> tuple:
    """The options that a low-precision run shares with its baseline."""
    options = dataclasses.asdict(group.config)
    return tuple((name, options[name]) for name in options if name not in (*QUANTIZATION, *NOT_GROUPED))
