"""The benchmark's clock, who starts, and what is measured."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench import allocator, gate, measure, plan, race, report, rows, run, same_memory, shapes  # noqa: E402
from bench.cached import LARGE, SMALL  # noqa: E402
from bench.gate import Call  # noqa: E402
from bench.rows import ROWS, Contestant  # noqa: E402
from fastgrad import library  # noqa: E402

QUICK = race.Effort(repeats=2, seconds=0.0, budget=0.0)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


@pytest.fixture(scope="module")
def work() -> shapes.Workspace:
    return shapes.workspace("tiny")


@pytest.fixture(autouse=True)
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_failed_contestant_is_reported_and_not_timed(work):
    timed = []
    wrong = Contestant("wrong", "eager", lambda work: Call(lambda: timed.append(1), (), lambda result: []))
    right = next(c for c in ROWS["moments"].contestants if c.kind == "ours")
    results = race.run_row(ROWS["moments"], work, [wrong, right], QUICK)
    assert results[0]["failed"] == "Wrong: 0 tensors, expected 5" and "median" not in results[0]
    assert timed == [1], "called by the gate only"
    assert results[1]["failed"] is None and len(results[1]["samples"]) == 2


def test_disturbed_samples_are_taken_again():
    class Others:
        shares = iter([0.0, 0.5, 0.02, 0.3, 0.3, 0.3])

        def start(self) -> None: ...

        def share(self) -> float:
            return next(self.shares)

    timing = measure.measure({"x": lambda: None}, 3, seconds=0.0, others=Others(), tries=3)["x"]
    assert timing.others == [0.0, 0.02, 0.3] and (timing.dropped, timing.disturbed) == (3, 1)


def test_contestants_take_turns():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    measure.measure(calls, 4, seconds=0.0, tries=1)
    assert order[3:] == list("abcbcacababc"), "after one call each, to see how long it takes"


def test_slow_calls_are_made_three_times_in_all(monkeypatch):
    """Two here, each a sample, after the one in the gate."""
    clock, made = [0.0], []

    def slow():
        made.append(1)
        clock[0] += 2.0

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    class Others:
        def start(self) -> None: ...

        def share(self) -> float:
            return 0.9

    timing = measure.measure({"slow": slow}, 11, seconds=0.05, budget=2.0, others=Others())["slow"]
    assert len(made) == 2 and timing.samples == [2.0, 2.0] and timing.disturbed == 2


def test_what_would_compile_for_minutes_is_left_out_and_says_so(work):
    built = []

    def contestant(name: str, kind: str, compiles: str) -> Contestant:
        def build(work):
            built.append(name)
            return Call(lambda: None)

        return Contestant(name, kind, build, gate.nothing, None, compiles)

    racers = [contestant("list", "compile", "list"), contestant("tensor", "compile", "tensor"),
              contestant("peer", "peer", "list")]  # fmt: skip

    def of(tensors) -> shapes.Workspace:
        return dataclasses.replace(work, grads=tensors, initial=work.initial | {"grads": tensors})


    def left_out(which, effort):
        built.clear()
        results = race.run_row(ROWS["moments"], which, racers, effort)
        assert built == [r["contestant"] for r in results if "left_out" not in r]
        return [r["contestant"] for r in results if "left_out" in r]

    assert left_out(work, QUICK) == []
    longer = of(work.grads * 2)
    assert left_out(longer, QUICK) == ["list", "peer"]
    assert left_out(of(work.grads[:1]), QUICK) == ["tensor"], "which is the list"
    assert left_out(longer, dataclasses.replace(QUICK, compile="all")) == []
    assert left_out(work, dataclasses.replace(QUICK, compile="none")) == ["list", "tensor", "peer"]


def test_the_first_call_of_what_compiles_is_timed_and_checked(work):
    calls = []
    right = next(c for c in ROWS["moments"].contestants if c.kind == "ours")

    def build(work):
        call = right.build(work)
        return dataclasses.replace(call, function=lambda *a: calls.append(1) or call.function(*a))

    racer = dataclasses.replace(right, build=build, compiles="tensor")
    call, result = race.prepare(ROWS["moments"], racer, work)
    assert call is not None and result["cold_seconds"] > 0 and calls == [1]


def test_contestants_that_hold_much_are_let_go_before_the_next(work):
    alive: weakref.WeakSet = weakref.WeakSet()
    most = []

    class Held:
        def __call__(self):
            most.append(len(alive))

    def build(work):
        held = Held()
        alive.add(held)
        return Call(held)

    racers = [Contestant(name, "ours", build, gate.nothing) for name in "abc"]
    row = dataclasses.replace(ROWS["adamw"], together=False)
    results = race.run_row(row, work, racers, QUICK)
    assert [r["contestant"] for r in results] == list("abc") and max(most) == 1


# --- what is run


def test_without_options_the_selection_of_the_plan_is_run():
    parts = run.parts_of(run.parser().parse_args([]))
    assert parts == plan.default_parts()
    main = parts[0]
    assert set(main.rows) == set(ROWS) and set(main.kinds) == set(rows.KINDS)
    assert {name for part in parts for name in part.lists} == {"gpt", "resnet56", "one", SMALL, LARGE}
    assert main.dtypes == ("fp32",) and main.isa == library.instruction_set()
    assert any(part.dtypes == ("bf16",) for part in parts)


def test_options_make_a_matrix():
    given = ["--lists", "tiny", "--threads", "1,2", "--dtype", "fp32,bf16", "--rows", "bf16,fp8"]
    options = run.parser().parse_args(given)
    (part,) = run.parts_of(options)
    assert list(part.settings()) == [
        ("tiny", "fp32", 1, "bf16"), ("tiny", "fp32", 1, "fp8"), ("tiny", "fp32", 2, "bf16"),
        ("tiny", "fp32", 2, "fp8"), ("tiny", "bf16", 1, "fp8"), ("tiny", "bf16", 2, "fp8"),
    ], "nothing is rounded from bf16 to bf16"  # fmt: skip
    with pytest.raises(SystemExit):
        run.parser().parse_args(["--isa", "mmx"])


def test_a_part_is_the_same_part_in_another_process():
    part = plan.Part(("tiny",), ("moments", "fp8"), ("bf16",), (1, 2), plan.BEST)
    assert run.parts_of(run.parser().parse_args(part.options())) == [part]
    assert part.environment()["FASTGRAD_CPU"] == plan.BEST


@pytest.mark.parametrize(("switch", "said"), [("keep", "jemalloc"), ("system", "the system's")])
def test_memory_that_was_freed_stays(switch, said, tmp_path):
    """Blocks of 64 MB, each freed before the next is asked for: the pages of later ones are there, or made anew."""
    variables = allocator.keeping() if switch == "keep" else {}
    if switch == "keep" and not variables:
        pytest.skip("jemalloc is not installed")
    faults = """
