"""``fastgrad cifar train``, ``sweep`` and ``report``."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fastgrad.cifar import plan as plans
from fastgrad.cifar.config import Config, documented_fields
from fastgrad.cifar.errors import UsageError
from fastgrad.cifar.report import report as compare
from fastgrad.cifar.sweep import sweep as run_sweep
from fastgrad.cifar.train import train as run_experiment

app = typer.Typer(
    help="CIFAR experiments with normalized and low-precision gradients.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
INTERRUPTED = 130


def with_config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(config, ...)`` an option for every field of Config, with its type and sentence."""

    def run(**options: Any) -> None:
        try:
            config = Config(**{name: options.pop(name) for name in fields})
            command(config, **options)
        except (UsageError, ModuleNotFoundError) as error:
            fail(error)

    fields = documented_fields()
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(Config, name),
            annotation=Annotated[
                kind, typer.Option(help=help, show_default=getattr(Config, name) is not None)
            ],
        )
        for name, (kind, help) in fields.items()
    ]
    own = list(inspect.signature(command).parameters.values())[1:]
    parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect reads
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


@app.command()
@with_config_options
def train(
    config: Config,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; not given: made from the options, in runs/")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder")] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch cifar10 or cifar100 if need be")
    ] = False,
) -> None:
    """Train one model. Ctrl-C finishes the step and writes a checkpoint; --resume goes on bit for bit."""
    folder = out or Path("runs") / config.folder_name(Path(config.data).name.split(".")[0])
    if not run_experiment(config, folder, resume=resume, download=download):
        raise typer.Exit(INTERRUPTED)
    print(f"finished: {folder}")


@app.command()
def sweep(
    plan: Annotated[str, typer.Argument(help=f"A TOML file, or one of {', '.join(plans.built_in())}")],
    out: Annotated[Path, typer.Option(help="Folder of the runs; the same command goes on with what is there")],
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="option=value[,value...]: replaces an option of the plan, or an axis"),
    ] = None,
    methods: Annotated[str, typer.Option(help="Which methods of the plan, with commas; not given: all")] = "",
    processes: Annotated[int | None, typer.Option(help="Runs at a time; not given: one a core")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch cifar10 or cifar100 if need be")] = False,
) -> None:
    """Train all runs of a plan, side by side. What is finished is left alone, what was begun is resumed."""
    try:
        runs = plans.read(plan, change or (), [name for name in methods.split(",") if name])
        outcome = run_sweep(runs, out, processes=processes, download=download)
    except (UsageError, ModuleNotFoundError) as error:
        fail(error)
    for name, line in outcome.failed.items():
        print(f"failed: {name}: {line} (see {out / name / 'log.txt'})")
    if outcome.stopped:
        print(f"stopped with {len(outcome.stopped)} runs to go; the same command goes on")
        raise typer.Exit(INTERRUPTED)
    if outcome.failed:
        raise typer.Exit(1)
    print(f"finished: {len(outcome.finished)} runs in {out}; fastgrad cifar report {out} --out report")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders to compare, or folders of them (a sweep)")],
    out: Annotated[Path, typer.Option(help="Folder for index.html, report.md and the plots")] = Path("report"),
) -> None:
    """Compare runs: a table over the seeds, curves of accuracy, loss, gradient std and shrinkage, the layers."""
    try:
        page, text = compare(runs, out)
        print(f"written: {page}")
        print(f"written: {text}")
        for picture in sorted(out.glob("*.png")):
            print(f"plot: {picture}")
    except (UsageError, ModuleNotFoundError) as error:
        fail(error)


def fail(error: UsageError | ModuleNotFoundError) -> None:
    if isinstance(error, ModuleNotFoundError):
        if error.name is None or error.name.startswith("fastgrad"):
            raise error  # a fault of ours, not a package that was left out
        error = UsageError(f"{error.name} is not installed: pip install -e '.[cifar]' in the clone")
    # markup=False: a path may hold square brackets
    Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
    raise typer.Exit(2)
