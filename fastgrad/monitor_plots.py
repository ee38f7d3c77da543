"""The pictures of ``fastgrad.Monitor``: matplotlib figures on the Agg canvas, without pyplot's global state.

S steps, L layers. Values that are not finite (a layer without a gradient at a step) leave no mark.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm, Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter
except ImportError as error:
    raise ImportError("Monitor.plot: the pictures need matplotlib (pip install matplotlib)") from error

if TYPE_CHECKING:
    from fastgrad.monitor import Monitor

_DPI = 130
_LEGEND = 12  # layers with a legend; more are told apart by a colour bar
_NAMED = 30  # layers that all have their name at the heat map
_CELLS = 1200  # columns of the heat map; more steps are averaged
_POINTS = 150  # of the lines of quantities that jump at every step; more steps are averaged
_FEW = (*colormaps["tab10"].colors, "navy", "0.35")
# The yellow end of viridis is illegible on white.
_DEPTH = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.9, 256)))
_GREY = "0.87"
_STD = "std (gradient units)"


def draw(monitor: Monitor, folder: Path) -> list[Path]:
    """Write the PNG files of ``Monitor.plot`` that the held steps give reason for; return their paths."""
    layers, steps = monitor.layers, monitor.grid("n")[0].numpy()  # [L], [S]
    if not len(steps):
        return []

    def grid(quantity: str) -> np.ndarray:  # [S, L]
        return monitor.grid(quantity)[1].numpy()

    def whole(quantity: str) -> np.ndarray:  # [S]
        return monitor.series(None, quantity)[1].numpy()

    std, factor, alpha = grid("std"), grid("a"), whole("a")
    figures = {"std_global": _single(steps, whole("std"), "Gradient std, all layers", _STD)}
    if (std > 0).any():
        figures["std_layers"] = _layers(steps, std, layers, "Gradient std per layer", _STD, log=True)
        figures["std_heatmap"] = _heat_map(steps, std, layers, "Gradient std per layer", _STD)
    if (alpha != 1).any():
        title, label = "Normalization of the whole gradient", "alpha (factor, no unit)"
        figures["alpha"] = _single(steps, alpha, title, label, one="1: unchanged")
    # Centred layers have a = 1, autoscaled and clipped ones alpha: no news. A z-normalized layer has its own.
    if (np.isfinite(factor) & (factor != 1) & (factor != alpha[:, None])).any():
        title, label = "Normalization per layer", "a (factor, 1 / gradient units)"
        figures["factor_layers"] = _layers(steps, factor, layers, title, label, log=True)
    # Section 10: absmax is measured where a tensor is quantized. A layer of zeros has no q_k to speak of.
    quantized = grid("absmax") > 0
    if quantized.any():
        q = np.where(quantized, grid("q"), np.nan)
        title, label = (
            "Projection of the quantized gradient on the gradient",
            "q_k = <y, q> / <y, y>  (no unit)",
        )
        figures["q_layers"] = _layers(steps, q, layers, title, label, mean=True, one="1: no shrinkage")
        n = np.where(quantized, grid("n"), 0.0)
        figures["rounding_counts"] = _counts(steps, n, grid("zeroed"), grid("saturated"), layers)
    folder.mkdir(parents=True, exist_ok=True)
    return [_save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _single(
    steps: np.ndarray,  # [S]
    values: np.ndarray,  # [S]
    title: str,
    label: str,
    one: str | None = None,  # names a reference line at 1
) -> Figure:
    """One quantity of the list, on a log scale where it is positive and spans more than a decade."""
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    axes = figure.add_subplot(title=title, ylabel=label, xlabel="step")
    _line(axes, steps, values, color=_DEPTH(0.25), width=1.4)
    good = values[np.isfinite(values)]
    if len(good) and good.min() > 0 and good.max() > 10 * good.min():
        axes.set_yscale("log")
    if one is not None:
        axes.axhline(1.0, color="crimson", linestyle="--", linewidth=1.2, label=one)
        axes.legend()
    _frame(axes)
    return figure


def _layers(
    steps: np.ndarray,  # [S]
    values: np.ndarray,  # [S, L]
    layers: list[str],  # [L]
    title: str,
    label: str,
    *,
    log: bool = False,
    mean: bool = False,  # average over neighbouring steps, and draw the mean of the layers
    one: str | None = None,  # names a reference line at 1
) -> Figure:
    figure = Figure(figsize=(9.0, 5.0), layout="constrained")
    axes = figure.add_subplot(title=title, ylabel=label, xlabel="step")
    if one is not None:
        axes.axhline(1.0, color="crimson", linestyle="--", linewidth=1.2, label=one, zorder=3)
    if mean:
        _label_steps(axes, steps)
        overall = average_steps(np.arange(len(layers)), values.T, 1)[1][0]  # [S]
        points, overall = average_steps(steps, overall[:, None], _POINTS)
        _line(axes, points, overall[:, 0], color="black", width=1.8, label="mean of layers", zorder=4)
        steps, values = average_steps(steps, values, _POINTS)
    _lines(axes, steps, values, layers, log=log)
    _key(figure, [axes], layers)
    return figure


def _counts(
    steps: np.ndarray,  # [S]
    n: np.ndarray,  # [S, L] finite elements of the quantized layers, 0 elsewhere
    zeroed: np.ndarray,  # [S, L]
    saturated: np.ndarray,  # [S, L]
    layers: list[str],  # [L]
) -> Figure:
    figure = Figure(figsize=(9.0, 7.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.set_title("Elements below and above the range of the format")
    for axes, count, word in ((upper, zeroed, "rounded to zero"), (lower, saturated, "saturated")):
        hits = np.where(n > 0, count, 0.0)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: not quantized, no mark
            share = hits / n
            total = hits.sum(1, keepdims=True) / n.sum(1, keepdims=True)
        points, total = average_steps(steps, total, _POINTS)
        _line(axes, points, total[:, 0], color="black", width=1.8, label="all elements", zorder=4)
        _lines(axes, *average_steps(steps, share, _POINTS), layers)
        axes.set_ylabel(f"{word} (% of elements)")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        axes.set_ylim(0.0, max(axes.get_ylim()[1], 1e-4) if share[n > 0].any() else 0.01)
    _label_steps(lower, steps)
    _key(figure, [upper, lower], layers)
    return figure


def _heat_map(
    steps: np.ndarray,  # [S]
    values: np.ndarray,  # [S, L], some positive
    layers: list[str],  # [L]
    title: str,
    label: str,
) -> Figure:
    """Layer by step, the colour on a log scale; cells without a positive value are grey."""
    starts, logs = average_steps(steps, np.log(np.where(values > 0, values, np.nan)), _CELLS)
    cells = np.ma.masked_invalid(np.exp(logs))  # [C, L]
    # A cell reaches to the next recorded step; the last one is as wide as the one before.
    edges = np.append(starts, starts[-1] + (starts[-1] - starts[-2] if len(starts) > 1 else 1.0))
    # A few layers (a bias in front of a batch norm) may lie decades below the rest: they saturate the scale.
    low, high = np.percentile(cells.compressed(), (1, 99))
    norm = LogNorm(low, high if high > low else low * 1.1)

    figure = Figure(figsize=(10.0, float(np.clip(2.0 + 0.2 * len(layers), 4.0, 9.0))), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="step", ylabel="layer, in model order", facecolor=_GREY)
    rows = np.arange(len(layers) + 1) - 0.5
    mesh = axes.pcolormesh(edges, rows, cells.T, norm=norm, cmap="magma", rasterized=True)
    figure.colorbar(mesh, ax=axes, label=label, extend="both", extendfrac=0.02, pad=0.01)
    names, stride = short_names(layers), 1 if len(layers) <= _NAMED else -(-len(layers) // 20)
    ticks = range(0, len(layers), stride)
    axes.set_yticks(ticks, [f"{names[i]}  {i}" for i in ticks], fontsize=8)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _lines(
    axes: Axes,
    steps: np.ndarray,  # [S]
    values: np.ndarray,  # [S, L]
    layers: list[str],  # [L]
    log: bool = False,
) -> None:
    few = len(layers) <= _LEGEND
    for i, name in enumerate(short_names(layers)):
        line = np.where(values[:, i] > 0, values[:, i], np.nan) if log else values[:, i]
        color = _FEW[i] if few else _DEPTH(i / (len(layers) - 1))
        _line(axes, steps, line, color=color, width=1.2 if few else 0.7, label=name if few else None)
    if log:
        axes.set_yscale("log")
    _frame(axes)


def _line(
    axes: Axes,
    steps: np.ndarray,  # [S]
    values: np.ndarray,  # [S]
    *,
    color: Any,
    width: float,  # points
    label: str | None = None,
    zorder: float = 2,
) -> None:
    # Steps without a value are bridged: a layer that has a gradient at every second step is still one line.
    good = np.isfinite(values)
    marker = "o" if good.sum() == 1 else None
    if good.any():
        style = {"color": color, "linewidth": width, "marker": marker, "markersize": 4, "zorder": zorder}
        axes.plot(steps[good], values[good], label=label, **style)


def _key(figure: Figure, axes: list[Axes], layers: list[str]) -> None:
    """Say which line is which layer: a legend for a few, a colour bar by depth for many."""
    handles, labels = axes[0].get_legend_handles_labels()
    if len(layers) <= _LEGEND:
        figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
        return
    depth = ScalarMappable(Normalize(0, len(layers) - 1), _DEPTH)
    bar = figure.colorbar(depth, ax=axes, label="layer, in model order (0 = first)", pad=0.01)
    bar.locator = MaxNLocator(integer=True)
    bar.update_ticks()
    if handles:
        axes[0].legend(handles, labels, loc="best", fontsize=9)


def _frame(axes: Axes) -> None:
    axes.grid(True, color=_GREY, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.01)


def _label_steps(axes: Axes, steps: np.ndarray) -> None:
    group = -(-len(steps) // _POINTS)
    axes.set_xlabel("step" if group == 1 else f"step (a point is the mean of up to {group} recorded steps)")


def average_steps(
    steps: np.ndarray,  # [S]
    values: np.ndarray,  # [S, L]
    cells: int,
) -> tuple[np.ndarray, np.ndarray]:  # first step of each cell [C], mean of its finite values or NaN [C, L]
    """At most ``cells`` runs of neighbouring steps, equally long up to one."""
    starts = np.array([run[0] for run in np.array_split(np.arange(len(steps)), min(len(steps), cells))])
    good = np.isfinite(values)
    count = np.add.reduceat(good.astype(np.float64), starts, axis=0)
    total = np.add.reduceat(np.where(good, values, 0.0), starts, axis=0)
    return steps[starts].astype(np.float64), np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def short_names(layers: list[str], length: int = 36) -> list[str]:
    """Names without the dotted parts that all begin with; of a long rest the two ends."""
    parts = [name.split(".") for name in layers]
    shared = 0
    while len(layers) > 1 and all(
        len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts
    ):
        shared += 1
    names = [".".join(part[shared:]) for part in parts]
    half = length // 2
    return [name if len(name) <= length else f"{name[: half - 1]}…{name[-half:]}" for name in names]


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=_DPI)
    return path
