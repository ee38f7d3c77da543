"""A whole conversion: the same bytes by any engine and after any interruption; the old set until the new is whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from convert_small import COUNT
from small_cases import files_of, small_cases, small_settings

from medclm import building, engines, pipeline, reviews, sets, swapping
from medclm.building import Building
from medclm.problems import DataError, Problems, Reason

SCRIPT = Path(__file__).parents[1] / "support" / "convert_small.py"
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), str(SCRIPT.parent)])}


def convert(cases, out: Path, problems: Problems | None = None, *, workers: int = 1, **options) -> dict:
    chosen = options.pop("settings", None) or small_settings()
    return pipeline.convert_cases(iter(cases), out, chosen, problems or Problems(), workers=workers, **options)


def start(images: Path, out: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), str(images), str(out), *more]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def children_of(process: int) -> list[str]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


@pytest.fixture
def cases(tmp_path):
    return small_cases(tmp_path / "images", 20)


def stop_after(count: int):
    """A report that interrupts after some shards."""
    seen = []

    def report(progress) -> None:
        seen.append(progress)
        if len(seen) > count:
            raise KeyboardInterrupt

    return report


def test_set_is_complete_and_nothing_else_is_left(cases, tmp_path):
    found = convert(cases, tmp_path / "set")
    rows = list(sets.rows(tmp_path / "set"))
    assert found["counts"]["rows"] == len(rows) > 0
    assert found["counts"]["images"] == len({row["case"] for row in rows}) == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "set", "set.problems.json"]
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["README.md", "data", "set.json"]
    for path in sets.files(tmp_path / "set"):
        assert {row["split"] for row in pq.read_table(path, columns=["split"]).to_pylist()} == {path.stem[:-7]}


def test_processes_give_the_same_bytes_as_none(cases, tmp_path):
    convert(cases, tmp_path / "one" / "set")
    convert(cases, tmp_path / "two" / "set", workers=2)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_ray_gives_the_same_bytes(cases, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    convert(cases, tmp_path / "local" / "set")
    convert(cases, tmp_path / "ray" / "set", engine="ray", workers=2)
    assert files_of(tmp_path / "local") == files_of(tmp_path / "ray")


def test_ray_says_what_a_strict_worker_met(cases, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    cases[0] = replace(cases[0], width=999)
    with pytest.raises(DataError, match=r"^image of another size than its annotation says: tests film/000: 999 x 64"):
        convert(cases, tmp_path / "set", engine="ray", workers=1, settings=small_settings(strict=True))


def test_killed_and_run_again_gives_the_same_bytes(tmp_path):
    """SIGKILL to the parent in the middle of the shards."""
    convert(
        small_cases(tmp_path / "images", COUNT, size=256),
        tmp_path / "whole" / "set",
        settings=small_settings(shard_cases=2),
    )
    (tmp_path / "cut").mkdir()
    out = tmp_path / "cut" / "set"
    process = start(tmp_path / "images", out)
    done = tmp_path / "cut" / "set.building" / "done"
    deadline = time.monotonic() + 120
    while len(list(done.glob("*.json"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.005)
    children = children_of(process.pid)
    process.kill()
    process.wait()
    while any(Path(f"/proc/{child}").exists() for child in children):  # nobody works on in the dark
        assert time.monotonic() < deadline, f"workers {children} outlived their parent"
        time.sleep(0.05)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    finished = {path.stem for path in done.glob("*.json")}
    again = start(tmp_path / "images", out)
    assert again.wait(timeout=300) == 0, again.stderr.read()
    assert 2 <= len(finished) < 15
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "cut")


def test_finished_shards_are_not_made_again(cases, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        convert(cases, tmp_path / "set", report=stop_after(2))
    made = []
    run = engines.run
    monkeypatch.setattr(
        engines, "run", lambda engine, tasks, workers: run(engine, made.extend(tasks) or tasks, workers)
    )
    reports = []
    convert(cases, tmp_path / "set", report=reports.append)
    plan = sum(1 for _ in sets.files(tmp_path / "set"))
    assert len(made) == plan - 2
    assert reports[0].done == reports[0].resumed > 0
    assert reports[-1].done == reports[-1].total == 20


def test_a_file_that_was_cut_off_is_made_again(cases, tmp_path):
    convert(cases, tmp_path / "whole" / "set")
    with pytest.raises(KeyboardInterrupt):
        convert(cases, tmp_path / "cut" / "set", report=stop_after(2))
    shard = sorted((tmp_path / "cut" / "set.building" / "set" / "data").glob("*.parquet"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    convert(cases, tmp_path / "cut" / "set")
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "cut")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_side": 32}, "max_side was 512, is 32"),
        ({"rule": "iou"}, "rule was 'coverage', is 'iou'"),
        ({"salt": "quite another salt"}, "salt changed"),
    ],
)
def test_resume_with_other_settings_is_refused(cases, tmp_path, change, said):
    with pytest.raises(KeyboardInterrupt):
        convert(cases, tmp_path / "set", report=stop_after(1))
    before = files_of(tmp_path / "set.building" / "set")
    with pytest.raises(DataError, match=said):
        convert(cases, tmp_path / "set", settings=small_settings(**change))
    assert files_of(tmp_path / "set.building" / "set") == before
    convert(cases, tmp_path / "set")


def test_resume_with_other_annotations_is_refused_and_restart_begins_anew(cases, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        convert(cases, tmp_path / "set", report=stop_after(1))
    with pytest.raises(DataError, match="annotations changed"):
        convert(cases[1:], tmp_path / "set")
    convert(cases[1:], tmp_path / "set", restart=True)
    convert(cases[1:], tmp_path / "other" / "set")
    assert files_of(tmp_path / "set") == files_of(tmp_path / "other" / "set")


def test_old_set_stays_until_the_new_one_is_whole(cases, tmp_path):
    out = tmp_path / "set"
    convert(cases, out)
    old = files_of(out)
    smaller = small_settings(max_side=32)
    with pytest.raises(KeyboardInterrupt):
        convert(cases, out, settings=smaller, report=stop_after(1))
    assert files_of(out) == old
    convert(cases, out, settings=smaller)
    convert(cases, tmp_path / "fresh" / "set", settings=smaller)
    assert files_of(out) == files_of(tmp_path / "fresh" / "set") != old


def test_full_disk_is_said_and_the_old_set_stays(tmp_path):
    """A file may have 100 kB; the shards need more."""
    out = tmp_path / "set"
    convert(small_cases(tmp_path / "few", 4), out)
    old = files_of(out)
    process = start(tmp_path / "images", out, "100000")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert "cannot write" in said and ".parquet: file too large" in said
    assert "Traceback" not in said
    assert files_of(out) == old
    assert not list((tmp_path / "set.building" / "set" / "data").glob("*"))
    again = start(tmp_path / "images", out)
    assert again.wait(timeout=300) == 0, again.stderr.read()
    assert sets.facts(out)["counts"]["images"] == COUNT


def test_a_worker_that_dies_is_said_and_the_next_run_goes_on(cases, tmp_path, monkeypatch):
    def kill(progress) -> None:
        for child in children_of(os.getpid()):
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(int(child), signal.SIGKILL)

    many = small_settings(shard_cases=1)
    calls = []
    with pytest.raises(DataError, match="a worker died"):
        convert(
            cases,
            tmp_path / "set",
            settings=many,
            workers=2,
            report=lambda progress: (calls.append(0), len(calls) == 2 and kill(progress)),
        )
    convert(cases, tmp_path / "set", settings=many)
    assert sets.facts(tmp_path / "set")["counts"]["images"] == 20


@pytest.mark.parametrize("atomic", [True, False])
def test_killed_after_the_swap_the_next_run_heals(cases, tmp_path, monkeypatch, atomic):
    out = tmp_path / "set"
    convert(cases, out)
    with monkeypatch.context() as patch:
        if not atomic:
            patch.setattr(swapping, "_exchange", lambda a, b: False)
        patch.setattr(building.shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(cases, out, settings=small_settings(max_side=32))
    assert sets.facts(out)["settings"]["max_side"] == 32
    convert(cases, out, settings=small_settings(max_side=48))  # what was left is not taken for an unfinished run
    assert sets.facts(out)["settings"]["max_side"] == 48
    assert not (tmp_path / "set.building").exists()


def test_killed_between_the_two_renames_the_old_set_comes_back(cases, tmp_path, monkeypatch):
    out = tmp_path / "set"
    convert(cases, out)
    old = files_of(out)
    rename = Path.rename

    def stop(self: Path, target) -> Path:
        if self.name == "set" and Path(target) == out:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(swapping, "_exchange", lambda a, b: False)
        patch.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(cases, out, settings=small_settings(max_side=32))
    assert not out.exists()
    with Building(out).locked():
        assert files_of(out) == old
    convert(cases, out, settings=small_settings(max_side=32))
    assert sets.facts(out)["settings"]["max_side"] == 32


def test_two_at_a_time_are_refused(cases, tmp_path):
    with Building(tmp_path / "set").locked(), pytest.raises(DataError, match="another process is converting"):
        convert(cases, tmp_path / "set")


def test_a_folder_that_is_no_set_is_left_alone(cases, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(DataError, match="which is something else"):
        convert(cases, tmp_path / "thesis")
    assert files_of(tmp_path / "thesis") == {"chapter.txt": b"years of work"}


def test_no_cases_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected at least one case"):
        convert([], tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_annotations_that_cannot_be_read_leave_nothing(cases, tmp_path):
    def broken():
        yield cases[0]
        raise DataError("annotations: expected 7 columns, got 6")

    with pytest.raises(DataError, match="expected 7 columns"):
        convert(broken(), tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_what_names_patients_is_for_its_owner_alone(cases, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        convert(cases, tmp_path / "set", report=stop_after(1))
    assert (tmp_path / "set.building").stat().st_mode & 0o077 == 0
    convert(cases, tmp_path / "set")
    assert (tmp_path / "set.problems.json").stat().st_mode & 0o077 == 0
    assert (tmp_path / "set").stat().st_mode & 0o055 == 0o055


def test_problems_of_reading_and_of_converting_are_both_counted(cases, tmp_path):
    cases[3] = replace(cases[3], image=replace(cases[3].image, path="/nowhere.png"))
    problems = Problems()

    def reading():
        problems.add(Reason.ROW_MALFORMED, "Smith, line 4")
        yield from [*cases, cases[0]]

    found = pipeline.convert_cases(reading(), tmp_path / "set", small_settings(), problems, workers=1)
    counts = {reason: entry["count"] for reason, entry in found["problems"].items()}
    assert counts == {"malformed row": 1, "image missing": 1, "two images with one id": 1}
    report = json.loads((tmp_path / "set.problems.json").read_text())
    (reference,) = found["problems"]["malformed row"]["examples"]
    assert report["malformed row"]["examples"] == {reference: "Smith, line 4"}


def test_verdicts_stay_with_rows_that_are_the_same(cases, tmp_path):
    out = tmp_path / "set"
    convert(cases, out)
    rows = list(sets.rows(out, columns=["id", "provenance_hash", "case"]))
    first, last = rows[0], next(row for row in rows[::-1] if row["case"] != rows[0]["case"])
    for row in (first, last):
        reviews.append(out, row["id"], "reject", row["provenance_hash"])
    reviews.append(out, rows[1]["id"], "accept", "made of something else since")
    convert(cases, out)
    assert sets.verdicts(out) == {first["id"]: "reject", last["id"]: "reject"}
    assert rows[1]["id"] in (out / "review.outdated.jsonl").read_text()
    convert(cases, out, settings=small_settings(max_side=32))
    assert sets.verdicts(out) == {}
    assert len((out / "review.outdated.jsonl").read_text().splitlines()) == 3


def test_a_file_that_a_dying_worker_has_begun_is_not_published(tmp_path, monkeypatch):
    """A worker outlives its killed parent by a moment, in which the next run has looked for leftovers already."""
    made = pipeline.engines.run

    def run(*arguments):
        yield from made(*arguments)
        (tmp_path / "set.building" / "set" / "data" / ".train-000000.parquet.1").write_bytes(b"PAR1")

    monkeypatch.setattr(pipeline.engines, "run", run)
    cases = small_cases(tmp_path / "images", 4)
    pipeline.convert_cases(iter(cases), tmp_path / "set", small_settings(), Problems(), workers=1)
    names = [path.name for path in (tmp_path / "set" / "data").iterdir()]
    assert names and not any(name.startswith(".") for name in names)
