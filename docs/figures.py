"""Draws the figures of docs/how_it_works.md into docs/figures:  make figures

Everything that is measured in them is measured here, by the ops themselves, with fixed seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch

import fastgrad
from fastgrad import shrinkage

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parent / "figures"
COLORS = {"stochastic": "#1b6ca8", "nearest": "#c8553d", "truncate": "#8d8741"}
WORDS = ("#cfe3f2", "#9cc4e4", "#6aa4d4", "#3a7fbf")


def plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_tile(figure: Figure) -> None:
    """1,024 elements as 8 rows of 128 columns: which noise a row takes, and how columns are added up."""
    noise, tree = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for row in range(8):
        half = "low" if row < 4 else "high"
        noise.barh(row, 128, left=0, height=0.92, color=WORDS[row & 3])
        noise.text(2, row, f"word {row & 3}, {half} half", va="center", fontsize=9)
    noise.axvspan(40, 41, color="black", alpha=0.85)
    noise.text(
        43, 3.5, "one column: one counter of Philox,\nfour 32-bit words, eight 16-bit noises", fontsize=9, va="center",
        bbox={"facecolor": "white", "edgecolor": "none"},
    )  # fmt: skip
    noise.set(xlim=(0, 128), ylim=(7.5, -0.5), xlabel="column c = i & 127", ylabel="row r = (i >> 7) & 7")
    noise.set_xticks([0, 32, 64, 96, 127])
    noise.set_title("noise of element i of a tile", fontsize=10)
    widths = [8, 4, 2, 1]
    for level, width in enumerate(widths):
        y = -2.2 * level
        for column in range(width):
            tree.add_patch(matplotlib.patches.Rectangle((column, y), 0.9, 0.9, color=WORDS[min(level, 3)]))
            if level:
                for source in (column, column + width):
                    tree.plot([source + 0.45, column + 0.45], [y + 2.2, y + 0.9], color="gray", linewidth=0.8)
        tree.text(8.4, y + 0.45, f"{128 >> level} columns" if level < 3 else "... 1 sum", va="center", fontsize=9)
    tree.text(0, 1.25, "each column: +0, then its 8 rows in order (8 of 128 are drawn)", fontsize=9)
    tree.set(xlim=(-0.2, 12), ylim=(-6.9, 2))
    tree.set_axis_off()
    tree.set_title("a sum: columns are halved, always in this order", fontsize=10)


def rounded(x: torch.Tensor, format: str, rounding: str, step: int = 0) -> torch.Tensor:
    stored, _ = fastgrad.quantize(x, format, rounding=rounding, scale="none", step=step)
    return fastgrad.dequantize(stored)


def draw_rounding(figure: Figure) -> None:
    """The mean of what is stored, and what becomes of updates that are smaller than a gap."""
    means, walk = figure.subplots(1, 2)
    xs = torch.linspace(0, 6, 241)
    grid = [0, 0.5, 1, 1.5, 2, 3, 4, 6]  # the magnitudes of fp4_e2m1
    for rounding, color in COLORS.items():
        mean = [rounded(torch.full((4096,), float(x)), "fp4_e2m1", rounding).mean() for x in xs]
        means.plot(xs, mean, color=color, label=rounding, linewidth=1.4)
    means.set_xticks(grid)
    means.set(xlabel="value", ylabel="mean of 4,096 stored values", title="fp4_e2m1, no scale")
    means.grid(axis="x", alpha=0.3)
    updates, each = 2000, 2.0**-11
    for rounding, color in COLORS.items():
        weight, path = torch.ones(1), []
        for step in range(updates):
            weight = rounded(weight + each, "bf16", rounding, step)
            path.append(float(weight))
        walk.plot(range(1, updates + 1), path, color=color, label=rounding, linewidth=1.4)
    walk.plot([0, updates], [1, 1 + updates * each], color="black", linewidth=0.8, linestyle=":", label="exact")
    walk.set(xlabel="updates", ylabel="weight", title="bf16 weight, 1 + updates of 2$^{-11}$ (a gap is 2$^{-7}$)")
    for axes in (means, walk):
        plain(axes)
        axes.legend(frameon=False, fontsize=9)


def measured(format: str, rounding: str, gradients: torch.Tensor) -> float:
    table = fastgrad.quantize(gradients, format, rounding=rounding, scale="tensor")[1]
    return float(shrinkage.q(table)[0])


def draw_shrinkage(figure: Figure) -> None:
    """q_k is what is left of a gradient in its own direction."""
    vectors, bars = figure.subplots(1, 2, width_ratios=(1, 1.2))
    g, q = np.array([4.0, 1.0]), np.array([2.6, 1.5])
    part = (g @ q) / (g @ g) * g
    for end, color, name, place in (
        (g, "black", "gradient g", (0.05, -0.28)),
        (q, COLORS["stochastic"], "stored q", (-1.1, 0.1)),
    ):
        vectors.annotate("", end, (0, 0), arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.6})
        vectors.text(*(end + np.array(place)), name, color=color, ha="left", fontsize=10)
    vectors.plot(*zip(q, part, strict=True), color="gray", linestyle="--", linewidth=1)
    vectors.plot(*part, "o", color=COLORS["nearest"])
    vectors.text(*(part + np.array([-0.35, -0.38])), "q$_k$ g", color=COLORS["nearest"], fontsize=10)
    vectors.text(*((q + part) / 2 + np.array([0.1, 0.05])), "noise", color="gray", fontsize=10)
    vectors.set(xlim=(-0.2, 5.4), ylim=(-0.7, 2.1), aspect="equal")
    vectors.set_axis_off()
    vectors.set_title("q = q$_k$ g + noise,  q$_k$ = $\\Sigma$gq / $\\Sigma$gg", fontsize=10)
    gradients = torch.randn(65_536, generator=torch.Generator().manual_seed(0))
    formats = ("int8", "fp8_e4m3", "fp8_e5m2", "int4", "fp4_e2m1")
    for k, (rounding, color) in enumerate(COLORS.items()):
        values = [measured(format, rounding, gradients) for format in formats]
        bars.bar(np.arange(len(formats)) + 0.27 * (k - 1), values, 0.25, color=color, label=rounding)
    bars.axhline(1, color="black", linewidth=0.8, linestyle=":")
    bars.set_xticks(range(len(formats)), formats)
    bars.set(ylim=(0, 1.25), ylabel="measured q$_k$", title="65,536 normal numbers, one scale")
    plain(bars)
    bars.legend(frameon=False, fontsize=9, loc="upper center", ncols=3)


FIGURES = {
    "tile": (draw_tile, "How a tile of 1,024 elements takes its noise and adds up."),
    "rounding": (draw_rounding, "Stochastic rounding is right on average."),
    "shrinkage": (draw_shrinkage, "What q_k measures, and how large it is."),
}


def draw(folder: Path = FOLDER) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (function, _) in FIGURES.items():
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        function(figure)
        paths.append(folder / f"{name}.png")
        # No date and no version inside: equal pictures are equal files.
        figure.savefig(paths[-1], dpi=110, metadata={"Software": None})
    return paths


if __name__ == "__main__":
    for path in draw(*map(Path, sys.argv[1:2])):
        print(path)
