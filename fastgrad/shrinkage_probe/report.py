"""``fastgrad shrinkage report``: one page on the model, on real quantizers, and on what q predicts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from fastgrad.cifar import report as cifar_report
from fastgrad.cifar.errors import UsageError
from fastgrad.cifar.runs import Group, find, group
from fastgrad.page import Page, plain
from fastgrad.shrinkage_model import study, tables
from fastgrad.shrinkage_probe import probe
from fastgrad.shrinkage_probe.slowdown import Comparison, compare

Columns = dict[str, np.ndarray]
QUANTIZER_COLUMNS = ("format", "rounding", "scale", "q", "q, lowest layer", "norm ratio", "cosine", "noise / gradient",
                     "zeroed", "saturated")  # fmt: skip
RUN_COLUMNS = ("run", "lr", "seeds", "q", "predicted pace", "measured pace", "train loss", "test accuracy")


def write(
    out: Path, *, model: Path | None = None, quantizers: Path | None = None, runs: Path | None = None
) -> tuple[Path, Path]:
    """Write ``out``/index.html and report.md from what is given; what is not is named on the page."""
    parts = {"model": (model, _model), "quantizers": (quantizers, _quantizers), "runs": (runs, _runs)}
    if not any(given for given, _ in parts.values()):
        raise UsageError("report: expected --model, --quantizers or --runs")
    page = Page("Shrinkage: what low precision does to SGD")
    page.paragraph(
        "The model: a rounded gradient is g~ = q g + noise, q its projection on the gradient. Theory, sampled runs and "
        "measurements here are ours; no number is a paper's."
    )
    for given, add in parts.values():
        if given:
            add(page, Path(given))
    if missing := [f"--{name}" for name, (given, _) in parts.items() if not given]:
        page.paragraph(f"Not given, so not on this page: {', '.join(missing)}.")
    return page.write(out)


def _model(page: Page, folder: Path) -> None:
    path = folder / study.JSON
    try:
        parts = list(tables.tables(json.loads(path.read_text())))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not written by fastgrad shrinkage model ({error})") from error
    page.heading("The model against its bounds")
    page.paragraph(
        "SGD on problems whose constants are known, with q drawn at every step and rounding noise; means over "
        "repetitions. The bounds are those of `fastgrad.theory`. With a constant q and no noise the stationary error "
        "*falls* with q: it is full precision with a smaller step. Only rounding noise makes it rise."
    )
    for title, header, rows in parts:
        page.table(tuple(map(plain, header)), [[plain(cell) for cell in row] for row in rows], plain(title))


def _quantizers(page: Page, folder: Path) -> None:
    from fastgrad.shrinkage_probe import pictures

    columns = probe.read(folder / "quantizers.parquet")
    (run,) = find([folder / "run"])
    state = "" if run.finished else f" **The run is unfinished: {len(run.rows)} of {run.config.epochs} epochs.**"
    page.heading("Real quantizers on real gradients")
    steps = np.unique(columns["step"])
    arithmetic = "bf16 autocast" if run.config.autocast else "float32"
    page.paragraph(
        f"{run.config.model} on {plain(str(run.facts['data_name']))}, trained on its own gradients ({arithmetic}) for "
        f"{run.config.epochs} epochs; copies of them rounded at {len(steps)} steps.{state} Every row is the mean over "
        "those steps; q, norm ratio and cosine are those of all gradients as one vector, *lowest layer* is the "
        "smallest of the layers' means."
    )
    page.table(QUANTIZER_COLUMNS, [_quantizer_row(columns, one) for one in probe.present(columns)])
    for scale, name in (("tensor", "tensor"), ("block 32", "block")):
        what = "one scale a tensor" if scale == "tensor" else "a scale for every 32 elements"
        page.figure(f"q_{name}", pictures.over_training(columns, "q", "q", scale), f"q over the training, {what}.")
        figure = pictures.over_training(columns, "relative_noise", "noise / gradient (energy)", scale, log=True)
        page.figure(f"noise_{name}", figure, f"Energy of the rounding noise over that of the gradient, {what}.")
    page.figure("q_layers", pictures.layers(columns, "tensor"), "q of every layer, one scale a tensor.")


def _quantizer_row(columns: Columns, one: probe.Quantizer) -> list[str]:
    rows = probe.select(columns, format=one.format, rounding=one.rounding, scale=one.scale)
    whole = probe.select(rows, layer=probe.ALL)
    of_layers = [rows["q"][rows["layer"] == name].mean() for name in set(rows["layer"]) - {probe.ALL}]
    return [
        plain(one.format), one.rounding, one.scale, f"{whole['q'].mean():.4f}", f"{min(of_layers):.4f}",
        f"{whole['norm_ratio'].mean():.4f}", f"{whole['cosine'].mean():.4f}", f"{whole['relative_noise'].mean():.2e}",
        f"{100 * whole['zeroed'].mean():.1f} %", f"{100 * whole['saturated'].mean():.2f} %",
    ]  # fmt: skip


def _runs(page: Page, folder: Path) -> None:
    from fastgrad.shrinkage_probe import pictures

    groups = group(find([folder]))
    found = compare(groups)
    page.heading("Does q predict the slow-down?")
    unfinished = [one.label for one in groups if len(one.finished) < len(one.runs)]
    if unfinished:
        page.paragraph(f"**Unfinished, and not in the means: {plain(', '.join(unfinished))}.**")
    if not found:
        page.paragraph("Nothing to compare: it takes a finished run without a format and one with, alike in all else.")
        return
    config = found[0].baseline.config
    page.paragraph(
        f"{config.model} on {plain(str(found[0].baseline.runs[0].facts['data_name']))}, "
        f"{config.schedule} learning rate. "
        "*Measured pace*: the time at which full precision, from the same seed and at the same rate, had this run's "
        "training loss, over the run's time (median over the epochs; mean ± standard deviation of the seeds). "
        "*Predicted*: q, the mean projection of the run's own gradients; 1 where the step is divided by it."
    )
    page.table(RUN_COLUMNS, [_run_row(one, found) for one in groups])
    page.figure("pace", pictures.pace(found), "Measured pace (a dot a seed) and the predicted one (a stroke).")
    for name, compensated, caption in (
        ("loss_compensated", True, "Compensation: training loss with and without it, beside full precision."),
        ("loss_formats", False, "Training loss of the other runs, beside full precision."),
    ):
        if figure := pictures.losses(found, compensated=compensated):
            page.figure(name, figure, caption)
    page.paragraph(verdict(found))


def _run_row(one: Group, found: list[Comparison]) -> list[str]:
    cells = cifar_report.cells(one)
    compared = [other for other in found if other.group is one]
    numbers = ["", "", ""]
    if compared:
        q, predicted, pace = compared[0].q, compared[0].predicted, compared[0].pace
        spread = f" ± {np.std(compared[0].paces, ddof=1):.2f}" if len(compared[0].paces) > 1 else ""
        numbers = [f"{q:.3f}", f"{predicted:.2f}", f"{pace:.2f}{spread}" if np.isfinite(pace) else ""]
    return [plain(one.label), cells["lr"], cells["seeds"], *numbers, cells["train loss"], cells["test accuracy"]]


def verdict(found: list[Comparison]) -> str:
    """The two answers, in numbers."""
    lines = []
    shrunk = [one for one in found if not one.group.config.compensate and np.isfinite(one.pace)]
    if shrunk:
        errors = np.array([one.pace - one.predicted for one in shrunk])
        lines.append(
            f"- Over {len(shrunk)} uncompensated quantizers: measured less predicted pace has mean "
            f"{errors.mean():+.3f}, root mean square {np.sqrt((errors**2).mean()):.3f}."
        )
        if len(shrunk) > 2 and np.ptp([one.predicted for one in shrunk]) > 0:
            r = np.corrcoef([one.predicted for one in shrunk], [one.pace for one in shrunk])[0, 1]
            lines.append(f"- Correlation of measured and predicted pace: {r:.3f}.")
    for one in found:
        for twin in found:
            if one.group.config.compensate and _same_but_compensation(one, twin):
                base = one.baseline.last("train_loss")[0]
                before, after = (other.group.last("train_loss")[0] - base for other in (twin, one))
                spread = one.baseline.last("train_loss")[1]
                lines.append(
                    f"- {plain(one.group.label)}: final training loss less full precision's {after:+.4f}; "
                    f"uncompensated {before:+.4f}"
                    + (f"; full precision's own seeds deviate by {spread:.4f}." if spread == spread else ".")
                )
    return "\n".join(lines)


def _same_but_compensation(one: Comparison, other: Comparison) -> bool:
    a, b = (dataclasses.asdict(each.group.config) for each in (one, other))
    return {name for name in a if a[name] != b[name]} == {"compensate"}
