"""Runs on the digits: equal bits however they were interrupted, and folders that are never half written."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

import fastgrad
from fastgrad.cifar.checkpoint import RunFolder
from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError
from fastgrad.cifar.train import train
from fastgrad.cifar.treatment import Treated

CONFIG = Config(data="digits", model="small", epochs=4, batch_size=64, seed=5, threads=1, device="cpu")
TIMES = ("seconds", "images_per_second")


def same_end(first, second):
    """The two run folders hold equal weights, momentum, random state and metrics (but for the times)."""
    a, b = (RunFolder(folder).load() for folder in (first, second))
    _assert_equal(a, b, "")


def _assert_equal(a, b, place):
    assert type(a) is type(b), place
    if isinstance(a, torch.Tensor):
        assert a.shape == b.shape and a.dtype == b.dtype, place
        bytes_of = [t.contiguous().flatten().view(torch.uint8) for t in (a, b)] if a.numel() else [a, b]
        assert torch.equal(*bytes_of), place
    elif isinstance(a, dict):
        assert list(a) == list(b), place
        for key in a:
            if key not in TIMES:
                _assert_equal(a[key], b[key], f"{place}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), place
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            _assert_equal(x, y, f"{place}/{i}")
    else:
        assert a == b or (a != a and b != b), place


class Stop:
    """Sends this process SIGINT at one step of the run."""

    def __init__(self, at):
        self.at, self.steps = at, 0

    def __call__(self, position):
        self.steps += 1
        if self.steps == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("straight") / "run"
    threads = torch.get_num_threads()
    assert train(CONFIG, out)
    torch.set_num_threads(threads)
    return out


def test_run_learns_and_leaves_its_files(straight):
    rows = RunFolder(straight).read_metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["test_accuracy"] > 0.8 and rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    stored = json.loads((straight / "config.json").read_text())
    assert stored["config"]["model"] == "small" and stored["facts"]["data_name"] == "digits"
    assert {"test_accuracy.png", "train_loss.png"} <= {file.name for file in (straight / "plots").iterdir()}
    assert not list(straight.glob(".*")), "a temporary file was left behind"


def test_same_config_gives_the_same_bits(straight, tmp_path):
    train(CONFIG, tmp_path / "run")
    same_end(straight, tmp_path / "run")


def test_another_seed_gives_other_weights(straight, tmp_path):
    train(replace(CONFIG, seed=6), tmp_path / "run")
    with pytest.raises(AssertionError):
        same_end(straight, tmp_path / "run")


# 23 batches an epoch: in the middle of one, after the last one of one, after the first and in two places.
@pytest.mark.parametrize("stops", [(30,), (23,), (1,), (30, 40)])
def test_interrupted_and_resumed_run_ends_in_the_same_bits(straight, tmp_path, stops):
    out = tmp_path / "run"
    for i, at in enumerate(stops):
        assert not train(CONFIG, out, resume=i > 0, on_step=Stop(at))
    position = RunFolder(out).load()["position"]
    assert (position["epoch"] * 23 + position["batch"]) == sum(stops)
    assert train(CONFIG, out, resume=True)
    same_end(straight, out)


def test_strong_augmentation_and_autocast_resume_in_the_same_bits(tmp_path):
    config = replace(CONFIG, epochs=2, augment="strong", autocast=True, channels_last=True, limit_train=300)
    train(config, tmp_path / "a")
    assert not train(config, tmp_path / "b", on_step=Stop(3))
    assert train(config, tmp_path / "b", resume=True)
    same_end(tmp_path / "a", tmp_path / "b")


def test_treated_run_resumes_in_the_same_bits(tmp_path):
    config = replace(CONFIG, epochs=3, normalize="autoscale", grad_format="fp8_e4m3", scale="tensor",
                     compensate="q", backward_format="fp8_e5m2")  # fmt: skip
    train(config, tmp_path / "a")
    assert not train(config, tmp_path / "b", on_step=Stop(30))
    assert train(config, tmp_path / "b", resume=True)
    same_end(tmp_path / "a", tmp_path / "b")
    assert RunFolder(tmp_path / "a").monitor.read_bytes() == RunFolder(tmp_path / "b").monitor.read_bytes()
    for row in RunFolder(tmp_path / "b").read_metrics():
        assert row["global_std"] > 0 and 0 < row["q_mean"] < 2


def test_adam_run_resumes_in_the_same_bits(tmp_path):
    config = replace(CONFIG, epochs=3, optimizer="adam", lr=1e-2, schedule="staircase", normalize="autoscale",
                     grad_format="fp8_e4m3")  # fmt: skip
    train(config, tmp_path / "a")
    assert not train(config, tmp_path / "b", on_step=Stop(30))
    assert train(config, tmp_path / "b", resume=True)
    same_end(tmp_path / "a", tmp_path / "b")
    last = RunFolder(tmp_path / "b").read_metrics()[-1]
    assert last["test_accuracy"] > 0.8 and 0 < last["alpha"] != 1 and last["q_mean"] != 1


def test_adam_adds_its_weight_decay_to_the_treated_gradient():
    model = torch.nn.Linear(5, 3)
    config = Config(optimizer="adam", lr=1e-3, weight_decay=0.1, normalize="znorm")
    treated = Treated(config, model)
    twin = torch.nn.Linear(5, 3)
    twin.load_state_dict(model.state_dict())
    adam = torch.optim.Adam(twin.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    for _ in range(3):
        x = torch.randn(7, 5)
        for one, step in ((model, treated.optimizer.step), (twin, adam.step)):
            one.zero_grad()
            one(x).square().sum().backward()
            if one is twin:
                fastgrad.normalize_([twin.weight.grad], "znorm")
            step()
    assert torch.equal(model.weight, twin.weight) and torch.equal(model.bias, twin.bias)


@pytest.mark.slow
def test_compiled_run_resumes_in_the_same_bits(tmp_path):
    config = replace(CONFIG, epochs=2, compile=True)
    train(config, tmp_path / "a")
    assert not train(config, tmp_path / "b", on_step=Stop(30))
    assert train(config, tmp_path / "b", resume=True)
    same_end(tmp_path / "a", tmp_path / "b")


def test_finished_run_can_be_resumed_and_does_nothing(straight):
    before = (straight / "checkpoint.pt").read_bytes()
    assert train(CONFIG, straight, resume=True, on_step=lambda position: pytest.fail("a step was taken"))
    assert (straight / "checkpoint.pt").read_bytes() == before


def test_resume_with_other_options_names_them(straight):
    with pytest.raises(UsageError, match=r"options differ: lr \(0\.1 -> 0\.2\), seed \(5 -> 6\)"):
        train(replace(CONFIG, lr=0.2, seed=6), straight, resume=True)


def test_resume_on_other_images_is_refused(tmp_path):
    out = tmp_path / "run"
    train(replace(CONFIG, epochs=1), out)
    stored = json.loads((out / "config.json").read_text())
    stored["facts"]["fingerprint"] = "1442+355-00000000"
    (out / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UsageError, match="begun on other images"):
        train(replace(CONFIG, epochs=1), out, resume=True)


def test_folder_with_a_run_is_not_overwritten(straight):
    with pytest.raises(UsageError, match="holds a run already; continue it with --resume"):
        train(CONFIG, straight)


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(UsageError, match=r"no run in this folder \(config\.json is missing\)"):
        train(CONFIG, tmp_path, resume=True)


def test_damaged_checkpoint_is_named(tmp_path):
    out = tmp_path / "run"
    config = replace(CONFIG, epochs=1)
    train(config, out)
    (out / "checkpoint.pt").write_bytes((out / "checkpoint.pt").read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"checkpoint\.pt: damaged"):
        train(config, out, resume=True)


def _command(out, *options):
    names = {
        "data": "digits",
        "model": "small",
        "epochs": "3",
        "batch-size": "4",
        "threads": "1",
        "device": "cpu",
    }
    given = [word for name, value in names.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "fastgrad.cifar", "train", "--out", str(out), *given, *options]


def _start_and_wait_for_an_epoch(out):
    process = subprocess.Popen(_command(out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 300  # a busy machine is slow
    while not (out / "checkpoint.pt").exists():
        assert process.poll() is None and time.monotonic() < until, process.stdout.read()
        time.sleep(0.01)
    return process


@pytest.fixture(scope="module")
def straight_command(tmp_path_factory):
    out = tmp_path_factory.mktemp("command") / "run"
    subprocess.run(_command(out), check=True, capture_output=True)
    return out


def test_ctrl_c_in_a_real_process_leaves_a_run_that_goes_on(straight_command, tmp_path):
    for attempt in range(9):  # where the signal lands is a race: until it is inside an epoch
        out = tmp_path / f"run{attempt}"
        process = _start_and_wait_for_an_epoch(out)
        time.sleep(0.01 * 2**attempt)
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=300)
        position = RunFolder(out).load()["position"]
        if process.returncode == 0:  # it was at its end already
            continue
        assert process.returncode == 130 and "stopped in epoch" in text, text
        assert position["epoch"] >= 1
        if position["batch"] > 0:
            break
    else:
        pytest.fail("no signal landed inside an epoch")
    subprocess.run(_command(out, "--resume"), check=True, capture_output=True)
    same_end(straight_command, out)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_process_leaves_its_last_checkpoint(straight_command, tmp_path):
    out = tmp_path / "run"
    process = _start_and_wait_for_an_epoch(out)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert RunFolder(out).load()["position"]["epoch"] >= 1
    subprocess.run(_command(out, "--resume"), check=True, capture_output=True)
    same_end(straight_command, out)


def test_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"old")
    program = (
        "import os, pathlib; from fastgrad.replacing import replacing\n"
        f"with replacing(pathlib.Path({str(path)!r}), 'wb') as file:\n"
        "    file.write(b'new'); file.flush(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program], env=os.environ).returncode == 9
    assert path.read_bytes() == b"old"
