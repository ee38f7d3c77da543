"""The command line: a set from COCO files to an export, and errors of one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from small_cases import coco_file, small_cases

from medclm import cli, sets
from medclm.settings import Settings


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """(annotations, images), in a home of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MEDCLM_CACHE", str(tmp_path / "cache"))
    cases = small_cases(tmp_path / "images", 12)
    return coco_file(cases, tmp_path / "lesions.json"), tmp_path / "images"


def run(monkeypatch, capsys, *words, columns="200") -> tuple[int, str, str]:
    """(exit code, standard output, standard error)"""
    monkeypatch.setattr(sys, "argv", ["medclm", *map(str, words)])
    monkeypatch.setenv("COLUMNS", columns)
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    said = capsys.readouterr()
    return code, said.out, said.err


def convert_words(coco, out, *more) -> list:
    return ["convert", "coco", "--annotations", coco[0], "--images", coco[1], "--out", out, "--workers", 1, *more]


def test_convert_info_export(coco, tmp_path, monkeypatch, capsys):
    words = convert_words(coco, tmp_path / "set", "-o", "modality=XR", "--max-side", 48, "--split", "0.5,0.25,0.25")
    code, out, err = run(monkeypatch, capsys, *words)
    assert code == 0, err
    found = sets.facts(tmp_path / "set")
    assert found["counts"]["modality"] == {"XR": found["counts"]["images"]}
    assert f"{found['counts']['rows']:,} questions" in out
    assert found["settings"]["reader"] == {"modality": "XR"}
    code, out, _ = run(monkeypatch, capsys, "info", tmp_path / "set")
    assert code == 0 and "nodule" in out and "easy" in out
    code, out, err = run(
        monkeypatch,
        capsys,
        "export",
        tmp_path / "set",
        "--out",
        tmp_path / "x",
        "--format",
        "jsonl",
        "--stages",
        "hard",
    )
    assert code == 0, err
    assert f"{found['counts']['stage']['hard']:,} rows" in out
    assert json.loads((tmp_path / "x" / "export.json").read_text())["format"] == "jsonl"


