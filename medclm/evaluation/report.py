"""One page about one or several evaluations: scores with their intervals, by stage, organ, lesion and modality; what
differs between models; examples with boxes; leakage, memory and speed."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastgrad.page import Page, plain
from medclm.evaluation.bootstrap import paired_difference
from medclm.evaluation.cards import card
from medclm.evaluation.profiles import PROFILES
from medclm.evaluation.running import FORMAT, read_json
from medclm.evaluation.scoring import BOXES
from medclm.problems import DataError

GROUPS = ("stage", "organ", "lesion", "modality", "kind", "content_type", "question_type", "leakage")
# Of the profile strict; what each question has of these is what models are compared by.
MAIN = ("accuracy", "closed_accuracy", "choice_accuracy", "open_exact", "open_f1", "open_similarity", "report_rougeL",
        "report_bleu", "report_similarity")  # fmt: skip
BOX_MAIN = ("box_iou", "box_acc@0.5", "box_acc@0.3", "box_precision", "box_parsed", "box_false")
COMPARED = (("strict", "accuracy"), ("strict", "open_f1"), ("strict", "report_rougeL"), (BOXES, "box_iou"),
            (BOXES, "box_acc@0.5"))  # fmt: skip
FEW = 30  # questions: a mean over fewer says little, and is marked


@dataclass(frozen=True)
class Evaluation:
    """A folder of `medclm eval`, read."""

    name: str
    folder: Path
    facts: dict
    scores: dict[str, dict]  # benchmark -> scores.json

    def rows(self, benchmark: str) -> list[dict]:
        file = self.folder / benchmark / "questions.jsonl"
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: expected the questions of an evaluation ({error})") from None


def read(folders: Sequence[Path]) -> list[Evaluation]:
    """Raises DataError where a folder holds no evaluation, or one of another format."""
    if not folders:
        raise DataError("folders: expected at least one of `medclm eval`")
    found: list[Evaluation] = []
    for folder in folders:
        facts = read_json(folder / "eval.json")
        if facts.get("format") != FORMAT:
            raise DataError(f"{folder}: an evaluation of format {facts.get('format')}, this is {FORMAT}; run it again")
        files = sorted(folder.glob("*/scores.json"))
        if not files:
            raise DataError(f"{folder}: expected <benchmark>/scores.json, got none; was the evaluation finished?")
        name = folder.resolve().name
        taken = sum(each.name == name or each.name.startswith(f"{name} (") for each in found)
        found.append(
            Evaluation(
                f"{name} ({taken + 1})" if taken else name,
                folder,
                facts,
                {file.parent.name: read_json(file) for file in files},
            )
        )
    return found


def write(folders: Sequence[Path], out: Path, *, title: str = "MedCLM evaluation", images: bool = True) -> Path:
    """``out``/index.html, report.md and pictures. The first folder is what the others are compared with. images: False
    leaves out the examples, which show pictures of the data."""
    evaluations = read(folders)
    page = Page(title)
    _models(page, evaluations)
    for benchmark in dict.fromkeys(name for each in evaluations for name in each.scores):
        having = [each for each in evaluations if benchmark in each.scores]
        page.heading(plain(having[0].scores[benchmark]["title"]))
        _overview(page, benchmark, having)
        for group in GROUPS:
            _by_group(page, benchmark, having, group)
        if len(having) > 1:
            _differences(page, benchmark, having)
        if images:
            _examples(page, benchmark, having)
    _leakage(page, evaluations)
    _cost(page, evaluations)
    return page.write(out)[0]


def _models(page: Page, evaluations: Sequence[Evaluation]) -> None:
    rows = []
    for each in evaluations:
        described = each.facts.get("described") or {}
        parameters = described.get("parameters")
        rows.append(
            (
                plain(each.name),
                plain(str(each.facts["model"])),
                f"{parameters / 1e6:,.1f}" if parameters else "",
                described.get("dtype", ""),
                each.facts["asking"]["prompt"],
                (each.facts["fingerprint"] or "replies from a file")[:12],
            )
        )
    header = ("evaluation", "model", "million parameters", "weights", "prompt", "fingerprint")
    page.table(header, rows)
    page.paragraph(
        f"Scores in percent, with 95 % intervals from {2000:,} resamples of patients (of images where patients are not "
        f"known). n: questions. A star marks means over fewer than {FEW} questions. Decoding is greedy."
    )


def _overview(page: Page, benchmark: str, having: Sequence[Evaluation]) -> None:
    for name in dict.fromkeys(name for each in having for name in each.scores[benchmark]["profiles"]):
        cells = [(each, each.scores[benchmark]["profiles"].get(name, {}).get("all", {})) for each in having]
        metrics = list(dict.fromkeys(metric for _, cell in cells for metric in cell))
        if not metrics:
            continue
        rows = [
            (metric.replace("_", " "), *(_shown(cell.get(metric)) for _, cell in cells), _n(cells[0][1].get(metric)))
            for metric in metrics
        ]
        title = "Boxes of the reasoning" if name == BOXES else f"Profile {name}"
        page.heading(title, level=3)
        page.table(
            ("metric", *(plain(each.name) for each in having), "n"),
            rows,
            plain(f"{PROFILES[name].title}. Rule: {PROFILES[name].source}.") if name in PROFILES else "",
        )
    corpus = list(dict.fromkeys(metric for each in having for metric in each.scores[benchmark]["corpus"]))
    if corpus:
        rows = [
            (metric.replace("_", " "), *(_percent(each.scores[benchmark]["corpus"].get(metric)) for each in having))
            for metric in corpus
        ]
        page.table(("over the whole corpus", *(plain(each.name) for each in having)), rows, "sacreBLEU, lower case")
    for each in having:
        problems = each.scores[benchmark]["problems"]
        for reason, entry in problems.items():
            page.paragraph(f"{plain(each.name)}: left out: {plain(reason)}: {entry['count']:,}")


def _by_group(page: Page, benchmark: str, having: Sequence[Evaluation], group: str) -> None:
    found = [
        (each, name, each.scores[benchmark]["profiles"].get(name, {}).get("groups", {}).get(group, {}))
        for each in having
        for name in ("strict", BOXES)
    ]
    values = list(dict.fromkeys(value for *_, cells in found for value in cells))
    if not values:
        return
    page.heading(f"By {group.replace('_', ' ')}", level=3)
    wanted = [("strict", metric) for metric in MAIN] + [(BOXES, metric) for metric in BOX_MAIN[:2]]
    for each in having:
        cells = {name: groups for other, name, groups in found if other is each}
        there = [(name, m) for name, m in wanted if any(m in cells[name].get(value, {}) for value in values)]
        rows = []
        for value in values:
            shown = [_shown(cells[name].get(value, {}).get(metric)) for name, metric in there]
            counts = [cell["n"] for name, metric in there if (cell := cells[name].get(value, {}).get(metric))]
            rows.append((plain(value), *shown, f"{max(counts, default=0):,}"))
        page.table((group.replace("_", " "), *(m.replace("_", " ") for _, m in there), "n"), rows, plain(each.name))
    _figure(page, benchmark, having, group, values)


def _figure(page: Page, benchmark: str, having: Sequence[Evaluation], group: str, values: Sequence[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    there = [
        (name, metric)
        for name, metric in COMPARED
        if any(metric in cell for each in having for cell in _cells(each, benchmark, name, group).values())
    ]
    if not there:
        return
    name, metric = there[0]
    height = 0.8 + 0.28 * len(values) * len(having)
    figure = Figure(figsize=(8, min(max(height, 1.8), 14)), layout="constrained")
    axes = figure.subplots()
    for place, each in enumerate(having):
        cells = _cells(each, benchmark, name, group)
        for number, value in enumerate(values):
            if (cell := cells.get(value, {}).get(metric)) is None:
                continue
            y = number + (place - (len(having) - 1) / 2) * 0.8 / len(having)
            error = None
            if cell["low"] is not None:
                error = [[100 * max(cell["mean"] - cell["low"], 0)], [100 * max(cell["high"] - cell["mean"], 0)]]
            axes.errorbar(100 * cell["mean"], y, xerr=error, fmt="o", color=f"C{place}", capsize=3)
    axes.set_yticks(range(len(values)), values)
    axes.invert_yaxis()
    axes.set_xlim(-2, 102)
    axes.set_xlabel(f"{metric.replace('_', ' ')}, percent ({name})")
    axes.grid(axis="x", alpha=0.3)
    if len(having) > 1:
        for place, each in enumerate(having):
            axes.plot([], [], "o", color=f"C{place}", label=each.name)
        axes.legend(fontsize="small")
    page.figure(_file_name(benchmark, group), figure, f"{metric.replace('_', ' ')} by {group}, with 95 % intervals")


def _cells(each: Evaluation, benchmark: str, profile: str, group: str) -> dict:
    return each.scores[benchmark]["profiles"].get(profile, {}).get("groups", {}).get(group, {})


def _differences(page: Page, benchmark: str, having: Sequence[Evaluation]) -> None:
    """The ablation table: each evaluation against the first, on the questions that both answered."""
    first = having[0]
    base = {row["id"]: row for row in first.rows(benchmark)}
    page.heading("Differences", level=3)
    rows = []
    for each in having[1:]:
        if each.scores[benchmark]["fingerprint"] != first.scores[benchmark]["fingerprint"]:
            page.paragraph(f"{plain(each.name)} answered other questions than {plain(first.name)}: not compared.")
            continue
        other = {row["id"]: row for row in each.rows(benchmark)}
        for profile, metric in COMPARED:
            pairs = [
                (one["scores"].get(profile, {}).get(metric), other[id]["scores"].get(profile, {}).get(metric), one)
                for id, one in base.items()
                if id in other
            ]
            pairs = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
            if not pairs:
                continue
            before, after, asked = zip(*pairs, strict=True)
            found = paired_difference(before, after, [row["cluster"] for row in asked])
            rows.append(
                (
                    plain(each.name),
                    metric.replace("_", " "),
                    _percent(sum(before) / len(before)),
                    _percent(sum(after) / len(after)),
                    f"{100 * found.mean:+.1f}",
                    found.ends("+.1f"),
                    f"{found.n:,}",
                )
            )
    if rows:
        header = ("evaluation", "metric", "base", "here", "difference", "95 % interval", "n")
        page.table(header, rows, f"Against {plain(first.name)}: the same questions, resampled together by patient.")


def _examples(page: Page, benchmark: str, having: Sequence[Evaluation]) -> None:
    for each in having:
        folder = each.folder / benchmark / "examples"
        kept = read_json(folder / "examples.json") if (folder / "examples.json").exists() else []
        if not kept:
            continue
        rows = {row["id"]: row for row in each.rows(benchmark)}
        page.heading(f"Examples: {plain(each.name)}", level=3)
        licences = sorted({row["licence"] for entry in kept if (row := rows[entry["id"]])["licence"]})
        page.paragraph(
            "Drawn by the hash of their ids, half of them right where there are as many. Green: boxes of the "
            "annotation; red: boxes of the reply."
            + (f" Licences of the images: {plain(', '.join(licences))}." if licences else "")
        )
        for place, entry in enumerate(kept):
            row = rows[entry["id"]]
            size = tuple(row["size"]) if all(row["size"]) else tuple(entry["size"])
            picture = card(folder / entry["file"], size, row)
            page.image(_file_name(benchmark, each.name, f"example{place:02d}"), picture, _caption(row))


def _caption(row: dict) -> str:
    shown = {name: row["scores"].get("strict", {}).get(name) for name in ("accuracy", "open_f1", "report_rougeL")}
    shown |= {"box_iou": row["scores"].get(BOXES, {}).get("box_iou")}
    scores = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in shown.items() if value is not None)
    parts = [row["question"], f"Truth: {row['truth']}", f"Reply: {row['reply'] or '(nothing)'}", scores]
    texts = (textwrap.shorten(part, 400, placeholder=" ..") for part in [row["stage"] or "", *parts] if part)
    return plain(" — ".join(texts))


def _leakage(page: Page, evaluations: Sequence[Evaluation]) -> None:
    rows = []
    for each in evaluations:
        for benchmark, scores in each.scores.items():
            found = scores["leakage"]
            if found is None:
                continue
            counts = [
                f"{found[reason]['questions']:,}" if reason in found["checked"] else "not checked"
                for reason in ("exact", "near", "patient", "own")
            ]
            leaked = f"{found['leaked_questions']:,}" if found["checked"] else "not checked"
            rows.append((plain(each.name), plain(benchmark), f"{found['questions']:,}", *counts, leaked))
    if rows:
        page.heading("Leakage")
        page.paragraph(
            "Questions about images or patients that the model was trained on: the same pixels; nearly the same "
            "picture; the same patient; images that the benchmark has in its own training questions."
        )
        page.table(
            ("evaluation", "benchmark", "questions", "same pixels", "near", "patient", "own split", "any"),
            rows,
        )


def _cost(page: Page, evaluations: Sequence[Evaluation]) -> None:
    rows = []
    for each in evaluations:
        for benchmark in each.scores:
            file = each.folder / benchmark / "cost.json"
            sessions = read_json(file)["sessions"] if file.exists() else []
            seconds = sum(session["seconds"] for session in sessions)
            if not seconds:
                continue
            questions = sum(session["questions"] for session in sessions)
            tokens = sum(session["new_tokens"] for session in sessions)
            device = max((session.get("cuda_peak_mib", 0.0) for session in sessions), default=0.0)
            rows.append(
                (
                    plain(each.name),
                    plain(benchmark),
                    f"{questions:,}",
                    f"{seconds:,.1f}",
                    f"{questions / seconds:,.2f}",
                    f"{tokens / seconds:,.1f}",
                    f"{max(session['peak_mib'] for session in sessions):,.0f}",
                    f"{device:,.0f}" if device else "",
                )
            )
    if rows:
        page.heading("Memory and speed")
        header = (
            "evaluation",
            "benchmark",
            "questions",
            "seconds",
            "questions/s",
            "new tokens/s",
            "peak MiB",
            "GPU MiB",
        )
        page.table(header, rows, "Answering; sessions that were killed are not in it.")
    trained = [(each, each.facts["training"]) for each in evaluations if each.facts.get("training")]
    if trained:
        of_training = [
            (
                plain(each.name),
                f"{log['steps']:,}",
                f"{log['seconds']:,.1f}",
                f"{log['tokens'] / log['seconds']:,.1f}" if log["seconds"] else "",
                f"{log['memory'].get('peak_mib', 0.0):,.0f}",
                f"{log['memory']['cuda_peak_mib']:,.0f}" if "cuda_peak_mib" in log["memory"] else "",
                _differing(training["settings"], [other["settings"] for _, other in trained]),
            )
            for each, training in trained
            if (log := training["log"])
        ]
        page.table(
            ("training of", "steps", "seconds", "tokens/s", "peak MiB", "GPU MiB", "settings that differ"),
            of_training,
            "Training",
        )


def _differing(settings: dict, all_settings: Sequence[dict]) -> str:
    names = [name for name in settings if any(other.get(name) != settings[name] for other in all_settings)]
    return ", ".join(f"`{name}={settings[name]}`" for name in names)


def _shown(cell: dict | None) -> str:
    if cell is None:
        return ""
    star = "\\*" if cell["n"] < FEW else ""
    ends = "" if cell["low"] is None else f" ({100 * cell['low']:.1f} to {100 * cell['high']:.1f})"
    return f"{100 * cell['mean']:.1f}{star}{ends}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _n(cell: dict | None) -> str:
    return "" if cell is None else f"{cell['n']:,}"


def _file_name(*parts: str) -> str:
    return "-".join("".join(c if c.isalnum() or c in "_." else "_" for c in part) for part in parts)
