"""The whole study, its files, and what they hold.

``shrinkage_model.json``: an object with

    command      the options: problems, repetitions, steps, seed
    z            standard errors within which a mean counts as undecided (see verdicts.py)
    comparisons  of a mean with a bound, in all; they share a level of 1/1000
    summary      list, one per family and bound:
                     family            "quadratic", "logistic" or "robust"
                     bound, what       "(1)" to "(4)" (fastgrad.theory.bounds) or "autoscale"; the same in words
                     problems, comparisons
                     below             comparisons with mean <= bound
                     holds, undecided, violated      how many have this verdict (see verdicts.py)
                     tightest          largest mean/bound, the first iterate left out
                     median            of mean/bound at the last checkpoint
                     exact_known       comparisons whose expectation is known exactly
                     exact_below       of these, how many expectations are <= bound
                     exact_tightest    largest expectation/bound, the first iterate left out; null: none known
                     exact_far         largest |mean - expectation| in standard errors; null: none known
    problems     list, one per problem and bound: family, bound, problem (a number), L, c (null: not convex, or not
                 used), s2; for (1) to (4) q ("constant", "uniform", "two-point"), q_min, q_max, noise ("none",
                 "gaussian", "rounding"), s_e2, and of step, beta, gamma, exponent those that were chosen; for
                 autoscale rule, a_min, a_max, step; then
                     ratio             mean/bound at the last checkpoint
                     largest_ratio     over all checkpoints but the first iterate
                     below             whether all means are <= bound
                     verdict           the worst one
    floors       list: q, s_e2 (in units of s2), step (of 1/L), measured, error, exact, bound: the gap that is left,
                 see floors.py
    slowdowns    list: q, steps, compensated, ratio, bound: see floors.py
    rates        list: beta_c_q, measured, expected: exponents p of k^-p, see floors.py
    standstill   projected, whole, expected, bound, mean_projected, mean_whole: limit (i) of autoscaling, see limits.py
    correlation  list: rule ("lagged", "same"), bias (in units of s), mean, error, bound, verdict (at the last
                 checkpoint): limit (ii) of autoscaling, see limits.py

``shrinkage_model.csv``: every comparison; family, bound, problem, k (the iterate, or the number of steps averaged),
mean, error, limit (the bound), exact (empty where unknown), verdict.

The bounds are derived, the figures simulated, both by us; nothing in the files is a paper's number.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastgrad.shrinkage_model import autoscale, bounded, floors, limits, problems, treatment
from fastgrad.shrinkage_model.verdicts import VERDICTS, Measured, z_of

MAKE: dict[str, Callable[[int, int], Any]] = {
    "quadratic": problems.quadratics,
    "logistic": problems.logistic_regressions,
    "robust": problems.robust_regressions,
}
# A quadratic is a smooth loss, too, and has exact expectations.
PARTS = (
    ("quadratic", ("(1)", "(2)", "(3)", "(4)", "autoscale")),
    ("logistic", ("(1)", "(2)")),
    ("robust", ("(3)", "(4)", "autoscale")),
)
AUTOSCALE_LAYERS = {
    "quadratic": autoscale.Layers((4, 3, 1), (True, True, False)),
    "robust": autoscale.Layers((3, 2, 1), (True, True, False)),
}
JSON, CSV = "shrinkage_model.json", "shrinkage_model.csv"


@dataclass
class Part:
    """One family against one bound."""

    family: str
    bound: str
    rows: list[dict[str, Any]]  # [N], the constants and choices of each problem
    measured: Measured
    exact: np.ndarray  # [N, M], NaN where unknown


def run(
    count: int, repetitions: int, steps: int, seed: int, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """The study of ``count`` problems per family: the content of the JSON file, and under "parts" what was compared."""
    parts = []
    for family, bounds in PARTS:
        some = MAKE[family](seed, count)
        for bound in bounds:
            progress(f"{family} {bound}")
            run_part = _autoscaled if bound == "autoscale" else _bounded
            parts.append(run_part(family, bound, some, steps, repetitions, seed))
    comparisons = sum(part.measured.mean.size for part in parts)
    z = z_of(comparisons)
    progress("floors")
    found_floors = floors.floors(seed, min(repetitions, 100))
    progress("limits of autoscaling")
    found_correlation = limits.correlation(seed, min(repetitions, 50))
    return {
        "command": {"problems": count, "repetitions": repetitions, "steps": steps, "seed": seed},
        "z": z,
        "comparisons": comparisons,
        "summary": [_summary(part, z) for part in parts],
        "problems": [row for part in parts for row in _rows(part, z)],
        "floors": [dataclasses.asdict(row) for row in found_floors],
        "slowdowns": [dataclasses.asdict(row) for row in floors.slowdowns()],
        "rates": [dataclasses.asdict(row) for row in floors.rates()],
        "standstill": dataclasses.asdict(limits.standstill()),
        "correlation": [_correlation(row, z) for row in found_correlation],
        "parts": parts,
    }


def write(study: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Both files, in ``folder``, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {name: value for name, value in study.items() if name != "parts"}
    (folder / JSON).write_text(json.dumps(content, indent=1) + "\n")
    with (folder / CSV).open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("family", "bound", "problem", "k", "mean", "error", "limit", "exact", "verdict"))
        for part in study["parts"]:
            out.writerows(_lines(part, study["z"]))
    return folder / JSON, folder / CSV


def _bounded(family: str, bound: str, some: problems.Problems, steps: int, repetitions: int, seed: int) -> Part:
    treated = treatment.treatments(seed, some)
    found = bounded.experiment(bound, some, treated, count=steps, repetitions=repetitions, seed=seed)
    rows = [
        {
            **dataclasses.asdict(found.constants[i]),
            "q": treated.q[i],
            "noise": treated.noise[i],
            **found.chosen[i],
        }
        for i in range(len(found.constants))
    ]
    return Part(family, bound, rows, found.measured, found.exact)


def _autoscaled(family: str, bound: str, some: problems.Problems, steps: int, repetitions: int, seed: int) -> Part:
    # Of the rules that the bound allows, the one that is used; the tests run both.
    found = autoscale.experiment(
        some, AUTOSCALE_LAYERS[family], "lagged", count=steps, repetitions=repetitions, seed=seed
    )
    rows = [
        {
            "L": float(some.L[i]),
            "c": None,
            "s2": float(some.s2[i]),
            "rule": found.rule,
            "a_min": float(found.a_min[i]),
            "a_max": float(found.a_max[i]),
            "step": float(found.steps[i]),
        }
        for i in range(len(found.steps))
    ]
    return Part(family, bound, rows, found.measured, np.full_like(found.measured.mean, np.nan))


def _summary(part: Part, z: float) -> dict[str, Any]:
    measured, verdicts = part.measured, part.measured.verdicts(z)
    known = ~np.isnan(part.exact)
    later = known & (measured.at > 1)
    exact_ratio = part.exact[later] / measured.bound[later]
    strayed = np.abs(measured.mean - part.exact)[later] / np.maximum(measured.error[later], 1e-300)
    some = measured.error[later] > 1e-9 * measured.mean[later]  # else it is a comparison of roundings
    return {
        "family": part.family,
        "bound": part.bound,
        "what": bounded.BOUNDS.get(part.bound, "projected gradient, alpha lagged"),
        "problems": len(part.rows),
        "comparisons": verdicts.size,
        "below": int(measured.below.sum()),
        **{name: int((verdicts == name).sum()) for name in VERDICTS},
        "tightest": float(measured.ratio[:, measured.at > 1].max()),
        "median": float(np.median(measured.ratio[:, -1])),
        "exact_known": int(known.sum()),
        "exact_below": int((part.exact <= measured.bound * (1 + 1e-12))[known].sum()),
        "exact_tightest": float(exact_ratio.max()) if later.any() else None,
        "exact_far": float(strayed[some].max()) if some.any() else None,
    }


def _rows(part: Part, z: float) -> list[dict[str, Any]]:
    measured, verdicts = part.measured, part.measured.verdicts(z)
    return [
        {
            "family": part.family,
            "bound": part.bound,
            "problem": i,
            **row,
            "ratio": float(measured.ratio[i, -1]),
            "largest_ratio": float(measured.ratio[i, measured.at > 1].max()),
            "below": bool(measured.below[i].all()),
            "verdict": max(verdicts[i].tolist(), key=VERDICTS.index),
        }
        for i, row in enumerate(part.rows)
    ]


def _lines(part: Part, z: float) -> list[tuple[Any, ...]]:
    measured, verdicts = part.measured, part.measured.verdicts(z)
    return [
        (
            part.family,
            part.bound,
            i,
            int(k),
            *(f"{value[i, j]:.6g}" for value in (measured.mean, measured.error, measured.bound)),
            "" if np.isnan(part.exact[i, j]) else f"{part.exact[i, j]:.6g}",
            verdicts[i, j],
        )
        for i in range(len(part.rows))
        for j, k in enumerate(measured.at)
    ]


def _correlation(row: limits.Correlation, z: float) -> dict[str, Any]:
    measured = row.measured
    return {
        "rule": row.rule,
        "bias": row.bias,
        "mean": float(measured.mean[0, -1]),
        "error": float(measured.error[0, -1]),
        "bound": float(measured.bound[0, -1]),
        "verdict": str(measured.verdicts(z)[0, -1]),
    }
