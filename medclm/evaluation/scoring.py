"""Replies become scores: of every question, and means with confidence intervals over groups of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medclm.evaluation.answering import Reply
from medclm.evaluation.bootstrap import intervals
from medclm.evaluation.boxes import box_scores
from medclm.evaluation.metrics import corpus_bleu
from medclm.evaluation.profiles import Profile
from medclm.evaluation.prompts import OWN
from medclm.evaluation.questions import REPORT, Benchmark
from medclm.evaluation.replies import answer_of

BOXES = "boxes"  # stands beside the profiles


def scored(benchmark: Benchmark, replies: Sequence[Reply], profiles: Sequence[Profile], *, prompt: str) -> list[dict]:
    """Of every question: its texts, the answer in the reply, and scores {profile: {metric: value}}.

    With the prompts OWN the answer is what stands behind "Answer:", as models of this project are trained to write;
    with that of another evaluation the whole reply is scored, as there.
    """
    found = []
    for question, reply in zip(benchmark.questions, replies, strict=True):
        answer = answer_of(reply.text) if prompt in OWN and question.answer_type != REPORT else reply.text
        scores = {profile.name: profile.score(question, answer, benchmark.kind) for profile in profiles}
        if question.stage is not None and question.stage != "hard":  # hard replies hold no reasoning, so no boxes
            scores[BOXES] = box_scores(reply.boxes, question.boxes)
        found.append(
            {
                "id": question.id,
                "question": question.question,
                "options": list(question.options),
                "truth": question.answer,
                "answer_type": question.answer_type,
                "stage": question.stage,
                "reply": reply.text,
                "answer": answer,
                "cluster": question.patient or question.image or question.id,
                "groups": {name: list(values) for name, values in question.groups.items()},
                "boxes": [list(box) for box in reply.boxes],
                "true_boxes": [list(box) for box in question.boxes],
                "labels": list(question.labels),
                "size": [question.width, question.height],
                "licence": question.licence,
                "scores": {name: values for name, values in scores.items() if values},
            }
        )
    return found


def summary(rows: Sequence[Mapping], leaked: Mapping[int, Sequence[str]] | None = None) -> dict:
    """{profile: {"all": {metric: interval}, "groups": {group: {value: {metric: interval}}}}}. A question with several
    values of a group (two lesions) counts in each. leaked: numbers of the questions that the model may have seen; the
    others are a group of their own."""
    groups: dict[str, dict[str, list[int]]] = {}
    for number, row in enumerate(rows):
        for name, values in row["groups"].items():
            for value in values:
                groups.setdefault(name, {}).setdefault(value, []).append(number)
    if leaked:
        kept = [number for number in range(len(rows)) if number not in leaked]
        groups["leakage"] = {"suspected": sorted(leaked)} | ({"not suspected": kept} if kept else {})
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    found = {}
    for name in names:
        found[name] = {"all": _cell(rows, range(len(rows)), name), "groups": {}}
        for group, values in sorted(groups.items()):
            cells = {value: _cell(rows, numbers, name) for value, numbers in sorted(values.items())}
            found[name]["groups"][group] = {value: cell for value, cell in cells.items() if cell}
    return found


def _cell(rows: Sequence[Mapping], numbers: Sequence[int], profile: str) -> dict:
    chosen = [rows[number] for number in numbers]
    metrics = dict.fromkeys(metric for row in chosen for metric in row["scores"].get(profile, {}))
    columns = {metric: [row["scores"].get(profile, {}).get(metric) for row in chosen] for metric in metrics}
    return {name: each.to_dict() for name, each in intervals(columns, [row["cluster"] for row in chosen]).items()}


def corpus_scores(rows: Sequence[Mapping]) -> dict[str, float]:
    """BLEU-1 to BLEU-4 over all reports; no mean of questions, so without an interval. {} where there are none."""
    chosen = [row for row in rows if row["answer_type"] == REPORT]
    if not chosen:
        return {}
    answers, truths = [row["answer"] for row in chosen], [row["truth"] for row in chosen]
    return {f"report_bleu{order}": corpus_bleu(answers, truths, order) for order in (1, 2, 3, 4)}
