"""Runs of all arms and seeds, trained and asked the same questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medclm.ablation.arms import ARMS
from medclm.ablation.table import table
from medclm.problems import DataError
from medclm.training.settings import Settings
from medclm.whole_files import write_whole

ASKED = 64  # questions side by side


@dataclass(frozen=True)
class Run:
    """result: of ``train.json``. questions: of ``questions.jsonl``, every question of the test split with its scores;
    empty where it was not asked."""

    arm: str
    seed: int
    result: dict
    questions: Sequence[dict] = ()


def compare(
    folder: Path,
    out: Path,
    arms: Sequence[str],
    seeds: Sequence[int],
    common: dict,
    *,
    questions: int | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Trains in ``out/ARM-SEED`` what is not there yet, asks each the questions of the test split, and writes
    ``out/ablation.md``.

    common: settings of all runs. questions: at most so many, the same of all runs; None: all of the split, 0: none.

    Raises DataError for an unknown arm, and as training and evaluation do.
    """
    from medclm.training.loop import train

    for arm in arms:
        if arm not in ARMS:
            raise DataError(f"arms: expected some of {', '.join(ARMS)}, got {arm!r}")
    found = []
    for arm in arms:
        for seed in seeds:
            settings = Settings(**(common | ARMS[arm] | {"seed": seed}))
            at = out / f"{arm}-{seed}"
            say(f"{arm}, seed {seed}")
            result = train(folder, at, settings)
            found.append(Run(arm, seed, result, () if questions == 0 else _ask(folder, at, settings, questions or 0)))
    path = out / "ablation.md"
    write_whole(path, lambda made: made.write_text(table(found)))
    return path


def _ask(folder: Path, run: Path, settings: Settings, limit: int) -> list[dict]:
    """An arm that learned answers alone is asked for answers alone."""
    from medclm.evaluation.answering import ModelAnswers
    from medclm.evaluation.predicting import Asking
    from medclm.evaluation.running import Options, evaluate

    prompt = "own" if settings.reasoning else "brief"
    options = Options(asking=Asking(prompt, ASKED), leakage=False, limit=limit, examples=0)
    out = run / "eval"
    (name,) = evaluate(
        str(run), [str(folder)], out, options, load=lambda: ModelAnswers.load(str(run), device="cpu", dtype="float32")
    )
    return [json.loads(line) for line in (out / name / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
