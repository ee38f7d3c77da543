"""The comparison of runs, and the commands."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from fastgrad.cifar import report
from fastgrad.cifar.cli import app
from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError
from fastgrad.cifar.train import train

CONFIG = Config(
    data="digits", model="small", epochs=3, batch_size=64, threads=1, device="cpu", limit_train=200
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run, one stopped in its second epoch, and one stopped in its first."""
    folder = tmp_path_factory.mktemp("runs")
    import signal

    for name, stop, lr in (("done", 0, 0.1), ("stopped", 6, 0.05), ("begun", 1, 0.1)):
        count = iter(range(1, 100))
        train(
            replace(CONFIG, lr=lr),
            folder / name,
            on_step=lambda _, count=count, stop=stop: (
                next(count) == stop and signal.raise_signal(signal.SIGINT)
            ),
        )
    return [folder / name for name in ("done", "stopped", "begun")]


def test_report_compares_and_marks_unfinished_runs(runs, tmp_path):
    console = Console(file=io.StringIO(), width=250)
    path = report.report(runs, tmp_path, console)
    text = path.read_text()
    done, stopped, begun = (next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
                            for name in ("done", "stopped", "begun"))  # fmt: skip
    assert "unfinished" not in done and "| 3 |" in done and "digits, first 200 training images" in done
    assert "1 of 3, unfinished" in stopped and "0 of 3, unfinished" in begun
    assert "- stopped: lr 0.05" in text
    assert {len(line.split("|")) for line in text.splitlines() if line.startswith("|")} == {
        len(report.COLUMNS) + 2
    }
    assert "1 of 3, unfinished" in console.file.getvalue()
    for name in ("test_accuracy", "train_loss"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000 and f"({name}.png)" in text


def test_accuracy_in_the_table_is_that_of_the_metrics(runs):
    run = report.read(runs[0])
    cells = dict(zip(report.COLUMNS, report.cells(run), strict=True))
    assert cells["test accuracy"] == f"{run.rows[-1]['test_accuracy']:.2%}"
    assert cells["best epoch"] == f"{max(row['test_accuracy'] for row in run.rows):.2%}"


def test_recorded_steps_become_curves(runs, tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({
        "step": [1, 1, 1, 2, 2, 2],
        "layer": ["(all)", "a", "b"] * 2,
        "std": [0.5, 1.0, 2.0, 0.25, 1.0, 2.0],
        "q": [1.0, 0.5, 0.7, 1.0, 0.9, 0.9],
    })  # fmt: skip
    pyarrow.parquet.write_table(table, tmp_path / "monitor.parquet")
    steps, std, q = report._recorded(tmp_path / "monitor.parquet")
    assert steps.tolist() == [1, 2] and std.tolist() == [0.5, 0.25] and np.allclose(q, [0.6, 0.9])
    run = replace(report.read(runs[0]), steps=steps, global_std=std, q=q)
    assert {path.name for path in report.draw([run], tmp_path)} >= {"runs_global_std.png", "runs_mean_q.png"}


def test_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no run in this folder"):
        report.read(tmp_path)


def command(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def test_commands_train_and_report(tmp_path):
    given = ("--data", "digits", "--model", "small", "--epochs", 1, "--limit-train", 100, "--threads", 1)
    result = command("train", *given, "--out", tmp_path / "run")
    assert result.exit_code == 0 and "finished" in result.output
    again = command("train", *given, "--out", tmp_path / "run")
    assert again.exit_code == 2 and "holds a run already" in again.output
    other = command("train", *given, "--lr", 0.3, "--out", tmp_path / "run", "--resume")
    assert other.exit_code == 2 and "lr (0.1 -> 0.3)" in other.output
    result = command("report", tmp_path / "run", "--out", tmp_path / "report")
    assert result.exit_code == 0 and (tmp_path / "report" / "report.md").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--model", "lenet"),
        ("train", "--data", "nowhere"),
        ("train", "--data", "cifar100"),
        ("train", "--epochs", "many"),
        ("train", "--normalize", "zscore"),
        ("train", "--epochs", "0"),
        ("train", "--unknown"),
        ("report",),
        ("report", "nowhere"),
    ],
)
def test_bad_options_end_with_a_short_message(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command(*words)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert result.output.strip() and not list(tmp_path.glob("runs*"))


def test_missing_package_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = command("train", "--data", "digits", "--out", tmp_path / "run")
    assert result.exit_code == 2 and "sklearn.datasets is not installed: pip install" in result.output


def test_help_lists_every_option():
    result = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    for name in vars(CONFIG):
        assert f"--{name.replace('_', '-')}" in result.output
    assert "--no-autocast" in result.output and "--resume" in result.output
