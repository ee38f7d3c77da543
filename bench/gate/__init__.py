"""The correctness gate: what a contestant computed, against float64, before any clock runs."""

from bench.gate.call import Call, Wrong, nothing, require, run, sample
from bench.gate.normalized import mapped, moments, norms
from bench.gate.rounding import restored, rounded
from bench.gate.steps import chain, momentum, two_steps

__all__ = [
    "Call",
    "Wrong",
    "chain",
    "mapped",
    "moments",
    "momentum",
    "norms",
    "nothing",
    "require",
    "restored",
    "rounded",
    "run",
    "sample",
    "two_steps",
]
