"""Results of a run and how they belong together: by list, dtype, instruction set, threads and row."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

Record = dict[str, object]
Result = dict[str, object]

PLACE = ("list", "dtype", "isa", "threads")  # where a row was measured


def place_of(result: Result) -> tuple[object, ...]:
    """Records before format 2 were of float32 and did not say the instruction set."""
    complete = {"dtype": "fp32", "isa": ""} | result
    return tuple(complete[part] for part in PLACE)


def key(result: Result) -> tuple[object, ...]:
    """What a floor is a floor of."""
    return (*place_of(result), result["row"])


def setting(result: Result) -> str:
    """dtype, instruction set and threads in words."""
    threads = f"{result['threads']} thread{'s' * (result['threads'] != 1)}"
    return ", ".join(filter(None, (result.get("dtype", "fp32"), result.get("isa", ""), threads)))


def groups(results: Iterable[Result]) -> dict[tuple[object, ...], list[Result]]:
    found: dict[tuple[object, ...], list[Result]] = {}
    for result in results:
        found.setdefault(key(result), []).append(result)
    return found


def floor_of(record: Record, result: Result) -> float | None:
    """The floor of a result's row, in seconds."""
    return fastest_floor([r for r in record["results"] if key(r) == key(result)])


def fastest_floor(group: list[Result]) -> float | None:
    return min((r["median"] for r in group if r["kind"] == "floor" and not r["failed"]), default=None)


def noise(record: Record) -> dict[tuple[object, ...], float]:
    """How far the probe's medians scatter over the rows of a place: their range over their median.

    A tenth at either end is left out where there are enough rows.
    """
    probes: dict[tuple[object, ...], list[float]] = {}
    for r in record["results"]:
        if r["kind"] == "probe" and "median" in r:
            probes.setdefault(place_of(r), []).append(r["median"])
    found = {}
    for place, medians in probes.items():
        medians.sort()
        cut = len(medians) // 10
        kept = medians[cut : len(medians) - cut]
        found[place] = (kept[-1] - kept[0]) / statistics.median(kept)
    return found


def milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
