"""Table and plot of the fine-tunes in a folder: final held-out loss of every tier against fp32 AdamW."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path

from bench import sections
from bench.finetuning.tiers import REFERENCE, TIERS
from bench.finetuning.train import FLOOR, VALIDATION_WINDOWS, Folder

METHOD = """\
{source} on {data}. Windows of {length} tokens, {batch} a step, {steps} steps,
{warmup} of them warm-up, then a cosine to {floor:.0%} of the learning rate. A seed is a data order, the same for every
tier. *held-out* is the mean cross-entropy in nats over all {held_out} held-out windows after the last step;
*ratio* is the mean over seeds over that of {reference}.

All tiers multiply matrices in bf16: fp32 weights through autocast, which leaves the residual stream and the norms in
float32. Tiers with bf16 or int8 weights compute everything but the loss in bf16, as in the table of memory below; what
that coarser arithmetic costs in loss is part of their figures. The learning rate of the tiers with a first moment is
the best of the reference's sweep; a tier without one has a sweep of its own."""


@dataclass(frozen=True)
class Run:
    settings: dict
    facts: dict
    result: dict
    log: list[dict]

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        points = [(line["step"], line[name]) for line in self.log if name in line]
        return [step for step, _ in points], [value for _, value in points]


def finished(folder: Path) -> list[Run]:
    """The finished runs in the folders of ``folder``, by tier, then seed, then learning rate."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else []:
        at = Folder(path)
        if at.config.exists() and at.result.exists():
            config, result = json.loads(at.config.read_text()), json.loads(at.result.read_text())
            found.append(Run(config["settings"], config["facts"], result, at.lines()))
    order = list(TIERS)
    return sorted(found, key=lambda r: (order.index(r.settings["tier"]), r.settings["seed"], r.settings["lr"]))


def by_tier(runs: list[Run]) -> dict[str, list[Run]]:
    tiers: dict[str, list[Run]] = {}
    for run in runs:
        tiers.setdefault(run.settings["tier"], []).append(run)
    return tiers


def check_comparable(runs: list[Run]) -> None:
    """Refuse runs that differ in more than tier, seed and learning rate."""
    free = ("tier", "seed", "lr")
    kinds = {
        json.dumps([{k: v for k, v in run.settings.items() if k not in free}, run.facts["data"], run.facts["torch"]])
        for run in runs
    }
    if len(kinds) > 1:
        raise ValueError("report: expected runs of the same data and settings, got " + " and ".join(sorted(kinds)))


def _mean(runs: list[Run]) -> float:
    return statistics.fmean(run.result["held_out"] for run in runs)


def _tiers_table(tiers: dict[str, list[Run]]) -> list[str]:
    reference = _mean(tiers[REFERENCE]) if REFERENCE in tiers else None
    lines = [
        "| tier | | weights + state B | lr | held-out, by seed | mean | ratio |",
        "|---|---|--:|--:|---|--:|--:|",
    ]
    for name, runs in tiers.items():
        counted = runs[0].result["bytes"]
        cells = [
            name,
            TIERS[name].member.title,
            f"{(counted['weights'] + counted['state']) / counted['parameters']:.3f}",
            ", ".join(sorted({f"{run.settings['lr']:g}" for run in runs})),
            ", ".join(f"{run.settings['seed']}: {run.result['held_out']:.4f}" for run in runs),
            f"{_mean(runs):.4f}",
            f"{_mean(runs) / reference:.4f}" if reference else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _sweep_table(sweeps: list[Run]) -> list[str]:
    return [
        "| tier | lr | steps | validation |",
        "|---|--:|--:|--:|",
        *(
            f"| {r.settings['tier']} | {r.settings['lr']:g} | {r.settings['steps']} | {r.result['validation']:.4f} |"
            for r in sweeps
        ),
    ]


def markdown(runs: list[Run], sweeps: list[Run], plot: str | None) -> str:
    settings, facts = runs[0].settings, runs[0].facts
    windows = facts["windows"]
    data = settings["text"]
    if data == "reports":
        data = "findings and impression of the Open-i chest X-ray reports, each text once"
    source = settings["source"]
    if source == "smollm2-135m":
        source = "SmolLM2-135M-Instruct (read from a Q4_1 file of 4 bits, the only one in the package that holds it)"
    data += f", split by report ({windows['train']} windows to train, {windows['validation']} to validate)"
    method = METHOD.format(
        **{k: settings[k] for k in ("length", "batch", "steps", "warmup")}, source=source, data=data, floor=FLOOR,
        held_out=windows["held_out"], reference=TIERS[REFERENCE].member.title,
    )  # fmt: skip
    tiers = by_tier(runs)
    lines = ["## Loss of a real fine-tune", "", method, ""]
    if plot:
        lines += [f"![validation loss over steps]({plot})", ""]
    lines += [*_tiers_table(tiers), ""]
    if sweeps:
        lines += ["Learning rates, each after a run of its own on another data order, whole validation part:", ""]
        lines += [*_sweep_table(sweeps), ""]
    seeds = " ".join(sorted({str(run.settings["seed"]) for run in runs}))
    options = f"--seed {seeds} --steps {settings['steps']} --batch {settings['batch']}"
    lines += ["```"]
    for name in dict.fromkeys(run.settings["tier"] for run in sweeps):
        of_tier = [r.settings for r in sweeps if r.settings["tier"] == name]
        rates = " ".join(f"{each['lr']:g}" for each in of_tier)
        asked = f"--steps {of_tier[0]['steps']} --batch {of_tier[0]['batch']}"
        lines += [f"python -m bench.finetune sweep --tier {name} --lr {rates} {asked} --out runs/finetune"]
    lines += [f"python -m bench.finetune run --tier {' '.join(tiers)} {options} --out runs/finetune"]
    lines += ["python -m bench.finetune report runs/finetune --out docs/memory.md --plot docs/finetune_loss.png"]
    lines += ["```", "", f"torch {facts['torch']}, threads: {settings['threads']}."]
    return "\n".join(lines)


def draw(runs: list[Run], path: Path) -> None:
    """Validation loss over steps: the mean of a tier's seeds, and the band between the lowest and the highest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.2))
    for name, members in by_tier(runs).items():
        steps = members[0].curve("validation")[0]
        values = list(zip(*(run.curve("validation")[1] for run in members), strict=True))
        (line,) = axis.plot(steps, [statistics.fmean(v) for v in values], label=f"{name}: {TIERS[name].member.title}")
        axis.fill_between(steps, list(map(min, values)), list(map(max, values)), color=line.get_color(), alpha=0.2)
    axis.set_xlabel("step")
    axis.set_ylabel(f"validation loss, nats (first {VALIDATION_WINDOWS} windows)")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(folder: Path, out: Path, plot: Path | None) -> None:
    """Replace the section of ``out``; raises where no run in ``folder`` is finished."""
    runs, sweeps = finished(folder), finished(folder / "sweep")
    if not runs:
        raise ValueError(f"report: expected finished runs in {folder}, found none")
    check_comparable(runs)
    if plot is not None:
        draw(runs, plot)
    beside = os.path.relpath(plot, out.parent) if plot is not None else None
    sections.replace(out, "finetune", markdown(runs, sweeps, beside), "Memory")
