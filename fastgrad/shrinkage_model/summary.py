"""The tables of ``model.json``, for the screen and for the report: (title, header, rows) each."""

from __future__ import annotations

from typing import Any

import numpy as np

TableRows = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


def tables(result: dict[str, Any]) -> list[TableRows]:
    return [_bounds(result), _floors(result), _other(result)]


def _bounds(result: dict[str, Any]) -> TableRows:
    rows = []
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in result["bounds"]:
        groups.setdefault((row["bound"], row["problem"]), []).append(row)
    groups[("autoscale", "robust, centred")] = result["autoscale"]["bound"]
    for (bound, problem), own in groups.items():
        ratio = np.array([row["measured"] / row["allowed"] for row in own])
        broken = sum(not row["holds"] for row in own)
        rows.append((bound, problem, f"{len({row['index'] for row in own})}", f"{len(own)}", f"{broken}",
                     f"{np.median(ratio):.3f}", f"{ratio.max():.3f}"))  # fmt: skip
    header = ("bound", "problem", "problems", "comparisons", "above the bound", "median measured / bound", "largest")
    return "Measured means against the bounds", header, rows


def _floors(result: dict[str, Any]) -> TableRows:
    rows = [
        (f"{row['q']:g}", f"{row['s_e2']:g}", f"{row['predicted']:.4f}", f"{row['measured']:.4f} ± {row['error']:.4f}")
        for row in result["floors"]
    ]
    header = ("q (constant)", "rounding noise s_e2", "exact floor", "measured")
    return "Stationary error of one quadratic (s2 = 1) at one fixed step", header, rows


def _other(result: dict[str, Any]) -> TableRows:
    still, scores = result["autoscale"]["stationary"], result["autoscale"]["correlation"]
    rows = [
        ("constant q, step mu against full precision, step q mu: largest relative difference of the weights",
         f"{result['equivalence']:.1e}"),
        ("centring: where P grad F = 0, |P grad F|^2", f"{still['projected_gradient2']:.1e}"),
        ("the same point: |grad F|^2", f"{still['gradient2']:.3g}"),
        ("alpha of the same mini-batch: bias of alpha g, in standard errors", f"{scores['same_batch']:.1f}"),
        ("alpha of the step before: the same", f"{scores['lagged']:.1f}"),
    ]  # fmt: skip
    return "Equivalence, and the limits of autoscale's bound", ("what", "value"), rows
