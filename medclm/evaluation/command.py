"""The commands ``medclm eval`` and ``medclm report``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medclm.problems import DataError

if TYPE_CHECKING:
    from medclm.evaluation.predicting import Progress

Option = typer.Option


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_MODEL",
            help="A run folder, a checkpoint, a name on the hub, tiny, student; or a file of replies (.jsonl).",
        ),
    ],
    on: Annotated[
        list[str],
        Option(help="A converted set, or vqa_rad:, slake:, path_vqa:, pmc_vqa:, omnimedvqa:, reports: and a path."),
    ],
    out: Annotated[Path, Option(help="Folder; the same command goes on where it stopped.")],
    profile: Annotated[
        list[str] | None, Option(help="strict (always there), llava_med, lmms_eval, medevalkit.")
    ] = None,
    prompt: Annotated[str, Option(help="How it is asked: own, brief, plain, lmms_eval, medevalkit.")] = "own",
    batch: Annotated[int, Option(help="Questions side by side.", min=1)] = 8,
    max_new_tokens: Annotated[int | None, Option(help="Of a reply; default: as the prompt says.", min=1)] = None,
    train: Annotated[Path | None, Option(help="The set that the model was trained on, to check for leakage.")] = None,
    salt_file: Annotated[
        Path | None, Option(help="That the set was hashed with: finds its patients in SLAKE's files.")
    ] = None,
    leakage: Annotated[bool, Option(help="Look for questions that the model may have seen.")] = True,
    missing: Annotated[str, Option(help="Images that are not there: error, skip.")] = "error",
    split: Annotated[str, Option(help="Of converted sets.")] = "test",
    limit: Annotated[int, Option(help="Questions of each at most, always the same ones; 0: all.", min=0)] = 0,
    examples: Annotated[int, Option(help="Images kept for the report; 0: none.", min=0)] = 12,
    codec: Annotated[str, Option(help="How boxes are written in a file of replies without boxes.")] = "plain",
    device: Annotated[str, Option(help="cpu, cuda; default: a GPU where there is one.")] = "auto",
    dtype: Annotated[str, Option(help="Of the weights: float32, bfloat16; default: float32 on a CPU.")] = "auto",
    restart: Annotated[bool, Option("--restart", help="Throw away what an earlier run left.")] = False,
) -> None:
    """Ask a model the questions of sets and benchmarks, and score its replies."""
    from medclm.evaluation.answering import ModelAnswers
    from medclm.evaluation.predicting import Asking
    from medclm.evaluation.running import Options, evaluate
    from medclm.salts import read_salt

    options = Options(
        profiles=tuple(profile or ("strict",)),
        asking=Asking(prompt, batch, max_new_tokens),
        missing=missing,
        split=split,
        train=train,
        salt=None if salt_file is None else read_salt(salt_file),
        leakage=leakage,
        limit=limit,
        examples=examples,
        codec=codec,
        restart=restart,
    )

    def load() -> ModelAnswers:
        import torch

        place = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        kind = dtype if dtype != "auto" else "float32" if place == "cpu" else "bfloat16"
        return ModelAnswers.load(model, device=place, dtype=kind)

    with _bar() as report:
        found = evaluate(model, on, out, options, load=load, report=report)
    for name, scores in found.items():
        _show(name, scores)
    typer.echo(f"{out}: done; next: medclm report {out} --out PAGE")


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Of `medclm eval`; the first is the base of differences.")
    ],
    out: Annotated[Path, Option(help="Folder of the page.")],
    title: Annotated[str, Option(help="Of the page.")] = "MedCLM evaluation",
    images: Annotated[bool, Option(help="Show examples; they are pictures of the data.")] = True,
) -> None:
    """One page about evaluations: scores, groups, differences, examples, leakage, cost."""
    try:
        from medclm.evaluation.report import write

        page = write(folders, out, title=title, images=images)
    except ImportError as error:
        raise DataError(f"report: expected {error.name}; pip install -e '.[medclm-eval]' in the clone") from error
    typer.echo(str(page))


@contextmanager
def _bar() -> Iterator[Callable[[str, Progress], None]]:
    """Questions answered, and a second; on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(name: str, progress: Progress) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=progress.total)
            bar.update(tasks[name], completed=progress.done)

        yield show


def _show(name: str, scores: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{name}[/bold]: {scores['questions']:,} questions")
    table = Table("profile", "metric", "percent", "95 %", "n", box=None, header_style="dim")
    for profile, cells in scores["profiles"].items():
        for metric, cell in cells["all"].items():
            ends = "" if cell["low"] is None else f"{100 * cell['low']:.1f} to {100 * cell['high']:.1f}"
            table.add_row(profile, metric, f"{100 * cell['mean']:.1f}", ends, f"{cell['n']:,}")
    console.print(table)
    found = scores["leakage"]
    if found and found["checked"]:
        counts = f"{found['leaked_questions']:,} of {found['questions']:,} questions"
        console.print(f"leakage ({', '.join(found['checked'])}): {counts}")
    for reason, entry in scores["problems"].items():
        console.print(f"[yellow]left out[/yellow]: {reason}: {entry['count']:,}")