import resource, torch
torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4): torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    stored = tmp_path / "run.json"
    options = ["--rows", "moments", "--lists", "tiny", "--kinds", "ours", "--repeats", "1", "--seconds", "0"]
    command = [sys.executable, "-m", "bench.run", *options, "--malloc", switch, "--json", str(stored)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert json.loads(stored.read_text())["machine"]["malloc"].startswith(said)
    command = [sys.executable, "-c", faults]
    seen = subprocess.run(command, env=os.environ | variables, check=True, capture_output=True, text=True)
    assert (int(seen.stdout) < 1000) == (switch == "keep"), seen.stdout


def test_libraries_that_are_missing_are_no_failure(monkeypatch, capsys, tmp_path):
    def missing(work):
        raise ModuleNotFoundError("No module named 'qtorch'")

    row = ROWS["moments"]
    peer = Contestant("peer", "reference", missing, package="qtorch")
    monkeypatch.setitem(ROWS, "moments", dataclasses.replace(row, contestants=(*row.contestants[:2], peer)))
    arguments = ["--rows", "moments", "--lists", "tiny", "--repeats", "2", "--seconds", "0", "--no-compile"]
    assert run.main(arguments) == 0
    seen = capsys.readouterr()
    assert "| peer | **failed** |" in seen.out and "not here: tiny fp32" in seen.err
    ours = dataclasses.replace(peer, package=None)
    monkeypatch.setitem(ROWS, "moments", dataclasses.replace(row, contestants=(*row.contestants[:2], ours)))
    assert run.main(arguments) == 1


@needs_compiler
def test_run_and_report_from_end_to_end(tmp_path, capsys):
    stored = tmp_path / "new" / "out.json"
    arguments = ["--rows", "moments,momentum", "--lists", "tiny", "--repeats", "2", "--seconds", "0.001"]
    matrix = ["--threads", "1", "--dtype", "fp32,bf16"]
    assert run.main([*arguments, *matrix, "--no-compile", "--json", str(stored)]) == 0
    assert "fastgrad.gradient_moments" in capsys.readouterr().out
    text = stored.read_text()
    assert str(tmp_path) not in text and "--json" not in text
    record = json.loads(text)
    assert {r["row"] for r in record["results"]} == {"moments", "momentum"}
    assert record["machine"]["torch"] == torch.__version__
    assert {(r["dtype"], r["row"], r["bytes"]) for r in record["results"]} == {
        ("fp32", "moments", 4), ("bf16", "moments", 2), ("fp32", "momentum", 20), ("bf16", "momentum", 18),
    }  # fmt: skip
    probes = [r for r in record["results"] if r["kind"] == "probe"]
    assert len(probes) == 4 and all(r["failed"] is None for r in probes)
    assert report.main([str(stored), "--out", str(tmp_path / "b.md")]) == 0
    page = (tmp_path / "b.md").read_text()
    assert "time / floor" in page and "Tiny, bf16, " in page and "Noise of the machine, Tiny, bf16" in page


@needs_compiler
@pytest.mark.skipif(len(plan.instruction_sets()) < 2, reason="one instruction set only")
def test_another_instruction_set_runs_in_a_process_of_its_own(tmp_path):
    stored = tmp_path / "out.json"
    sets = plan.instruction_sets()[:2]
    arguments = ["--rows", "moments", "--lists", "tiny", "--repeats", "2", "--seconds", "0", "--no-compile"]
    assert run.main([*arguments, "--isa", ",".join(sets), "--json", str(stored)]) == 0
    results = json.loads(stored.read_text())["results"]
    assert [isa for isa, _ in itertools.groupby(r["isa"] for r in results)] == sets
    assert library.instruction_set() == sets[0]


def test_two_optimizers_step_the_same_memory():
    optimizers = same_memory.pair([(300, 128), (77,)])
    ours, theirs = optimizers.values()
    for p in ours.param_groups[0]["params"]:
        assert ours.state[p]["exp_avg"] is theirs.state[p]["exp_avg"]
        assert ours.state[p]["exp_avg_sq"] is theirs.state[p]["exp_avg_sq"]
        before = theirs.state[p]["exp_avg"].clone()
        p.grad.fill_(1.0)
    medians = same_memory.seconds({name: optimizer.step for name, optimizer in optimizers.items()}, 3)
    assert list(medians) == list(optimizers) and not torch.equal(before, ours.state[p]["exp_avg"])
    assert ours.state[p]["step"] == theirs.state[p]["step"] == 5
