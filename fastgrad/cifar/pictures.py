"""The pictures of a comparison: matplotlib figures, without pyplot's global state. Epochs on the x axis."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastgrad.cifar.runs import Group, Run
from fastgrad.monitor_plots import average_steps, short_names

_COLORS = (*colormaps["tab10"].colors, *colormaps["Dark2"].colors)
_POINTS = 150  # of a line; more steps are averaged
_GRID = {"color": "0.87", "linewidth": 0.6}


def metric(groups: Sequence[Group], column: str, title: str, *, log: bool = False) -> Figure | None:
    """A column of metrics.csv over the epochs: the mean of the seeds, and a band from the lowest to the highest."""
    figure, axes = _frame(title, log)
    for i, group in enumerate(groups):
        epochs, values = group.curve(column)
        values = np.where(np.isfinite(values), values, np.nan)
        if not np.isfinite(values).any():
            continue
        color = _COLORS[i % len(_COLORS)]
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, values.mean(0), color=color, label=label(group), linewidth=1.5, marker=marker)
        if len(values) > 1:
            axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
    return _finished(figure, axes)


def recorded(
    groups: Sequence[Group], values: Callable[[Run], np.ndarray], title: str, *, log: bool = False
) -> Figure | None:
    """A quantity that the monitor recorded, ``values(run)`` [S]: a line for each group's first run."""
    figure, axes = _frame(title, log)
    for i, group in enumerate(groups):
        run = group.runs[0]
        y = values(run)
        if len(y) and np.isfinite(y).any():
            x, y = average_steps(_epochs(run), y[:, None], _POINTS)
            axes.plot(x, y[:, 0], color=_COLORS[i % len(_COLORS)], label=label(group), linewidth=1.2)
    return _finished(figure, axes)


def layers(groups: Sequence[Group]) -> Figure | None:
    """Gradient std of every layer, a panel a group: above as lines (dark: first layers), below as a heat map.

    All panels share their scales, so that groups can be compared; first run of each group.
    """
    groups = [group for group in groups if (group.runs[0].recorded["layer_std"] > 0).any()]
    if not groups:
        return None
    # What is normalized is measured before the normalization: the gradient as the network gave it.
    lines = [average_steps(_epochs(group.runs[0]), _positive(group.runs[0].recorded["layer_std"]), _POINTS)
             for group in groups]  # fmt: skip
    seen = np.concatenate([y[np.isfinite(y)] for _, y in lines])
    low, high = np.percentile(seen, (0.5, 99.5))
    figure = Figure(figsize=(max(5.0, 3.1 * len(groups) + 1.2), 7.5), layout="constrained")
    above, below = figure.subplots(2, len(groups), squeeze=False, sharex="col")
    norm = LogNorm(low, high if high > low else 1.1 * low)
    for axes, heat, group, (x, y) in zip(above, below, groups, lines, strict=True):
        count = y.shape[1]
        for layer in range(count):
            axes.plot(x, y[:, layer], color=colormaps["viridis"](0.9 * layer / max(1, count - 1)), linewidth=0.6)
        axes.set_yscale("log")
        axes.set_ylim(low / 1.5, high * 1.5)
        axes.set_title(label(group), fontsize="medium")
        axes.grid(**_GRID)
        edges = np.append(x, x[-1] + (x[-1] - x[-2] if len(x) > 1 else 1.0))
        mesh = heat.pcolormesh(edges, np.arange(count + 1) - 0.5, np.ma.masked_invalid(y.T), norm=norm, cmap="magma",
                               rasterized=True)  # fmt: skip
        heat.set_ylim(count - 0.5, -0.5)
        heat.set_xlabel("epoch")
        heat.set_facecolor("0.87")
        axes.tick_params(labelleft=axes is above[0])
        heat.tick_params(labelleft=False)
    above[0].set_ylabel("gradient std of a layer")
    _name_layers(below[0], groups[0].runs[0])
    figure.colorbar(mesh, ax=list(below), label="gradient std", extend="both", pad=0.01)
    return figure


def label(group: Group) -> str:
    """The group's name, and how many of its runs the figures are of."""
    finished, runs = len(group.finished), len(group.runs)
    if finished == runs:
        return group.label
    return f"{group.label} (unfinished)" if runs == 1 else f"{group.label} ({finished} of {runs} finished)"


def _epochs(run: Run) -> np.ndarray:
    return run.recorded["step"] / run.steps_per_epoch


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def _name_layers(axes: Axes, run: Run) -> None:
    names = short_names(list(run.recorded["layers"]))
    stride = -(-len(names) // 24)
    axes.set_yticks(range(0, len(names), stride), names[::stride], fontsize=6)
    axes.tick_params(labelleft=True)
    axes.set_ylabel("layer, in model order")


def _frame(title: str, log: bool) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel=title)
    if log:
        axes.set_yscale("log")
    axes.grid(**_GRID)
    return figure, axes


def _finished(figure: Figure, axes: Axes) -> Figure | None:
    """None if nothing was drawn."""
    if not axes.lines:
        return None
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small")
    return figure
