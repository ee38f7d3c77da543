"""What changed between two runs, beyond what a run scatters."""

from __future__ import annotations

from bench.results import Record, Result, key, milliseconds, noise


def compare(new: Record, old: Record) -> list[str]:
    """Changes of the median beyond both spreads, slower ones first.

    The quartile ranges do not touch, and the change is larger than the noise of the two machines together.
    """
    before, changes = _by_key(old), []
    scatter = [noise(record) for record in (new, old)]
    for place, r in _by_key(new).items():
        was = before.get(place)
        if was is None or not (r["q1"] > was["q3"] or r["q3"] < was["q1"]):
            continue
        factor = r["median"] / was["median"]
        noisy = sum(found.get(place[:4], 0.0) for found in scatter)
        if max(factor, 1 / factor) - 1 <= noisy:
            continue
        word = "slower" if factor > 1 else "faster"
        times = f"{milliseconds(was['median'])} -> {milliseconds(r['median'])} ms"
        changes.append((-factor, f"{word} x{factor:.2f}: {' '.join(map(str, place))}: {times}"))
    lines = [line for _, line in sorted(changes)]
    differing = [n for n in ("cpu", "torch", "python") if new["machine"].get(n) != old["machine"].get(n)]
    if differing:
        lines.insert(0, f"not the same {', '.join(differing)}: changes may not be those of fastgrad")
    return lines


def _by_key(record: Record) -> dict[tuple[object, ...], Result]:
    """By list, dtype, instruction set, threads, row and contestant; the probe is no contestant."""
    # Records before format 2 named the instruction set of all their results with the machine.
    isa = {"isa": str(record["machine"].get("fastgrad kernels", "")).partition(",")[0]}
    return {
        (*key(isa | r), r["contestant"]): r for r in record["results"] if "median" in r and r["kind"] != "probe"
    }
