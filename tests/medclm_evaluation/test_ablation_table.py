"""The table of an ablation: means over seeds, intervals over patients, differences on the same questions."""

from __future__ import annotations

import re
from pathlib import Path

from medclm.ablation import comparison
from medclm.ablation.comparison import Run
from medclm.ablation.table import table


def question(number: int, right: float, iou: float | None, stage: str) -> dict:
    scores = {"strict": {"accuracy": right}} | ({} if iou is None else {"boxes": {"box_iou": iou}})
    return {"id": f"q{number}", "stage": stage, "cluster": f"p{number // 3}", "scores": scores}


def run(arm: str, seed: int, right: float, iou: float) -> Run:
    """30 questions of 10 patients, the first ``right`` of them right."""
    stages = ("easy", "medium", "hard")
    questions = [
        question(n, float(n < right), None if stages[n % 3] == "hard" else iou, stages[n % 3]) for n in range(30)
    ]
    shown = {"easy": 10 + seed, "medium": 10, "hard": 10}
    return Run(arm, seed, {"validation": {"easy": 1.0 + seed, "mean": 1.0}, "shown": shown}, questions)


def cells(text: str, arm: str, place: int) -> list[str]:
    """Of the arm's line in the table of that place."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {arm} |")]
    return [cell.strip() for cell in lines[place].strip("|").split("|")]


def test_means_spread_and_intervals():
    base = [run("adaptive", 0, 15, 0.5), run("adaptive", 1, 21, 0.3)]
    text = table([*base, run("easy", 0, 6, 0.1), run("easy", 1, 6, 0.1)])
    assert cells(text, "adaptive", 0)[1:] == ["1.5000 (0.7071)", "", "", "10/10/10"]
    accuracy, *_, iou_medium = cells(text, "adaptive", 1)[1:]
    mean, low, high = map(float, re.fullmatch(r"([\d.]+) \(14\.1\)<br>([\d.]+) to ([\d.]+)", accuracy).groups())
    assert mean == 60.0 and 0 <= low < 60 < high <= 100
    assert iou_medium == "40.0 (14.1)<br>40.0 to 40.0"  # every patient has the same mean: nothing to resample
    difference = cells(text, "easy", 2)[1]
    assert difference.startswith("-40.0<br>") and "adaptive" in text.split("Difference from `")[1][:10]


def test_runs_that_were_not_asked_have_losses_only():
    silent = [Run("adaptive", 0, {"validation": None, "shown": dict.fromkeys(("easy", "medium", "hard"), 0)})]
    assert "Percent" not in table(silent) and cells(table(silent), "adaptive", 0)[1:] == ["", "", "", "0/0/0"]


def test_answers_without_a_look_are_each_kinds_most_frequent(monkeypatch):
    rows = [*[{"kind": "is_there", "answer": "Yes"}] * 3, *[{"kind": "is_there", "answer": "No"}] * 2]
    rows += [{"kind": "what", "answer": answer} for answer in ("nodule", "cyst")]  # as often: the first by name
    found = {"train": rows}
    monkeypatch.setattr(comparison.sets, "rows", lambda folder, *, split, columns: iter(found[split]))
    asked = [
        question(n, 0.0, 0.5, "easy") | {"truth": truth, "groups": {"kind": [kind]}}
        for n, (kind, truth) in enumerate(
            [("is_there", "yes"), ("is_there", "No"), ("what", "the cyst"), ("what", "nodule"), ("never seen", "x")]
        )
    ]
    unseen = comparison.answered_unseen(Path("set"), asked)
    assert [q["reply"] for q in unseen.questions] == ["Yes", "Yes", "cyst", "cyst", ""]
    assert [q["scores"]["strict"]["accuracy"] for q in unseen.questions] == [1.0, 0.0, 1.0, 0.0, 0.0]
    runs = [run("adaptive", seed, 15, 0.5) for seed in (0, 1)]
    text = table(runs, comparison.Run(comparison.UNSEEN, 0, {}, runs[0].questions))
    lines = [line for line in text.splitlines() if line.startswith(f"| {comparison.UNSEEN} |")]
    assert len(lines) == 1 and lines[0].split("|")[2].strip().startswith("50.0<br>")  # among the scores, not the losses
