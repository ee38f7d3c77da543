"""``fastgrad shrinkage``: what shrinkage of the gradient does to SGD."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False)


@app.callback()
def callback() -> None:
    """What shrinkage of the gradient does to SGD."""


@app.command()
def model(
    problems: Annotated[int, typer.Option(min=1, help="Random problems of each of the three families")] = 50,
    repetitions: Annotated[int, typer.Option(min=20, help="Runs of each problem, over which means are taken")] = 200,
    steps: Annotated[int, typer.Option(min=10, help="Steps of each run")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Of the problems and of all noise")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for shrinkage_model.json and .csv")] = Path("runs/shrinkage"),
) -> None:
    """Sampled q_k and noise on problems with known constants: measured errors against the bounds of fastgrad.theory."""
    # Loaded here: the other commands need none of it.
    from fastgrad.shrinkage_model import study, tables

    console, log = Console(), Console(stderr=True, soft_wrap=True)
    if out.exists() and not out.is_dir():
        log.print(f"error: --out {out}: expected a folder, found a file", style="red", markup=False)
        raise typer.Exit(2)
    with log.status("problems") as status:
        found = study.run(problems, repetitions, steps, seed, lambda what: status.update(what))
    for table in tables.tables(found):
        console.print(table)
    for path in study.write(found, out):
        print(f"written: {path}")
    if any(row["violated"] for row in found["summary"]):
        log.print("error: a measured mean exceeds its bound by more than chance allows", style="red")
        raise typer.Exit(1)
