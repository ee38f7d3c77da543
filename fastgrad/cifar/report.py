"""Comparison of runs: a table on the screen, and a page of tables and pictures."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rich.table
from rich.console import Console
from rich.markup import escape

from fastgrad.cifar.config import documented_fields
from fastgrad.cifar.runs import Group, Run, differing_options, find, group
from fastgrad.page import Page, plain

COLUMNS = ("runs", "data", "model", "gradients", "augment", "optimizer", "lr", "epochs", "seeds", "test accuracy",
           "best epoch", "train loss", "global std", "alpha", "mean q", "images/s")  # fmt: skip
# The table on the screen has no room for the columns that most comparisons share.
ON_SCREEN = ("runs", "gradients", "epochs", "seeds", "test accuracy", "train loss", "mean q", "images/s")
PER_ROW = 5  # panels of the picture of the layers


def cells(group: Group) -> dict[str, str]:
    """One row of the table: mean and standard deviation of the seeds, at the last epoch."""
    config, run = group.config, group.runs[0]
    done, finished = len(run.rows), len(group.finished)
    whole = finished == len(group.runs)
    row = {
        "runs": group.label,
        "data": str(run.facts.get("data_name")),
        "model": config.model,
        "gradients": config.treatment,
        "augment": config.augment,
        "optimizer": config.optimizer,
        "lr": f"{config.lr:g}",
        "epochs": f"{config.epochs}" if whole else f"{done} of {config.epochs}, unfinished",
        "seeds": f"{len(group.runs)}" if whole else f"{finished} of {len(group.runs)} finished",
    }
    if not whole and len(group.runs) > 1:
        row["epochs"] = f"{config.epochs}"
    shown = group if finished or not done else Group(group.label, [_as_if_finished(run)])
    accuracies = [max(one["test_accuracy"] for one in run.rows) for run in shown.finished]
    speeds = [one["images_per_second"] for run in shown.finished for one in run.rows]
    return {name: "" for name in COLUMNS} | row | {
        "test accuracy": _spread(*shown.last("test_accuracy"), 100, ".2f", " %"),
        "best epoch": f"{100 * np.mean(accuracies):.2f} %" if accuracies else "",
        "train loss": _spread(*shown.last("train_loss"), 1, ".4f"),
        "global std": _spread(*shown.last("global_std"), 1, ".2e"),
        "alpha": _spread(*shown.last("alpha"), 1, ".3g"),
        "mean q": _spread(*shown.last("q_mean"), 1, ".4f"),
        "images/s": f"{np.median(speeds):,.0f}" if speeds else "",
    }  # fmt: skip


def report(folders: Sequence[Path], out: Path, console: Console | None = None) -> tuple[Path, Path]:
    """Print the table; write ``out``/index.html (self-contained), ``out``/report.md and the pictures.

    folders  run folders, and folders of them; runs that differ in nothing but their seed are taken together
    """
    runs = find(folders)
    groups = group(runs)
    rows = [cells(one) for one in groups]
    table = rich.table.Table(*ON_SCREEN)
    for row, one in zip(rows, groups, strict=True):
        style = None if len(one.finished) == len(one.runs) else "dim"
        table.add_row(*(escape(row[name]) for name in ON_SCREEN), style=style)
    (console or Console()).print(table)
    return page(runs).write(out)


def page(runs: Sequence[Run]) -> Page:
    """The report on the runs."""
    groups = group(runs)
    rows = [cells(one) for one in groups]
    page = Page("CIFAR experiments")
    page.paragraph(
        "Accuracy and loss are those of the last finished epoch; *best epoch* is the best test accuracy of any epoch: "
        "it was chosen on the test images and flatters a run. Several seeds: mean ± standard deviation (n - 1). "
        "Unfinished runs are named as such and enter no mean."
    )
    used = [name for name in COLUMNS if any(row[name] for row in rows)]
    page.table(used, [[plain(row[name]) for name in used] for row in rows])
    _pictures(page, groups)
    _options(page, runs)
    return page


def _pictures(page: Page, groups: Sequence[Group]) -> None:
    from fastgrad.cifar import pictures  # matplotlib takes half a second to import

    band = "Mean of the seeds; the band reaches from the lowest to the highest."
    first = "First seed of each."
    figures = {
        "Accuracy and loss": [
            ("test_accuracy", pictures.metric(groups, "test_accuracy", "test accuracy"), band),
            ("train_loss", pictures.metric(groups, "train_loss", "training loss", log=True), band),
        ],
        "Gradients as a whole": [
            ("global_std", pictures.recorded(groups, lambda run: run.recorded["std"], "std of all gradients", log=True),
             f"Standard deviation of all gradient entries, before they are treated. {first}"),
            ("alpha", pictures.recorded(groups, _alpha, "alpha: one factor for all gradients"), first),
            ("mean_q", pictures.recorded(groups, _mean_q, "mean shrinkage q of the layers"), first),
        ],
        "Layers": [
            (f"layers_{name}", pictures.layers(some),
             f"Gradient std of every layer, {name.replace('_', ' ')}: lines from the first layer (dark) to the last "
             f"(light), and the same as a heat map. Before the gradients are treated. {first}")
            for name, some in _panels(groups)
        ],
    }  # fmt: skip
    for heading, drawn in figures.items():
        if any(figure for _, figure, _ in drawn):
            page.heading(heading)
            for name, figure, caption in drawn:
                if figure:
                    page.figure(name, figure, caption)


def _panels(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Groups whose layers can share a picture: of one model, at most ``PER_ROW``."""
    panels = []
    for model in dict.fromkeys(one.config.model for one in groups):
        of_model = [one for one in groups if one.config.model == model]
        count = -(-len(of_model) // PER_ROW)
        for i in range(count):
            panels.append((f"{model}_{i + 1}" if count > 1 else model, of_model[i * PER_ROW : (i + 1) * PER_ROW]))
    return panels


def _alpha(run: Run) -> np.ndarray:
    return run.recorded["a"] if run.config.normalize in ("autoscale", "clip") else np.empty(0)


def _mean_q(run: Run) -> np.ndarray:
    return run.recorded["mean_q"] if run.config.grad_format else np.empty(0)


def _options(page: Page, runs: Sequence[Run]) -> None:
    from fastgrad.cifar.sweep import arguments

    page.heading("Options")
    differing = differing_options(runs)
    shared = [word for word in documented_fields() if word not in differing]
    page.paragraph("Of all runs: " + ", ".join(f"`{name} = {vars(runs[0].config)[name]!r}`" for name in shared) + ".")
    if differing:
        rows = [[plain(run.name), *(plain(str(values[i])) for values in differing.values())]
                for i, run in enumerate(runs)]  # fmt: skip
        page.table(("run", *differing), rows, "The options that are not the same in all runs.")
    first = runs[0]
    page.paragraph("One of them again:")
    page.paragraph(f"```bash\nfastgrad cifar train {shlex.join(arguments(first.config))} --out {first.name}\n```")
    machines = dict.fromkeys(
        f"{run.facts.get('device')}, {run.facts.get('threads')} threads a run, torch {run.facts.get('torch')}"
        for run in runs
    )
    seconds = sum(row["seconds"] for run in runs for row in run.rows)
    page.paragraph(f"Trained on: {'; '.join(machines)}. {len(runs)} runs, {seconds / 60:,.0f} minutes of training.")


def _as_if_finished(run: Run) -> Run:
    """A run of as many epochs as it has done: its row shows how far it came."""
    return dataclasses.replace(run, config=dataclasses.replace(run.config, epochs=len(run.rows)))


def _spread(mean: float, deviation: float, count: int, factor: float, form: str, unit: str = "") -> str:
    if count == 0 or mean != mean:
        return ""
    text = format(factor * mean, form)
    return f"{text} ± {format(factor * deviation, form)}{unit}" if count > 1 else f"{text}{unit}"

