"""``python -m bench.medclm_training``: memory, time and loss of MedCLM's loop beside the same loop with torch's AdamW.

    medclm phantom-data phantoms --count 3000 --seed 1 && medclm convert phantom --annotations phantoms --out set
    python -m bench.medclm_training run set --out build/training --steps 100 --seeds 0 1 2
    python -m bench.medclm_training run set --out build/times --steps 15 --seeds 0 1 2      # on a quiet machine
    python -m bench.medclm_training report build/training --times build/times --out docs/medclm_training.md

A contestant and seed that is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench import sections
from bench.machine import idle_check
from bench.medclm_training.contestants import CONTESTANTS
from bench.medclm_training.report import markdown

ROOT = Path(__file__).resolve().parents[2]
NO_TIME = 1 << 30


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.medclm_training", description=__doc__.partition("\n")[0])
    commands = made.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train contestants over seeds, each in a process of its own, in turn")
    run.add_argument("set", type=Path)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--model", default="student")
    run.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    run.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    run.add_argument("--steps", type=int, default=100)
    run.add_argument("--batch", type=int, default=4)
    run.add_argument("--lr", type=float, default=1e-4)
    run.add_argument("--evaluate-rows", type=int, default=64, help="of each stage of the val split, at the end")
    run.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    report = commands.add_parser("report", help="markdown of what was run")
    report.add_argument("runs", type=Path)
    report.add_argument("--times", type=Path, help="runs on a quiet machine that seconds are taken from")
    report.add_argument("--out", type=Path, required=True, help="the markdown file whose section is replaced")
    return made


def settings_of(options: argparse.Namespace, seed: int) -> dict:
    """``none`` draws questions and stages by the seed alone, so that all contestants see the same."""
    return dict(
        model=options.model, seed=seed, max_steps=options.steps, batch=options.batch, lr=options.lr,
        final_lr=options.lr / 10, scheduler="none", evaluate_every=options.steps, evaluate_rows=options.evaluate_rows,
        checkpoint_every=NO_TIME,
    )  # fmt: skip


def run(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(options.threads),
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
    }
    for seed in options.seeds:
        for name in options.contestants:
            record = options.out / f"{name}-{seed}.json"
            if record.exists():
                continue
            settings = settings_of(options, seed)
            work = options.out / f"{name}-{seed}"
            shutil.rmtree(work, ignore_errors=True)
            request = {"contestant": name, "set": str(options.set), "run": str(work), "settings": settings}
            made = options.out / "child.json"
            idle = idle_check()
            subprocess.run(
                [sys.executable, "-m", "bench.medclm_training.child", json.dumps(request), str(made)],
                env=environment, check=True, cwd=Path.cwd(),
            )  # fmt: skip
            shutil.rmtree(work)  # weights and states of gigabytes
            found = request | json.loads(made.read_text()) | {"threads": options.threads, "idle": idle}
            record.write_text(json.dumps(found, indent=1) + "\n")
            last = found["validation"][-1]["mean"] if found["validation"] else float("nan")
            peak = (found["peak"] - found["imports"]) / 2**20
            print(f"{name}, seed {seed}: {peak:,.0f} MiB, {found['seconds']:.2f} s a step, loss {last:.4f}", flush=True)


def main() -> None:
    options = parser().parse_args()
    if options.command == "run":
        run(options)
    else:
        text = markdown(options.runs, options.times)
        sections.replace(options.out, "training memory", text, "Training on a MedCLM set")
        print(text)


if __name__ == "__main__":
    main()
