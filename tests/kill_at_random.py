"""kill -9 at random moments: what was killed goes on by the same call and ends in the same bits.

    python -m tests.kill_at_random --kills 300 --seed 1            # a third each of the three
    python -m tests.kill_at_random --kills 40 --only train         # cifar, convert, train

A run is begun, killed after a random part of the time that it takes, begun again, until it ends by itself; then what it
left is compared with that of a run that nobody killed, and the next one begins. Prints what was done; ends with 1 where
a run ended in an error or in other bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

import torch
from small_cases import files_of, small_cases, small_settings

from fastgrad.cifar.config import Config
from fastgrad.cifar.train import train as train_cifar
from medclm.pipeline import convert_cases
from medclm.problems import Problems
from medclm.training.loop import train as train_medclm
from medclm.training.settings import Settings

# Of every child, whose main module the server has imported under its own name.
warnings.filterwarnings("ignore", message="'tests.kill_at_random' found in sys.modules", category=RuntimeWarning)
_server = multiprocessing.get_context("forkserver")  # it has imported everything once, and has no threads
_server.set_forkserver_preload(["tests.kill_at_random", "medclm.models.tiny"])
_OF_THE_CLOCK = ("seconds", "memory")  # of a line in a log


@dataclass(frozen=True)
class Victim:
    """run: (work folder, output folder) begins or goes on. digest: of the output folder."""

    run: Callable[[Path, Path], None]
    digest: Callable[[Path], str]


def _cifar(work: Path, out: Path) -> None:
    torch.set_num_threads(1)
    config = Config(data="digits", model="small", epochs=40, batch_size=32, threads=1, device="cpu", limit_train=400,
                    normalize="autoscale", grad_format="fp8_e4m3")  # fmt: skip
    train_cifar(config, out, resume=(out / "config.json").exists(), say=lambda line: None)


def _digest_cifar(out: Path) -> str:
    weights = torch.load(out / "checkpoint.pt", weights_only=True)["model"]
    state = hashlib.sha256()
    for name in sorted(weights):
        state.update(name.encode() + weights[name].numpy().tobytes())
    return state.hexdigest()


def _convert(work: Path, out: Path) -> None:
    cases = small_cases(work / "images", 40, size=256)
    convert_cases(iter(cases), out, small_settings(shard_cases=2), Problems(), workers=2)


def _digest_convert(out: Path) -> str:
    state = hashlib.sha256()
    for name, content in files_of(out).items():
        state.update(name.encode() + content)
    return state.hexdigest()


def _train(work: Path, out: Path) -> None:
    torch.set_num_threads(1)
    settings = Settings(model="tiny", epochs=100, max_steps=24, batch=2, lr=1e-3, evaluate_every=8, evaluate_rows=2,
                        checkpoint_every=3)  # fmt: skip
    train_medclm(work / "set", out, settings, show=False)


def _digest_train(out: Path) -> str:
    state = hashlib.sha256((out / "checkpoint" / "model.safetensors").read_bytes())
    for line in (out / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        state.update(json.dumps({name: v for name, v in entry.items() if name not in _OF_THE_CLOCK}).encode())
    return state.hexdigest()


VICTIMS = {
    "cifar": Victim(_cifar, _digest_cifar),
    "convert": Victim(_convert, _digest_convert),
    "train": Victim(_train, _digest_train),
}


def _run(victim: str, work: Path, out: Path) -> None:
    sys.stdout = open(os.devnull, "w")  # of progress
    VICTIMS[victim].run(work, out)


def _begin(victim: str, work: Path, out: Path) -> multiprocessing.process.BaseProcess:
    process = _server.Process(target=_run, args=(victim, work, out))
    process.start()
    return process


def attack(victim: str, kills: int, rng: random.Random, work: Path) -> tuple[int, int, list[str]]:
    """(runs that ended, kills, what went wrong)."""
    expected, whole = "", 0.0
    # The second finds caches filled: its time is what counts.
    for straight in (work / "first" / "out", work / "second" / "out"):
        straight.parent.mkdir()  # the name of a set is in its card: all are called the same
        began = time.perf_counter()
        process = _begin(victim, work, straight)
        process.join()
        whole = time.perf_counter() - began
        if process.exitcode != 0:
            return 0, 0, [f"the run that nobody kills ended with {process.exitcode}"]
        if expected not in ("", digest := VICTIMS[victim].digest(straight)):
            return 0, 0, ["two runs that nobody killed ended in different bits"]
        expected = digest
    ended = killed = 0
    wrong = []
    while killed < kills and not wrong:
        out = work / f"run{ended}" / "out"
        out.parent.mkdir()
        while True:
            process = _begin(victim, work, out)
            process.join(rng.uniform(0.0, whole) if killed < kills else None)
            if process.exitcode is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        if process.exitcode != 0:
            wrong.append(f"after {killed} kills a run ended with {process.exitcode}: {out} is left as it was")
        elif VICTIMS[victim].digest(out) != expected:
            wrong.append(f"after {killed} kills a run ended in other bits: {out} is left as it was")
        else:
            shutil.rmtree(out.parent)
        ended += 1
    return ended, killed, wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill_at_random", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=300, help="of all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    options = parser.parse_args(arguments)
    failed = False
    work = Path(tempfile.mkdtemp(prefix="kill-at-random-"))
    convert_cases(iter(small_cases(work / "images", 24)), work / "set", small_settings(), Problems(), workers=1)
    shutil.rmtree(work / "images")
    for number, victim in enumerate(options.only):
        share = options.kills * (number + 1) // len(options.only) - options.kills * number // len(options.only)
        own = work / victim
        own.mkdir()
        if (work / "set").exists():
            (own / "set").symlink_to(work / "set")
        began = time.perf_counter()
        ended, killed, wrong = attack(victim, share, random.Random(f"{options.seed} {victim}"), own)
        print(f"{victim}: {killed} kills, {ended} runs ended, {time.perf_counter() - began:.0f} s: "
              f"{'; '.join(wrong) or 'the same bits'}", flush=True)  # fmt: skip
        failed |= bool(wrong)
    if not failed:
        shutil.rmtree(work)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
