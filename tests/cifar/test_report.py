"""The comparison of runs, and the commands."""

import io
import re
import shutil
import statistics
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from fastgrad.cifar import report
from fastgrad.cifar.cli import app
from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError
from fastgrad.cifar.runs import find, group
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
    _, path = report.report(runs, tmp_path, console)
    text = path.read_text()
    done, stopped, begun = (next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
                            for name in ("done", "stopped", "begun"))  # fmt: skip
    assert "unfinished" not in done and "| 3 |" in done and "digits, first 200 training images" in done
    assert "1 of 3, unfinished" in stopped and "0 of 3, unfinished" in begun
    assert "| stopped | 0.05 |" in text
    assert "1 of 3, unfinished" in console.file.getvalue()
    for name in ("test_accuracy", "train_loss", "global_std", "layers_small"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000 and f"({name}.png)" in text


def test_page_is_self_contained_and_holds_the_pictures(runs, tmp_path):
    path, _ = report.report(runs, tmp_path, Console(file=io.StringIO()))
    page = path.read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len([s for s in sources if s.startswith("data:image/png;base64,")]) == len(list(tmp_path.glob("*.png"))) > 3
    assert all(s.startswith(("data:", "#part-")) for s in sources) and "url(" not in page and "@import" not in page


def test_accuracy_in_the_table_is_that_of_the_metrics(runs):
    (one,) = group(find(runs[:1]))
    cells, rows = report.cells(one), one.runs[0].rows
    assert cells["test accuracy"] == f"{100 * rows[-1]['test_accuracy']:.2f} %"
    assert cells["best epoch"] == f"{100 * max(row['test_accuracy'] for row in rows):.2f} %"


def test_seeds_are_one_row_with_mean_and_deviation(runs, tmp_path):
    for seed in (0, 1):
        train(replace(CONFIG, epochs=1, seed=seed), tmp_path / f"plain-seed{seed}")
    found = find([tmp_path, runs[0]])
    assert [run.name for run in found] == ["plain-seed0", "plain-seed1", "done"]
    seeds, other = group(found)
    accuracies = [100 * run.rows[-1]["test_accuracy"] for run in seeds.runs]
    expected = f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} %"
    assert seeds.label == "plain" and report.cells(seeds)["test accuracy"] == expected
    assert len(other.runs) == 1


def test_an_unfinished_seed_is_named_and_enters_no_mean(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "plain-seed0")
    shutil.copytree(runs[0], tmp_path / "plain-seed1")
    file = tmp_path / "plain-seed1" / "config.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    metrics = tmp_path / "plain-seed1" / "metrics.csv"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    (both,) = group(find([tmp_path]))
    cells = report.cells(both)
    assert cells["seeds"] == "1 of 2 finished" and "±" not in cells["test accuracy"]


def test_recorded_steps_become_curves(runs, tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({
        "step": [1, 1, 1, 2, 2],
        "layer": ["(all)", "a", "b", "(all)", "b"],
        "std": [0.5, 1.0, 2.0, 0.25, 3.0],
        "a": [1.0, 1.0, 1.0, 0.5, 0.5],
        "q": [1.0, 0.5, 0.7, 1.0, 0.9],
    })  # fmt: skip
    pyarrow.parquet.write_table(table, tmp_path / "monitor.parquet")
    shutil.copy(runs[0] / "config.json", tmp_path)
    recorded = find([tmp_path])[0].recorded
    assert list(recorded["layers"]) == ["a", "b"] and recorded["step"].tolist() == [1, 2]
    assert recorded["std"].tolist() == [0.5, 0.25] and recorded["a"].tolist() == [1.0, 0.5]
    assert np.allclose(recorded["mean_q"], [0.6, 0.9])
    assert np.array_equal(recorded["layer_std"], [[1.0, 2.0], [np.nan, 3.0]], equal_nan=True)


def test_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no run in this folder"):
        find([tmp_path])


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
