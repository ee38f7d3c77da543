"""The benchmark for a GPU, as far as a CPU goes: all but the events. And the script that runs it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

import fastgrad  # noqa: E402
from bench import device, gpu  # noqa: E402
from bench.gate import Call  # noqa: E402
from bench.rows import ROWS, Contestant  # noqa: E402
from bench.shapes import Workspace, workspace  # noqa: E402

QUICK = ["--device", "cpu", "--sizes", "tiny", "--repeats", "2", "--seconds", "0", "--warmup", "0"]
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture(scope="module")
def work() -> Workspace:
    return workspace("tiny")


@pytest.fixture(scope="module")
def truth() -> Workspace:
    return workspace("tiny")


def test_rows_are_those_of_the_cpu_with_floors_of_the_device():
    rows = gpu.rows()
    assert set(rows) == set(ROWS)
    for row in rows.values():
        floors = [c.name for c in row.contestants if c.kind == "floor"]
        assert floors[:2] == ["floor: device-to-device copy", "floor: triad"]
        assert len(floors) == (3 if row.name == "moments" else 2)
        assert any(c.kind == "ours" for c in row.contestants)
        assert not any("C++" in c.name or "only bare" in c.name for c in row.contestants)
    kinds = {c.kind for c in rows["momentum"].contestants}
    assert {"ours", "eager", "foreach", "fused", "compile", "floor"} <= kinds


@pytest.mark.parametrize("moved", [4, 4.625, 6, 24])
def test_floors_move_the_bytes_of_the_row(work, moved):
    total = round(moved * work.elements)
    source, target = device.Scratch(work, total).halves
    assert abs(source.nbytes + target.nbytes - total) <= 1
    built = {c.name: c.build(work) for c in device.floors(moved, reads_only=True)}
    assert abs(built["floor: sum of one tensor"]().item() * 4 - total) < 4
    assert abs(built["only memset (writes)"]().nbytes - total) <= 1
    assert abs(built["floor: triad"]().nbytes * 3 - total) < 12
    copied = built["floor: device-to-device copy"]()
    assert abs(2 * copied.nbytes - total) <= 1


@pytest.mark.parametrize("name", list(gpu.rows()))
@torch.no_grad()
def test_what_we_compute_is_compared_bit_for_bit(work, truth, name):
    for contestant in gpu.rows()[name].contestants:
        if contestant.kind == "ours":
            gpu.check_equal(contestant, work, truth)


def _planted(work: Workspace, change) -> Contestant:
    def build(which: Workspace) -> Call:
        def step(grads):
            result = fastgrad.gradient_moments(grads)
            if which is work:
                change(which, result)
            return result

        return Call(step, (which.grads,))

    return Contestant("planted", "ours", build)


@torch.no_grad()
def test_one_bit_of_difference_is_found(work, truth):
    gpu.check_equal(_planted(work, lambda w, table: None), work, truth)

    def negative_zero(w, table):
        w.momenta[2].view(-1)[7] = -0.0

    truth.initial["momenta"][2].view(-1)[7] = 0.0
    work.initial["momenta"][2].view(-1)[7] = 0.0
    with pytest.raises(gpu.Different, match=r"momenta\[2\]"):
        gpu.check_equal(_planted(work, negative_zero), work, truth)
    with pytest.raises(gpu.Different, match=r"result\[0\]"):
        gpu.check_equal(_planted(work, lambda w, table: table[0, 2].mul_(1 + 2**-52)), work, truth)
    work.reset()


def test_a_wrong_contestant_is_not_timed(work, truth, monkeypatch):
    timed = []
    rows = gpu.rows()
    wrong = _planted(work, lambda w, table: table.add_(1.0))
    row = rows["moments"]
    options = gpu.parser().parse_args(QUICK)
    monkeypatch.setattr(device, "measure", lambda calls, *a, **k: timed.extend(calls) or {})
    results = gpu.run_row(dataclasses.replace(row, contestants=(wrong,)), work, truth, options)
    assert results[0]["failed"].startswith("Different: result[0]") and timed == []


@torch.no_grad()
def test_dry_run_from_end_to_end(tmp_path):
    stored, page = tmp_path / "x.json", tmp_path / "x.md"
    rows = ["--rows", "moments,int8,fp4,momentum,chain_fp8", "--no-compile"]
    assert gpu.main([*QUICK, *rows, "--json", str(stored), "--out", str(page)]) == 0
    record, text = json.loads(stored.read_text()), page.read_text()
    assert record["timer"] == "wall clock" and "dry run" in record["machine"]["device"]
    assert {r["row"] for r in record["results"]} == {"moments", "int8", "fp4", "momentum", "chain_fp8"}
    # Other libraries may be missing.
    run = [r for r in record["results"] if r["package"] is None]
    assert all(r["failed"] is None and len(r["samples"]) == 2 for r in run)
    assert str(tmp_path) not in text + stored.read_text()
    assert "torch.optim.SGD(fused=True)" in text and "4.625 bytes per element" in text
    assert "time / floor" in text and "dry run" in text
    tables = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    assert all(line.count("|") in (3, 7) for line in tables)


def test_check_times_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "measure", None)
    out = tmp_path / "x.md"
    assert gpu.main([*QUICK, "--rows", "bf16", "--check", "--kinds", "ours", "--out", str(out)]) == 0
    assert out.read_text().count("checked") >= 2 and "torch eager" not in out.read_text()


def test_without_a_device_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--sizes", "tiny"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_contestants_are_warmed_up_and_take_turns():
    class Timer:
        name = "planted"

        def seconds(self, call, calls):
            order.append((call(), calls))
            return 0.1

    order: list = []
    calls = {name: (lambda name=name: name) for name in "abc"}
    timings = device.measure(calls, Timer(), 4, seconds=0.3, warmup=0.15)
    assert [name for name, _ in order[:15]] == list("aaaaabbbbbccccc"), "three to see, two to be warm"
    assert [name for name, _ in order[15:]] == list("abcbcacababc")
    assert all(count == 3 for _, count in order[15:]) and len(timings["a"].samples) == 4


def test_events_are_read_as_seconds_of_one_call(monkeypatch):
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("synchronize")

        def elapsed_time(self, end):
            return 6.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert device.EventTimer().seconds(lambda: log.append("call"), 3) == pytest.approx(2e-3)
    assert log == ["record", "call", "call", "call", "record", "synchronize"]


# --- the script


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "bench" / "gpu_run.sh"), *arguments], capture_output=True, text=True, timeout=60
    )


@needs_bash
def test_script_is_valid_and_prints_its_commands():
    assert subprocess.run(["bash", "-n", str(ROOT / "bench" / "gpu_run.sh")]).returncode == 0
    done = script("--dry-run", "--python", "/opt/a b/python", "--out", "somewhere")
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert all("/opt/a\\ b/python" in line for line in commands)
    for part in ("pip install --no-build-isolation -e", "fastgrad.cli info", "pytest tests -k cuda_device"):
        assert any(part in line for line in commands), part
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        assert any(f"compute-sanitizer --tool {tool} --error-exitcode 1" in line for line in commands)
    assert commands[-1].endswith("--json somewhere/gpu.json --out somewhere/gpu.md")
    assert not (ROOT / "somewhere").exists()


@needs_bash
def test_script_refuses_what_it_does_not_know():
    assert script("--dryrun").returncode == 64
    assert script("--help").returncode == 0 and "--skip-build" in script("--help").stdout


@needs_bash
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_script_stops_without_a_device(tmp_path):
    done = script("--python", sys.executable, "--out", str(tmp_path), "--skip-build")
    assert done.returncode == 1 and "finds a CUDA device" in done.stderr
    assert "bench.gpu" not in done.stdout


@needs_bash
def test_script_goes_on_after_a_failure_and_counts_it(tmp_path):
    """A python that refuses the contract tests only."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\ncase "$*" in *"-m pytest"*) exit 3 ;; esac\nexit 0\n')
    fake.chmod(0o755)
    done = script("--python", str(fake), "--out", str(tmp_path / "out"), "--quick")
    assert done.returncode == 1, done.stdout
    assert "contract failed (exit code 3)" in done.stdout and "== failed: contract" in done.stdout
    assert "--sizes resnet56 --no-compile" in done.stdout, "the benchmark ran all the same"
    if shutil.which("compute-sanitizer") is None:
        assert "compute-sanitizer is absent" in done.stdout
    else:
        pytest.skip("compute-sanitizer is here and ran on a stand-in for python")