def test_equal_commands_give_equal_sets_by_the_users_own_salt(coco, tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        assert run(monkeypatch, capsys, *convert_words(coco, tmp_path / name / "set", "-o", "modality=XR"))[0] == 0
    first, second = (list(sets.rows(tmp_path / name / "set")) for name in ("a", "b"))
    assert first == second
    (tmp_path / "salt").write_text("the salt of another institute")
    words = convert_words(coco, tmp_path / "c" / "set", "-o", "modality=XR", "--salt-file", tmp_path / "salt")
    assert run(monkeypatch, capsys, *words)[0] == 0
    assert {row["id"] for row in sets.rows(tmp_path / "c" / "set")}.isdisjoint(row["id"] for row in first)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max-side", 3], "max_side: expected 16 to 8192 pixels, got 3"),
        (["--split", "0.5,0.5"], "split: expected 3 shares (train, val, test) of sum 1, got (0.5, 0.5)"),
        (["--split", "a,b,c"], "split: expected numbers separated by commas, got 'a,b,c'"),
        (["--rule", "nearest"], "rule: expected one of coverage, iou, box_iou, got 'nearest'"),
        (["--stages", "easy,trivial"], "stages: expected some of easy, medium, hard, got easy, trivial"),
        (["--organs", "hearts"], "organs: expected one of "),
        (["--window", "rose"], "got 'rose'"),
        (["--engine", "spark"], "engine: expected one of local, ray, got 'spark'"),
        (["--teacher", "oracle"], "teacher: expected template, "),
        (["-o", "modality"], "option: expected NAME=VALUE, got 'modality'"),
        (["-o", "colour=blue"], "got 'colour'"),
        (["--salt-file", "/nowhere/salt"], "salt file: expected a readable text file"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(coco, tmp_path, monkeypatch, capsys, more, said):
    code, _, err = run(monkeypatch, capsys, *convert_words(coco, tmp_path / "set", *more))
    assert code == 2
    assert err.startswith("medclm: ") and said in err and err.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_unknown_source_and_missing_files_are_one_line(coco, tmp_path, monkeypatch, capsys):
    for words, said in (
        (
            ["convert", "cocoa", "--annotations", coco[0], "--out", tmp_path / "s"],
            "expected one of sample, phantom, coco,",
        ),
        (["convert", "coco", "--annotations", tmp_path / "no.json", "--out", tmp_path / "s"], "no.json"),
        (["convert", "phantom", "--annotations", tmp_path / "no", "--out", tmp_path / "s"], "medclm phantom-data"),
        (["info", tmp_path], "expected a converted set"),
        (["export", tmp_path, "--out", tmp_path / "x", "--format", "jsonl"], "expected a converted set"),
        (["export", tmp_path, "--out", tmp_path / "x", "--format", "excel"], "format: expected one of"),
        (["view", tmp_path], "expected a converted set"),
    ):
        code, _, err = run(monkeypatch, capsys, *words)
        assert code == 2, words
        assert err.startswith("medclm: ") and said in err and err.count("\n") == 1


def test_strict_stops_at_the_first_problem(coco, tmp_path, monkeypatch, capsys):
    (coco[1] / "image-003.png").write_bytes(b"not a picture")
    words = convert_words(coco, tmp_path / "set", "-o", "modality=XR", "--strict")
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 2 and "image unreadable" in err.replace("medclm: ", "") and err.count("\n") <= 2
    assert not (tmp_path / "set").exists()
    code, out, _ = run(monkeypatch, capsys, *words[:-1], "--restart")
    assert code == 0 and "image unreadable: 1" in out


def test_readers_are_listed(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "readers")
    assert code == 0 and "coco" in out and "deeplesion" in out
    _, narrow, _ = run(monkeypatch, capsys, "readers", columns="80")
    assert "…" not in narrow, "an option that cannot be read cannot be given"
    assert " ".join(narrow.split()) == " ".join(out.split())


def test_what_is_not_given_is_as_in_settings(coco, tmp_path, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, *convert_words(coco, tmp_path / "set"))
    assert code == 0, err
    assert sets.facts(tmp_path / "set")["settings"] == json.loads(json.dumps(Settings().public()))


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['medclm', '--help']\n"
        "from medclm import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'SimpleITK', 'pydicom', 'nibabel', 'fastapi', 'transformers', 'datasets'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=os.environ | {"COLUMNS": "100"})


def test_converting_loads_no_torch():
    code = (
        "import sys, medclm.pipeline, medclm.engines.local, medclm.organs, medclm.linking, medclm.questions, "
        "medclm.images, medclm.readers\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_phantoms_are_drawn_where_there_are_none(coco, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "PHANTOMS", 6)
    words = ["convert", "phantom", "--out", tmp_path / "set", "--workers", 1, "--split", "1,0,0", "--max-side", 128]
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 0, err
    facts = sets.facts(tmp_path / "set")
    assert facts["counts"]["images"] and facts["settings"]["organs"] == "phantom"
    assert set(facts["counts"]["organ"]) - {"background"}, "no lesion got a host"
    drawn = sorted((tmp_path / "cache" / "phantom").rglob("*"))
    before = [path.stat().st_mtime_ns for path in drawn]
    assert run(monkeypatch, capsys, *words)[0] == 0
    assert [path.stat().st_mtime_ns for path in drawn] == before, "drawn a second time"


def test_sources_say_where_their_annotations_come_from(coco, tmp_path, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "convert", "sample", "--out", tmp_path / "set")
    assert (code, err.count("\n")) == (2, 1) and "`medclm sample-data` fetches it" in err
    code, _, err = run(monkeypatch, capsys, "convert", "nih", "--out", tmp_path / "set")
    assert (code, err.count("\n")) == (2, 1) and "the path of nih's annotations (--annotations)" in err
