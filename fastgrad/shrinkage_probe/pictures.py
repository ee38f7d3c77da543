"""The pictures of the shrinkage report: matplotlib figures, without pyplot's global state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastgrad.cifar import pictures
from fastgrad.monitor_plots import short_names
from fastgrad.shrinkage_probe.probe import ALL, FORMATS, ROUNDINGS, present, select
from fastgrad.shrinkage_probe.slowdown import Comparison

_COLORS = colormaps["tab10"].colors
_GRID = {"color": "0.87", "linewidth": 0.6}

Columns = dict[str, np.ndarray]


def over_training(columns: Columns, quantity: str, title: str, scale: str, *, log: bool = False) -> Figure:
    """One quantity of all gradients as one vector over the steps: a panel a rounding, a line a format."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, len(ROUNDINGS), sharey=True)
    for axes, rounding in zip(panels, ROUNDINGS, strict=True):
        for color, name in zip(_COLORS, FORMATS, strict=False):
            rows = select(columns, layer=ALL, format=name, rounding=rounding, scale=scale)
            values = np.where(rows[quantity] > 0, rows[quantity], np.nan) if log else rows[quantity]
            axes.plot(rows["step"], values, label=name, color=color, marker=".", linewidth=1.2)
        axes.set_title(rounding, fontsize="medium")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.grid(**_GRID)
        if log:
            axes.set_yscale("log")
    panels[0].set_ylabel(title)
    panels[-1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def layers(columns: Columns, scale: str) -> Figure:
    """q by layer and quantizer, the mean over the steps."""
    used = [one for one in present(columns) if one.scale == scale]
    names = [name for name in dict.fromkeys(columns["layer"]) if name != ALL]
    grid = np.full((len(names), len(used)), np.nan)
    for j, one in enumerate(used):
        rows = select(columns, format=one.format, rounding=one.rounding, scale=one.scale)
        for i, name in enumerate(names):
            grid[i, j] = rows["q"][rows["layer"] == name].mean()
    figure = Figure(figsize=(9, max(4.0, min(11.0, 1.5 + 0.14 * len(names)))), layout="constrained")
    axes = figure.add_subplot()
    mesh = axes.pcolormesh(np.clip(grid, 0, 1.2), cmap="viridis", vmin=0, vmax=1.2)
    titles = [f"{one.format} {one.rounding}" for one in used]
    axes.set_xticks(np.arange(len(used)) + 0.5, titles, rotation=90, fontsize=7)
    stride = -(-len(names) // 40)
    axes.set_yticks(np.arange(0, len(names), stride) + 0.5, short_names(names)[::stride], fontsize=6)
    axes.invert_yaxis()
    figure.colorbar(mesh, ax=axes, label="q, mean over the steps (clipped at 1.2)")
    return figure


def pace(found: Sequence[Comparison]) -> Figure:
    """A line for every quantizer: the predicted pace as a stroke, the measured one as a dot for every seed."""
    found = sorted(found, key=lambda one: (one.predicted, one.group.label))
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(found)), layout="constrained")
    axes = figure.add_subplot(xlabel="pace: epochs of full precision for one of this run")
    rows = np.arange(len(found))
    for row, one in enumerate(found):
        paces = [value for value in one.paces if np.isfinite(value)]
        axes.plot(paces, [row] * len(paces), linestyle="none", marker="o", color=_COLORS[0], alpha=0.8,
                  label="measured, a dot a seed" if row == 0 else None)  # fmt: skip
    axes.plot([one.predicted for one in found], rows, linestyle="none", marker="|", markersize=14, markeredgewidth=2.5,
              color="crimson", label="predicted: q, or 1 where compensated")  # fmt: skip
    axes.set_yticks(rows, [one.group.label for one in found], fontsize="small")
    axes.axvline(1.0, color="0.6", linewidth=0.8)
    axes.grid(axis="x", **_GRID)
    axes.legend(fontsize="small", loc="lower left")
    return figure


def losses(found: Sequence[Comparison], *, compensated: bool) -> Figure | None:
    """Training loss of full precision, and of the runs that are (or have a twin that is) compensated."""
    wanted = {_key(one) for one in found if one.group.config.compensate}
    chosen = [one for one in found if (_key(one) in wanted) is compensated]
    baselines = list({id(one.baseline): one.baseline for one in chosen}.values())
    groups = [*baselines, *(one.group for one in chosen)]
    return pictures.metric(groups, "train_loss", "training loss", log=True) if chosen else None


def _key(one: Comparison) -> tuple:
    config = one.group.config
    return config.grad_format, config.rounding, config.scale, config.lr
