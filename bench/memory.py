"""``python -m bench.memory``: bytes per parameter, persistent and at the peak, and the speed of full training.

    python -m bench.memory --shape llama-135m --json build/memory.json
    python -m bench.memory --shape llama-1.1b --contestants adamw-bf16,fastgrad-leanest --json build/memory.json
    python -m bench.memory report build/memory.json --out docs/memory.md

A file that exists is added to; a contestant measured again takes the place of its earlier row.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path

from bench import machine, sections
from bench.memory_tiers import report, watch
from bench.memory_tiers.contestants import CONTESTANTS
from bench.memory_tiers.shapes import SHAPES
from bench.run import names
from fastgrad.replacing import replacing

TITLE = "Memory"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__.partition("\n")[0])
    made.add_argument("--shape", choices=SHAPES, required=True)
    made.add_argument("--contestants", type=names(CONTESTANTS), default=list(CONTESTANTS), metavar="A,B,...")
    made.add_argument("--json", type=Path, required=True, help="the record, added to where it exists")
    made.add_argument("--steps", type=int, default=4, help="two at least: the first is not in the median")
    made.add_argument("--length", type=int, default=128, help="tokens")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--timeout", type=float, default=1800.0, help="seconds for one contestant")
    return made


def report_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.memory report", description="a record as markdown")
    made.add_argument("record", type=Path)
    made.add_argument("--out", type=Path, required=True, help="the markdown file whose section is replaced")
    return made


def read(path: Path) -> dict:
    if path.exists():
        return json.loads(path.read_text())
    return {"commands": [], "results": []}


def say(result: dict) -> None:
    if result["failed"]:
        print(f"{result['contestant']}: {result['failed']}", flush=True)
        return
    n = result["parameters"]
    print(
        f"{result['contestant']}: persistent {result['persistent'] / n:.3f} B, all-in peak "
        f"{result['all-in peak'] / n:.3f} B, {result['seconds']['step']['wall']:.2f} s per step",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["report"]:
        options = report_parser().parse_args(arguments[1:])
        sections.replace(options.out, "memory", report.markdown(json.loads(options.record.read_text())), TITLE)
        return
    made = parser()
    options = made.parse_args(arguments)
    if options.steps < 2:
        made.error(f"--steps: expected at least 2, got {options.steps}")
    record = read(options.json)
    record["commands"].append(f"python -m bench.memory {shlex.join(arguments)}")
    record["machine"] = machine.description()
    record["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for name in options.contestants:
        result = watch.run(
            name, options.shape, steps=options.steps, length=options.length, threads=options.threads,
            timeout=options.timeout,
        )  # fmt: skip
        say(result)
        earlier = [r for r in record["results"] if (r["contestant"], r["shape"]) != (name, options.shape)]
        record["results"] = [*earlier, result]
        with replacing(options.json, "w") as file:
            json.dump(record, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
