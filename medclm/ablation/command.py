"""The command ``medclm ablation``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medclm.problems import DataError

Option = typer.Option


def ablation(
    folder: Annotated[Path, typer.Argument(metavar="SET", help="A converted set.")],
    out: Annotated[Path, Option(help="Folder of the runs, ARM-SEED each, and of ablation.md.")],
    model: Annotated[str, Option(help="As of `medclm train`.")],
    arms: Annotated[str | None, Option(help="Some of them, separated by commas; default: all.")] = None,
    seeds: Annotated[str, Option(help="Separated by commas.")] = "0,1,2",
    epochs: Annotated[int, Option(help="Of every run.")] = 10,
    max_steps: Annotated[int, Option(help="Fewer steps than that; 0: all.")] = 0,
    batch: Annotated[int, Option(help="Questions side by side.")] = 4,
    lr: Annotated[float, Option(help="Learning rate.")] = 1e-4,
    evaluate_rows: Annotated[int, Option(help="Rows of each stage of the val split whose loss is looked at.")] = 128,
    questions: Annotated[
        int | None, Option(help="Of the test split that every run is asked; default: all, 0: none.", min=0)
    ] = None,
) -> None:
    """Train with and without each part of the method, some seeds each, one run after the other, and ask each the same
    questions; the same command goes on where it stopped."""
    from medclm.ablation.arms import ARMS
    from medclm.ablation.comparison import compare

    names = list(ARMS) if arms is None else [word.strip() for word in arms.split(",")]
    try:
        numbers = [int(word) for word in seeds.split(",")]
    except ValueError:
        raise DataError(f"seeds: expected whole numbers separated by commas, got {seeds!r}") from None
    common = dict(
        model=model, epochs=epochs, max_steps=max_steps, batch=batch, lr=lr, final_lr=lr / 10,
        evaluate_rows=evaluate_rows,
    )  # fmt: skip
    typer.echo(compare(folder, out, names, numbers, common, questions=questions, say=typer.echo).read_text())
