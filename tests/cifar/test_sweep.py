"""Plans, and sweeps in real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fastgrad.cifar import plan, sweep
from fastgrad.cifar.cli import app
from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError

PLAN = """
[options]
data = "digits"
model = "small"
limit_train = 200
batch_size = 50
epochs = 2
[axes]
seed = [0, 1]
[methods]
plain = {}
znorm = { normalize = "znorm", lr = 0.01 }
"""


@pytest.fixture
def plan_file(tmp_path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


def test_runs_are_all_combinations_with_the_first_axis_slowest(plan_file):
    runs = plan.read(str(plan_file))
    assert [run.name for run in runs] == ["plain-seed0", "znorm-seed0", "plain-seed1", "znorm-seed1"]
    assert runs[3].config == Config(data="digits", model="small", limit_train=200, batch_size=50, epochs=2, seed=1,
                                    normalize="znorm", lr=0.01)  # fmt: skip


def test_changes_replace_options_and_axes(plan_file):
    runs = plan.read(str(plan_file), ["epochs=5", "seed=7", "augment=plain,strong", "autocast=true"], ["znorm"])
    assert [run.name for run in runs] == ["znorm-seed7-plain", "znorm-seed7-strong"]
    assert all(run.config.epochs == 5 and run.config.autocast for run in runs)


@pytest.mark.parametrize("name", plan.built_in())
def test_plans_that_come_with_the_package_are_valid(name):
    runs = plan.read(name)
    assert len(runs) > 5 and len({run.name for run in runs}) == len(runs)


def test_the_plan_of_the_paper_has_every_method_model_and_augmentation():
    runs = plan.read("dynamics")
    assert len(runs) == 3 * 3 * 2 * 10
    assert {run.config.model for run in runs} == {"resnet20", "resnet56", "vgg16_bn"}


@pytest.mark.parametrize(
    "text, changes, methods, message",
    [
        ("[axes]\nseed = []\n[methods]\nplain = {}", [], [], "empty sweep"),
        ("[axes]\nseed = 3", [], [], "axis seed must be a list"),
        ("[axes]\nseed = [1, 1]", [], [], "hold a value twice"),
        ("[options]\nlenet = 5", [], [], "lenet: not an option"),
        ("[options]\nmodel = 'lenet'", [], [], "model: expected one of resnet20"),
        ("[option]\nlr = 1", [], [], "unknown .option."),
        ("options = 3", [], [], "must be a table"),
        ("[methods]\nclip = 3", [], [], "method clip must be a table"),
        ("[options", [], [], "cannot be read as a plan"),
        (PLAN, ["epochs"], [], "expected option=value"),
        (PLAN, ["epochs=many"], [], "epochs: expected int"),
        (PLAN, [], ["clip"], "no clip; it has plain, znorm"),
    ],
)
def test_faults_of_plans_are_named(tmp_path, text, changes, methods, message):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        plan.read(str(path), changes, methods)


def test_missing_plan_names_those_that_come_with_the_package():
    with pytest.raises(UsageError, match=r"no such plan; expected a TOML file or one of .*dynamics"):
        plan.read("nowhere.toml")


def test_arguments_make_the_config_again(monkeypatch):
    config = Config(epochs=3, lr=0.3, normalize="clip", nesterov=True, channels_last=False, seed=5, data="a b")
    seen = []
    monkeypatch.setattr("fastgrad.cifar.cli.run_experiment", lambda given, *_, **__: seen.append(given) or True)
    result = CliRunner().invoke(app, ["train", *sweep.arguments(config), "--out", "nowhere"])
    assert result.exit_code == 0 and seen == [config]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return all(torch.equal(one[name], other[name]) for name in one)


def command(*words: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "fastgrad.cifar", "sweep", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sweep_ends_in_the_bits_of_single_runs_and_does_nothing_twice(plan_file, tmp_path):
    out = tmp_path / "out"
    outcome = sweep.sweep(plan.read(str(plan_file), ["epochs=1"]), out, processes=2)
    assert len(outcome.finished) == 4 and not outcome.failed and not outcome.stopped
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.*")}
    again = sweep.sweep(plan.read(str(plan_file), ["epochs=1"]), out)
    assert len(again.finished) == 4 and before == {file: file.stat().st_mtime_ns for file in out.rglob("*.*")}
    single = ["train", "--data", "digits", "--model", "small", "--limit-train", "200", "--batch-size", "50",
              "--epochs", "1", "--threads", "1", "--normalize", "znorm", "--lr", "0.01", "--seed", "1"]  # fmt: skip
    assert CliRunner().invoke(app, [*single, "--out", str(tmp_path / "single")]).exit_code == 0
    assert same(out / "znorm-seed1", tmp_path / "single")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_sweep_that_was_stopped_goes_on_to_the_same_bits(plan_file, tmp_path, number):
    words = (plan_file, "--set", "seed=0", "--set", "epochs=6")
    straight, out = tmp_path / "straight", tmp_path / "out"
    process = command(*words, "--out", straight)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "finished: 2 runs" in said, said
    process = command(*words, "--processes", 1, "--out", out)
    wait_for((out / "plain-seed0" / "checkpoint.pt").exists, process)
    if number == signal.SIGKILL:  # of the run that is being trained; the sweep itself names it and trains the other
        (child,) = children(process.pid)
        os.kill(child, signal.SIGKILL)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 1 and "failed: plain-seed0" in said and "finished: znorm-seed0" in said, said
    else:
        process.send_signal(number)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 130 and "the same command goes on" in said, said
    process = command(*words, "--out", out)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "finished: 2 runs" in said, said
    assert same(out / "plain-seed0", straight / "plain-seed0") and same(out / "znorm-seed0", straight / "znorm-seed0")


def test_killed_sweep_leaves_its_runs_alone_and_a_second_one_keeps_out_of_their_way(plan_file, tmp_path):
    words = (plan_file, "--set", "seed=0", "--set", "epochs=2000", "--methods", "plain", "--out", tmp_path / "out")
    first = command(*words)
    wait_for((tmp_path / "out" / "plain-seed0" / "checkpoint.pt").exists, first)
    (child,) = children(first.pid)
    first.kill()
    first.wait()
    second = command(*words)
    said, _ = second.communicate(timeout=300)
    try:
        assert second.returncode == 1 and "another process is training in this folder" in said, said
    finally:
        os.kill(child, signal.SIGKILL)
    third = command(*words)
    wait_for(lambda: "resume" in Path(f"/proc/{children(third.pid)[0]}/cmdline").read_text() if children(third.pid)
             else False, third)  # fmt: skip
    third.send_signal(signal.SIGTERM)
    said, _ = third.communicate(timeout=300)
    assert third.returncode == 130 and "the same command goes on" in said, said


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_run_that_fails_is_named_and_stops_no_other(plan_file, tmp_path):
    out = tmp_path / "out"
    (out / "plain-seed0").mkdir(parents=True)
    (out / "plain-seed0" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    outcome = sweep.sweep(plan.read(str(plan_file), ["seed=0", "epochs=1"]), out)
    assert outcome.finished == ["znorm-seed0"] and "holds a run already" in outcome.failed["plain-seed0"]


def test_another_plan_in_the_same_folder_is_refused(plan_file, tmp_path):
    out = tmp_path / "out"
    sweep.sweep(plan.read(str(plan_file), ["seed=0", "epochs=1"], ["plain"]), out)
    with pytest.raises(UsageError, match=r"options differ: epochs \(1 -> 2\)"):
        sweep.sweep(plan.read(str(plan_file), ["seed=0"], ["plain"]), out)
