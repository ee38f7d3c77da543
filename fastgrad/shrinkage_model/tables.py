"""The study as tables, for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

TableParts = tuple[str, tuple[str, ...], list[tuple[str, ...]]]  # title, columns, rows


def tables(study: dict[str, Any]) -> Iterator[TableParts]:
    """Bounds, floors, slowdown, rates, and the limits of autoscaling."""
    words = {row["bound"]: row["what"] for row in study["summary"]}
    yield _table(
        f"mean over {study['command']['repetitions']} repetitions / bound (derived by us): "
        + "; ".join(f"{bound} {what}" for bound, what in words.items()),
        ("family", "bound", "below", "holds", "undecided", "violated", "largest", "median"),
        (
            (
                row["family"],
                row["bound"],
                f"{row['below']}/{row['comparisons']}",
                *(row[name] for name in ("holds", "undecided", "violated")),
                f"{row['tightest']:.3f}",
                f"{row['median']:.4f}",
            )
            for row in study["summary"]
        ),
    )
    yield _table(
        "floor of a quadratic (20 dimensions, L = 1, c = 1/10, s2 = 1)",
        ("step L", "E|eps|^2 / s2", "q", "measured", "exact", "bound"),
        (
            (
                f"{row['step']:g}",
                f"{row['s_e2']:g}",
                f"{row['q']:g}",
                f"{row['measured']:.4f} ± {row['error']:.4f}",
                f"{row['exact']:.4f}",
                f"{row['bound']:.3f}",
            )
            for row in study["floors"]
        ),
    )
    yield _table(
        "steps to a thousandth of the first gap, no noise, same quadratic, mu = 1/(2L)",
        ("q", "at step mu", "times q = 1", "bound's ratio", "at step mu/q"),
        (
            (f"{row['q']:g}", row["steps"], f"{row['ratio']:.2f}", f"{row['bound']:.2f}", row["compensated"])
            for row in study["slowdowns"]
        ),
    )
    yield _table(
        "exponent p of the gap ~ k^-p, mu_k = beta/(gamma + k), q = 1/4",
        ("beta c q", "measured", "min(1, 2 beta c q)"),
        ((f"{row['beta_c_q']:g}", f"{row['measured']:.3f}", f"{row['expected']:g}") for row in study["rates"]),
    )
    yield _table(
        "autoscale: alpha of an earlier step, alpha of the same mini-batch",
        ("alpha", "|E[alpha P g]| / s at the minimum", "mean |P grad F|^2", "bound", "verdict"),
        (
            (
                row["rule"],
                f"{row['bias']:.3f}",
                f"{row['mean']:.4f} ± {row['error']:.4f}",
                f"{row['bound']:.4f}",
                row["verdict"],
            )
            for row in study["correlation"]
        ),
    )
    still = study["standstill"]
    yield _table(
        "autoscale: where the method stands still",
        ("|P grad F|^2 at the end", "|grad F|^2 at the end"),
        ((f"{still['projected']:.2g}", f"{still['whole']:.4g}"),),
    )


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> TableParts:
    return title, columns, [tuple(map(str, row)) for row in rows]
