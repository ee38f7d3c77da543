"""``fastgrad shrinkage``: the model of shrinkage against its bounds, real quantizers, and a report on both."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fastgrad.cifar.cli import INTERRUPTED, fail, with_config_options
from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError
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


@app.command()
@with_config_options
def quantizers(
    config: Config,
    out: Annotated[Path, typer.Option(help="Folder for quantizers.parquet and the run")],
    probes: Annotated[int, typer.Option(help="Steps at which it does so, the first and the last included")] = 24,
    download: Annotated[bool, typer.Option("--download", help="Fetch cifar10 or cifar100 if need be")] = False,
) -> None:
    """Train one network; at chosen steps every quantizer rounds a copy of every gradient. Training does not notice.

    Formats x {stochastic, nearest, truncate} x scales {none, tensor, blocks of 32, the same with powers of two}: q,
    norm ratio, cosine, noise, zeroed and saturated parts of every layer. Ctrl-C ends it early, with what was measured.
    """
    from fastgrad.cifar import data as datasets
    from fastgrad.cifar.augment import batches_per_epoch
    from fastgrad.cifar.train import train
    from fastgrad.shrinkage_probe.probe import Probe, chosen_steps, quantizers

    data = datasets.load(config.data, download=download, limit_train=config.limit_train)
    total = config.epochs * batches_per_epoch(len(data.train_y), config.batch_size)
    probe = Probe(chosen_steps(total, probes), config.seed)
    finished = train(config, out / "run", download=download, on_gradients=probe.measure)
    path = probe.write(out / "quantizers.parquet")
    print(f"{len(list(quantizers()))} quantizers at {len(probe.steps)} steps; written: {path}")
    if not finished:
        raise typer.Exit(INTERRUPTED)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Folder for index.html, report.md and the plots")] = Path("report"),
    model: Annotated[Path | None, typer.Option(help="model.json of fastgrad shrinkage model")] = None,
    quantizers: Annotated[Path | None, typer.Option(help="Folder of fastgrad shrinkage quantizers")] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of fastgrad cifar sweep shrinkage")] = None,
) -> None:
    """One page on shrinkage: the model, real quantizers on real gradients, and whether q predicts the slow-down."""
    from fastgrad.shrinkage_probe import report as pages

    try:
        for path in pages.write(out, model=model, quantizers=quantizers, runs=runs):
            print(f"written: {path}")
    except (UsageError, ModuleNotFoundError) as error:
        fail(error)


def _tables(result: dict[str, Any]) -> list[Table]:
    from fastgrad.shrinkage_model import summary

    tables = []
    for title, header, rows in summary.tables(result):
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables
