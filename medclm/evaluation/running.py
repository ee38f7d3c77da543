"""An evaluation: one model, some benchmarks, one folder.

OUT/eval.json                      the model, settings, where it was trained
OUT/<benchmark>/predictions.jsonl  the replies (medclm.evaluation.predicting)
OUT/<benchmark>/questions.jsonl    texts and scores of every question
OUT/<benchmark>/scores.json        means with confidence intervals, by profile and group; leakage; what was left out
OUT/<benchmark>/cost.json          seconds, tokens and memory of every session that asked
OUT/<benchmark>/examples/          images of the questions that the report shows
"""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from medclm.codecs import CODECS
from medclm.evaluation import benchmarks, leakage, predicting, scoring
from medclm.evaluation.answering import Answers, ModelAnswers
from medclm.evaluation.predicting import Asking, Progress
from medclm.evaluation.profiles import profile
from medclm.evaluation.prompts import PROMPTS
from medclm.evaluation.questions import Benchmark
from medclm.problems import DataError, Problems
from medclm.whole_files import make_folder, write_whole, writing

FORMAT = 1
EXAMPLE_SIDE = 512  # pixels


@dataclass(frozen=True)
class Options:
    """profiles: beside strict, which is always there. train: the set that the model was trained on, for the leakage
    check. limit: questions of each benchmark at most, drawn by the hash of their ids; 0: all. examples: questions whose
    images are kept for the report. codec: of the boxes in a file of replies."""

    profiles: tuple[str, ...] = ("strict",)
    asking: Asking = field(default_factory=Asking)
    missing: str = "error"
    split: str = "test"
    train: Path | None = None
    salt: str | None = None
    leakage: bool = True
    limit: int = 0
    examples: int = 12
    codec: str = "plain"
    restart: bool = False


def evaluate(
    model: str,
    on: Sequence[str],
    out: Path,
    options: Options,
    *,
    load: Callable[[], Answers],
    report: Callable[[str, Progress], None] = lambda name, progress: None,
) -> dict[str, dict]:
    """Scores by benchmark. ``model`` is what ``load`` loads, or a file of replies (.jsonl), for which it is not called.

    Everything that can be wrong with the data is found before the model is loaded. Raises DataError.
    """
    chosen = [profile(name) for name in dict.fromkeys(("strict", *options.profiles))]
    if options.asking.prompt not in PROMPTS:
        raise DataError(f"prompt: expected one of {', '.join(PROMPTS)}, got {options.asking.prompt!r}")
    if options.codec not in CODECS:
        raise DataError(f"codec: expected one of {', '.join(CODECS)}, got {options.codec!r}")
    if not on:
        raise DataError("on: expected at least one set or benchmark")
    read = _read(on, options)
    train = _trained_on(model, options)
    seen = leakage.seen_in_set(train) if train is not None and options.leakage else None
    answers = None if is_replies(model) else load()
    if is_replies(model) and len(read) > 1:
        raise DataError(f"on: expected one benchmark for the replies in {model}, got {len(read)}")
    _begin(out, model, answers, options)
    found = {}
    for benchmark, problems in read:
        folder = out / benchmark.name
        make_folder(folder)
        if answers is None:
            replies = predicting.given(Path(model), benchmark, CODECS[options.codec])
        else:
            replies = _timed(benchmark, answers, folder, options, report)
        rows = scoring.scored(benchmark, replies, chosen, prompt=options.asking.prompt)
        leaked = leakage.check(benchmark, seen, salt=options.salt) if options.leakage else None
        found[benchmark.name] = {
            "format": FORMAT,
            "benchmark": benchmark.kind,
            "title": benchmark.title,
            "questions": len(rows),
            "fingerprint": benchmark.fingerprint(),
            "prompt": options.asking.prompt,
            "profiles": scoring.summary(rows, leaked.questions if leaked else None),
            "corpus": scoring.corpus_scores(rows),
            "leakage": leaked.to_dict(benchmark) if leaked else None,
            "problems": problems.to_dict(),
        }
        _write_rows(folder / "questions.jsonl", rows)
        _write_json(folder / "scores.json", found[benchmark.name])
        _keep_examples(benchmark, rows, folder / "examples", options.examples)
    return found


def is_replies(model: str) -> bool:
    return model.endswith(".jsonl")


def _read(on: Sequence[str], options: Options) -> list[tuple[Benchmark, Problems]]:
    read: list[tuple[Benchmark, Problems]] = []
    for name in on:
        problems = Problems()
        benchmark = benchmarks.read(name, problems, missing=options.missing, split=options.split)
        if options.limit:
            benchmark = benchmark.sampled(options.limit)
        if any(benchmark.name == other.name for other, _ in read):
            raise DataError(f"on: expected benchmarks with different names, got {benchmark.name} twice")
        read.append((benchmark, problems))
    return read


def _trained_on(model: str, options: Options) -> Path | None:
    """The set that is given. Raises DataError where the run says that it was trained on another."""
    if options.train is None:
        return None
    from medclm import sets

    sets.facts(options.train)
    config = run_config(model)
    if config is not None:
        from medclm.training.records import fingerprint

        if config["set"] != (given := fingerprint(options.train)):
            raise DataError(
                f"train: expected the set that {model} was trained on (fingerprint {config['set']}), got "
                f"{options.train} (fingerprint {given})"
            )
    return options.train


def run_config(model: str) -> dict | None:
    """``train.json`` of a run folder; None for a model that is none."""
    file = Path(model) / "train.json"
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file}: not the train.json of a run ({error})") from None


def _begin(out: Path, model: str, answers: Answers | None, options: Options) -> None:
    file = out / "eval.json"
    fingerprint = None if answers is None else answers.fingerprint
    if file.exists() and not options.restart:
        there = read_json(file).get("fingerprint")
        if there != fingerprint:
            raise DataError(
                f"{out}: expected a new folder or one of the same model (fingerprint {fingerprint}), got that of "
                f"another ({there}); take another folder, or --restart"
            )
    make_folder(out)
    facts = {"format": FORMAT, "model": model, "fingerprint": fingerprint, "asking": asdict(options.asking)}
    config = run_config(model)
    if config is not None:
        facts["training"] = config | {"log": _of_log(Path(model) / "log.jsonl")}
    if isinstance(answers, ModelAnswers):
        weights = answers.loaded.model
        facts["described"] = {
            "class": type(weights).__name__,
            "parameters": weights.num_parameters(),
            "dtype": str(weights.dtype).removeprefix("torch."),
            "device": str(weights.device.type),
        }
    _write_json(file, facts)


def _of_log(file: Path) -> dict:
    """What a run cost: steps, seconds, tokens, and the highest of what was measured of memory."""
    steps = seconds = tokens = 0
    memory: dict[str, float] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a line that a kill cut off
        if "seconds" not in entry:
            continue
        steps, seconds, tokens = steps + 1, seconds + entry["seconds"], tokens + entry.get("tokens", 0)
        for name, value in (entry.get("memory") or {}).items():
            if isinstance(value, (int, float)):
                memory[name] = max(value, memory.get(name, value))
    return {"steps": steps, "seconds": round(seconds, 3), "tokens": tokens, "memory": memory}


def _timed(
    benchmark: Benchmark, answers: Answers, folder: Path, options: Options, report: Callable[[str, Progress], None]
) -> list:
    last: list[Progress] = []
    started = time.perf_counter()

    def seen(progress: Progress) -> None:
        last[:] = [progress]
        report(benchmark.name, progress)

    replies = predicting.predict(benchmark, answers, folder, options.asking, restart=options.restart, report=seen)
    seconds, progress = time.perf_counter() - started, last[0]
    file = folder / "cost.json"
    sessions = [] if options.restart or not progress.resumed or not file.exists() else read_json(file)["sessions"]
    if progress.done > progress.resumed:
        sessions.append(
            {
                "questions": progress.done - progress.resumed,
                "new_tokens": progress.new_tokens,
                "seconds": round(seconds, 3),
                "batch_size": options.asking.batch_size,
                **_memory(),
            }
        )
    _write_json(file, {"questions": progress.total, "sessions": sessions})
    return replies


def _memory() -> dict[str, float]:
    """Peaks of this process, MiB."""
    import torch

    found = {"peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
    if torch.cuda.is_available():
        found["cuda_peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found


def example_numbers(rows: Sequence[dict], count: int) -> list[int]:
    """Half of them right, half of them wrong as far as there are such, drawn by the hash of their ids: nobody picks."""
    order = sorted(range(len(rows)), key=lambda number: hashlib.sha256(rows[number]["id"].encode()).digest())
    right = [number for number in order if rows[number]["scores"].get("strict", {}).get("accuracy", 0.0) == 1.0]
    wrong = [number for number in order if number not in set(right)]
    share = min(len(right), max(count // 2, count - len(wrong)))
    return right[:share] + wrong[: count - share]


def _keep_examples(benchmark: Benchmark, rows: Sequence[dict], folder: Path, count: int) -> None:
    make_folder(folder)
    with writing(folder):
        for old in folder.glob("*.png"):
            old.unlink()
    kept = []
    for place, number in enumerate(example_numbers(rows, count)):
        image = benchmark.load(number)
        scale = min(1.0, EXAMPLE_SIDE / max(image.size))
        size = tuple(max(1, round(side * scale)) for side in image.size)
        file = folder / f"{place:02d}.png"
        with writing(file):
            image.resize(size).save(file)
        kept.append({"id": rows[number]["id"], "file": file.name, "size": list(image.size)})
    _write_json(folder / "examples.json", kept)


def read_json(file: Path) -> dict:
    """Raises DataError where there is none, or it is damaged."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        raise DataError(f"{file.parent}: expected a folder of `medclm eval` ({file.name} is missing)") from None
    except ValueError as error:
        raise DataError(f"{file}: damaged ({error})") from None


def _write_json(file: Path, content: object) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_whole(file, lambda path: path.write_text(text, encoding="utf-8"))


def _write_rows(file: Path, rows: Sequence[dict]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(file, lambda path: path.write_text(text, encoding="utf-8", errors="replace"))
