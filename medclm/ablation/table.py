"""``ablation.md``: what came out, arm by arm."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medclm.evaluation.bootstrap import interval, paired_difference
from medclm.schema import STAGES

if TYPE_CHECKING:
    from medclm.ablation.comparison import Run

# (heading, profile, metric, stages): what is read off the answers.
COLUMNS = (
    ("accuracy", "strict", "accuracy", STAGES),
    ("accuracy, easy", "strict", "accuracy", ("easy",)),
    ("accuracy, medium", "strict", "accuracy", ("medium",)),
    ("accuracy, hard", "strict", "accuracy", ("hard",)),
    ("box IoU, easy", "boxes", "box_iou", ("easy",)),
    ("box IoU, medium", "boxes", "box_iou", ("medium",)),
)


def table(runs: Sequence[Run], unseen: Run | None = None) -> str:
    """Losses of the val split and, where the runs were asked, scores of the test split and differences to the first
    arm.

    unseen: the questions as answered without a look at the image; in the table of scores only.
    """
    arms: dict[str, list[Run]] = {}
    for run in runs:
        arms.setdefault(run.arm, []).append(run)
    seeds = len({run.seed for run in runs})
    lines = [*_losses(arms, seeds)]
    if all(run.questions for run in runs):
        lines += ["", *_scores(arms | ({unseen.arm: [unseen]} if unseen else {}), seeds)]
        if len(arms) > 1:
            lines += ["", *_differences(arms)]
    return "\n".join(lines) + "\n"


def _losses(arms: dict[str, list[Run]], seeds: int) -> list[str]:
    lines = [
        f"Loss on the val split by stage, {seeds} seeds: mean (standard deviation). A stage that an arm never asks for "
        "is not looked at.",
        "",
        f"| arm | {' | '.join(STAGES)} | shown {'/'.join(STAGES)} |",
        "|---|" + "--:|" * (len(STAGES) + 1),
    ]
    for arm, runs in arms.items():
        results = [run.result for run in runs]
        cells = [
            _spread([r["validation"][stage] for r in results if r["validation"] and stage in r["validation"]], "{:.4f}")
            for stage in STAGES
        ]
        shown = "/".join(f"{statistics.mean(r['shown'][stage] for r in results):.0f}" for stage in STAGES)
        lines.append(f"| {arm} | {' | '.join(cells)} | {shown} |")
    return lines


def _scores(arms: dict[str, list[Run]], seeds: int) -> list[str]:
    questions = next(iter(arms.values()))[0].questions
    lines = [
        f"Percent on the {len(questions):,} questions of the test split: mean of {seeds} seeds (standard deviation "
        "over them), and the 95 % interval of that mean over patients.",
        "",
        f"| arm | {' | '.join(heading for heading, *_ in COLUMNS)} |",
        "|---|" + "--:|" * len(COLUMNS),
    ]
    for arm, runs in arms.items():
        cells = []
        for _, profile, metric, stages in COLUMNS:
            each = [_values(run, profile, metric, stages) for run in runs]
            means = [statistics.mean(found.values()) for found in each if found]
            if not means:
                cells.append("")
                continue
            values, clusters = _of_all_seeds(runs, profile, metric, stages)
            of_mean = interval(list(values.values()), [clusters[id] for id in values])
            cells.append(f"{_spread([100 * mean for mean in means], '{:.1f}')}<br>{of_mean.ends()}")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def _differences(arms: dict[str, list[Run]]) -> list[str]:
    (first, base), *others = arms.items()
    lines = [
        f"Difference from `{first}` in percentage points, seeds averaged, the same questions resampled together by "
        "patient: mean, 95 % interval. Differences among seeds are not in the interval.",
        "",
        f"| arm | {' | '.join(heading for heading, *_ in COLUMNS)} |",
        "|---|" + "--:|" * len(COLUMNS),
    ]
    for arm, runs in others:
        cells = []
        for _, profile, metric, stages in COLUMNS:
            before, clusters = _of_all_seeds(base, profile, metric, stages)
            after, _ = _of_all_seeds(runs, profile, metric, stages)
            ids = [id for id in before if id in after]
            if not ids:
                cells.append("")
                continue
            found = paired_difference(
                [before[id] for id in ids], [after[id] for id in ids], [clusters[id] for id in ids]
            )
            cells.append(f"{100 * found.mean:+.1f}<br>{found.ends('+.1f')}")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def _values(run: Run, profile: str, metric: str, stages: Sequence[str]) -> dict[str, float]:
    """Question -> score."""
    found = {row["id"]: row["scores"].get(profile, {}).get(metric) for row in run.questions if row["stage"] in stages}
    return {id: value for id, value in found.items() if value is not None}


def _of_all_seeds(
    runs: Sequence[Run], profile: str, metric: str, stages: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """(question -> mean over seeds, question -> patient)."""
    each = [_values(run, profile, metric, stages) for run in runs]
    values = {id: statistics.mean(found[id] for found in each) for id in each[0]}
    return values, {row["id"]: row["cluster"] for row in runs[0].questions}


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    spread = f" ({form.format(statistics.stdev(values))})" if len(values) > 1 else ""
    return form.format(statistics.mean(values)) + spread
