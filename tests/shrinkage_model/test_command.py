"""``fastgrad shrinkage model``: its files, its tables, its refusals."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

from fastgrad.shrinkage_cli import app
from fastgrad.shrinkage_model import study

SMALL = ("model", "--problems", "9", "--repetitions", "40", "--steps", "40", "--seed", "2")


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "150", "TERM": "dumb"})


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, invoke(*SMALL, "--out", folder)


def test_it_writes_every_comparison_and_shows_tables(ran):
    folder, result = ran
    assert result.exit_code == 0, result.output
    for words in ("quadratic", "logistic", "robust", "autoscale", "violated", "E[alpha P g]", "derived by us"):
        assert words in result.output
    found = json.loads((folder / study.JSON).read_text())
    with (folder / study.CSV).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found["comparisons"] == sum(row["comparisons"] for row in found["summary"])
    assert len(found["problems"]) == 9 * len(found["summary"]) == 9 * 10
    for row in rows:
        assert row["verdict"] in ("holds", "undecided")
        assert float(row["mean"]) <= float(row["limit"]) * (1 + 1e-5)  # six digits were written


def test_its_json_has_the_documented_fields(ran):
    found = json.loads((ran[0] / study.JSON).read_text())
    documented = study.__doc__.split("shrinkage_model.csv")[0]
    fields = "command z comparisons summary problems floors slowdowns rates standstill correlation"
    assert set(found) == set(fields.split())
    for part in found.values():
        for row in part if isinstance(part, list) else [part]:
            for name in row if isinstance(row, dict) else ():
                assert name in documented, name
    for row in found["summary"]:
        assert row["holds"] + row["undecided"] + row["violated"] == row["comparisons"]
        assert row["below"] == row["comparisons"]
        assert row["exact_below"] == row["exact_known"]


def test_the_same_seed_gives_the_same_files(ran, tmp_path):
    assert invoke(*SMALL, "--out", tmp_path).exit_code == 0
    for name in (study.JSON, study.CSV):
        assert (tmp_path / name).read_bytes() == (ran[0] / name).read_bytes()


def test_bad_options_are_refused(tmp_path):
    taken = tmp_path / "file"
    taken.write_text("")
    result = invoke("model", "--out", taken)
    assert result.exit_code == 2
    assert "expected a folder, found a file" in result.output
    for option, value in (("--problems", 0), ("--repetitions", 5), ("--steps", 1), ("--seed", -1)):
        result = invoke("model", option, value, "--out", tmp_path)
        assert result.exit_code == 2
        assert option in result.output


def test_it_hangs_under_the_main_command(monkeypatch, capsys):
    from fastgrad import cli

    monkeypatch.setattr("sys.argv", ["fastgrad", "shrinkage", "model", "--help"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert "--repetitions" in capsys.readouterr().out
