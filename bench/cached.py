"""What a call takes where memory takes nothing: the time of its instructions.

Two tensors that lie in the second cache, of 5,376 and 40,704 elements, one thread. The difference of their times is
that of 35,328 elements without the call itself: Python, the dispatcher, the outputs.
"""

from __future__ import annotations

from bench.results import Record, Result

SMALL, LARGE = "cached_small", "cached_large"  # of bench.shapes.LISTS
CACHED = (SMALL, LARGE)


def is_cached(result: Result) -> bool:
    return result["list"] in CACHED


def per_element(record: Record, result: Result) -> float | None:
    """Seconds of one thread for an element of what a result is of; None where a run did not measure it."""
    found = {
        r["list"]: r
        for r in record["results"]
        if is_cached(r)
        and "median" in r
        and r["threads"] == 1
        and all(r[part] == result[part] for part in ("row", "contestant", "dtype", "isa"))
    }
    if len(found) != 2:
        return None
    small, large = found[SMALL], found[LARGE]
    return max(0.0, large["median"] - small["median"]) / (large["elements"] - small["elements"])


def instructions_alone(record: Record, result: Result) -> float | None:
    """Seconds that the elements of a result would take its threads, were all of them in the cache."""
    one = per_element(record, result)
    return None if one is None else one * result["elements"] / result["threads"]
