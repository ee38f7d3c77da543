"""``fastgrad shrinkage``: the model of shrinkage against its bounds, real quantizers, and a report on both."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastgrad.cifar.cli import INTERRUPTED, fail, with_config_options
from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError

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
        fail(UsageError(f"--out {out}: expected a folder, found a file"))
    with log.status("problems") as status:
        found = study.run(problems, repetitions, steps, seed, lambda what: status.update(what))
    for title, columns, rows in tables.tables(found):
        console.print(_table(title, columns, rows))
    for path in study.write(found, out):
        print(f"written: {path}")
    if any(row["violated"] for row in found["summary"]):
        log.print("error: a measured mean exceeds its bound by more than chance allows", style="red")
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
    model: Annotated[Path | None, typer.Option(help="Folder of fastgrad shrinkage model")] = None,
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


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(escape(name), justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
