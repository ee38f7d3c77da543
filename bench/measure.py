"""Interleaved timing: rounds over all contestants, samples that others disturbed are taken again."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from bench.machine import Others

DISTURBED = 0.10  # share of all CPUs used by others, above which a sample is dropped
FEWEST = 2  # samples even of a contestant that is over its budget
ENDLESS = 3.0  # seconds of a call of which one sample does: that it is out of the race is known
SLOW = 0.3  # seconds of a call that is a sample from the first, and is not taken again whatever others did


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

    def add(self, seconds: float, share: float) -> None:
        """share: of the CPUs, used by others meanwhile."""
        self.disturbed += share > DISTURBED
        self.samples.append(seconds)
        self.others.append(round(share, 3))

    def record(self) -> dict[str, object]:
        low, middle, high = self.quartiles()
        return asdict(self) | {"q1": low, "median": middle, "q3": high}


def calls_per_sample(call: Callable[[], object], seconds: float) -> tuple[int, list[float]]:
    """How many calls last at least ``seconds``, and the calls that it took to know.

    The fastest of three says how long one takes.
    """
    tried: list[float] = []
    for _ in range(3):
        begin = time.perf_counter()
        call()
        tried.append(time.perf_counter() - begin)
        if tried[-1] > seconds:
            break
    return max(1, math.ceil(seconds / min(tried))), tried


def measure(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    seconds: float = 0.05,  # per sample
    budget: float = 0.6,  # per contestant; once spent, FEWEST samples are enough
    others: Others | None = None,
    tries: int = 3,  # per sample
) -> dict[str, Timing]:
    """The gate has called everything once: a call of 2 s is made three times in all, with its two samples here, one of
    more than ENDLESS twice."""
    others = others or Others()
    timings: dict[str, Timing] = {}
    spent = dict.fromkeys(calls, 0.0)
    for name, call in calls.items():
        others.start()
        count, tried = calls_per_sample(call, seconds)
        timings[name] = timing = Timing(count)
        if tried[-1] > SLOW:  # a sample already
            share = others.share()
            timing.add(tried[-1], share)
            spent[name] = tried[-1]
    names = list(calls)
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            timing, call = timings[name], calls[name]
            fewest = 1 if timing.samples and timing.samples[0] > ENDLESS else FEWEST
            if spent[name] > budget and len(timing.samples) >= fewest:
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
                if share <= DISTURBED or attempt == tries - 1 or elapsed > SLOW:
                    break
                timing.dropped += 1
            timing.add(elapsed / timing.calls, share)
    return timings
