"""Runs of all arms and seeds, trained and asked the same questions."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medclm import sets
from medclm.ablation.arms import ARMS
from medclm.ablation.table import table
from medclm.evaluation import normalizing
from medclm.problems import DataError
from medclm.training.settings import Settings
from medclm.whole_files import write_whole

ASKED = 64  # questions side by side
UNSEEN = "*each kind's most frequent answer*"


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
    unseen = None if questions == 0 else answered_unseen(folder, found[0].questions)
    path = out / "ablation.md"
    write_whole(path, lambda made: made.write_text(table(found, unseen)))
    return path


def answered_unseen(folder: Path, questions: Sequence[dict]) -> Run:
    """What a reply that never looks at the image would score: to every question the answer that the train split has
    most often to questions of its kind. An arm that is not above it has learned to answer, not to look."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for row in sets.rows(folder, split="train", columns=("kind", "answer")):
        counts[row["kind"]][row["answer"]] += 1
    guessed = []
    for question in questions:
        (kind,) = question["groups"]["kind"]
        # Of equally frequent answers the first by name, as the order of rows is nobody's choice.
        guess = min(counts[kind], key=lambda answer: (-counts[kind][answer], answer), default="")
        right = float(normalizing.strict(guess) == normalizing.strict(question["truth"]))
        guessed.append(question | {"reply": guess, "scores": {"strict": {"accuracy": right}}})
    return Run(UNSEEN, 0, {}, guessed)


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
