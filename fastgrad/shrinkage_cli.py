"""``fastgrad shrinkage``: the model of shrinkage against its bounds, real quantizers, and a report on both."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fastgrad.replacing import replacing

app = typer.Typer(
    help="What shrinkage does to SGD: theory, the model sampled, and real quantizers on real gradients.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def callback() -> None:
    """What shrinkage does to SGD: theory, the model sampled, and real quantizers on real gradients."""


@app.command()
def model(
    problems: Annotated[int, typer.Option(help="Random problems of each kind", min=1)] = 100,
    repetitions: Annotated[int, typer.Option(help="Runs whose mean stands for the expectation", min=2)] = 100,
    seed: Annotated[int, typer.Option(help="Of problems and noise", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Folder for model.json")] = Path("shrinkage"),
) -> None:
    """SGD with sampled shrinkage and noise on problems with known constants, measured against the bounds (1) to (4)."""
    from fastgrad.shrinkage_model import compare

    steps = iter(track(range(problems), "problems", console=Console(stderr=True), transient=True))
    next(steps)
    result = compare.run(problems, repetitions, seed, each=lambda: next(steps, None))
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "model.json", "w") as file:
        json.dump(result, file, indent=1)
    console = Console()
    for table in _tables(result):
        console.print(table)
    print(f"written: {out / 'model.json'}")
    if not all(row["holds"] for row in (*result["bounds"], *result["autoscale"]["bound"])):
        print("a measured mean lies above its bound")
        raise typer.Exit(1)


def _tables(result: dict[str, Any]) -> list[Table]:
    from fastgrad.shrinkage_model import summary

    tables = []
    for title, header, rows in summary.tables(result):
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables
