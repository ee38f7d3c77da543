"""Interleaved timing: rounds over all contestants, samples that others disturbed are taken again."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from bench.machine import Others

DISTURBED = 0.10  # share of all CPUs used by others, above which a sample is dropped
FEWEST = 5  # samples even of a contestant that is over its budget


@dataclass
class Timing:
    """Seconds per call. A sample is the mean of ``calls`` calls, after one that is not timed."""

    calls: int = 1
    samples: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)  # share of the CPUs used by others, per sample
    dropped: int = 0
    disturbed: int = 0  # kept in spite of others, after too many drops

    def quartiles(self) -> tuple[float, float, float]:
        if len(self.samples) == 1:
            return (self.samples[0],) * 3
        low, middle, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, middle, high

    def record(self) -> dict[str, object]:
        low, middle, high = self.quartiles()
        return asdict(self) | {"q1": low, "median": middle, "q3": high}


def calls_per_sample(call: Callable[[], object], seconds: float) -> int:
    """How many calls last at least ``seconds``; the fastest of three says how long one takes."""
    fastest = math.inf
    for _ in range(3):
        begin = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - begin)
        if fastest > seconds:
            break
    return max(1, math.ceil(seconds / fastest))


def measure(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    seconds: float = 0.1,  # per sample
    budget: float = 4.0,  # per contestant; once spent, FEWEST samples are enough
    others: Others | None = None,
    tries: int = 3,  # per sample
) -> dict[str, Timing]:
    others = others or Others()
    timings = {name: Timing(calls_per_sample(call, seconds)) for name, call in calls.items()}
    spent = dict.fromkeys(calls, 0.0)
    names = list(calls)
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            timing, call = timings[name], calls[name]
            if spent[name] > budget and len(timing.samples) >= FEWEST:
                continue
            for attempt in range(tries):
                if timing.calls > 1:  # the caches are those of a repeated call
                    call()
                others.start()
                begin = time.perf_counter()
                for _ in range(timing.calls):
                    call()
                elapsed = time.perf_counter() - begin
                share = others.share()
                spent[name] += elapsed
                if share <= DISTURBED or attempt == tries - 1:
                    break
                timing.dropped += 1
            timing.disturbed += share > DISTURBED
            timing.samples.append(elapsed / timing.calls)
            timing.others.append(round(share, 3))
    return timings
