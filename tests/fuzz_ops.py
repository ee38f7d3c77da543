"""Generated calls of every op on every CPU kernel, bit for bit against the PyTorch reference.

    python -m tests.fuzz_ops --calls 20000 --seed 1    # in batches, each on the next instruction set and thread count
    python -m tests.fuzz_ops --only 1234567            # one call again, by the number that a failure printed

Prints what was compared; ends with 1 if any call differs.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

import torch
from contract_backends import CPU_BACKENDS, AnyBackend, reference_running
from contract_bits import assert_same_bits
from op_calls import OpCall, Results, op_call

BATCH = 100


def difference(got: Results, expected: Results, refused: bool) -> str:
    """What is wrong with a call's results; empty if nothing is."""
    if isinstance(expected, str) or isinstance(got, str):
        if got != expected:
            return f"{str(got)[:300]} is not {str(expected)[:300]}"
        return "" if refused and got.startswith("refused: ") else f"should {'' if refused else 'not '}be refused: {got}"
    try:
        assert_same_bits(got, expected, "results")
    except AssertionError as error:
        return str(error)
    return ""


def results_of(call: OpCall) -> Results:
    """Of a call that raises, what it says."""
    try:
        return call.run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def compare(calls: list[OpCall], backend: AnyBackend) -> Iterator[tuple[OpCall, str]]:
    """Every call with what is wrong with it."""
    with reference_running():
        expected = [results_of(call) for call in calls]
    with backend.running():
        got = [results_of(call) for call in calls]
    for call, a, b in zip(calls, got, expected, strict=True):
        yield call, difference(a, b, call.refused)


def fuzz(numbers: list[int], backends: tuple[AnyBackend, ...], show=print) -> collections.Counter[str]:
    """Counts by op, and under "wrong" those that differ, which are shown."""
    counts: collections.Counter[str] = collections.Counter()
    for k, backend in zip(range(0, len(numbers), BATCH), itertools.cycle(backends), strict=False):
        for call, wrong in compare([op_call(number) for number in numbers[k : k + BATCH]], backend):
            counts[call.op] += 1
            if wrong:
                counts["wrong"] += 1
                show(f"--only {call.number}, {backend}\n  {call.what}\n  {wrong}")
    return counts


def numbers_of(seed: int, count: int) -> list[int]:
    return torch.randint(0, 2**62, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of calls, on every backend")
    arguments = parser.parse_args()
    if not CPU_BACKENDS:
        print("the native module is not built: there is nothing to compare")
        return 2
    start = time.monotonic()
    if arguments.only:
        counts = sum((fuzz(arguments.only, (backend,)) for backend in CPU_BACKENDS), collections.Counter())
    else:
        counts = fuzz(numbers_of(arguments.seed, arguments.calls), CPU_BACKENDS)
    wrong = counts.pop("wrong", 0)
    print(f"{counts.total():,} calls ({', '.join(f'{n:,} {op}' for op, n in sorted(counts.items()))})")
    backends = ", ".join(map(str, CPU_BACKENDS))
    print(f"on {backends}: {wrong} differ from the reference; {time.monotonic() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
