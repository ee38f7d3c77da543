"""The benchmark itself: what its floors move, what its gate refuses, what its report says."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench import adamw, floors, gate, measure, plain, report, run, shapes  # noqa: E402
from bench.contestants import ROWS, Contestant  # noqa: E402
from bench.floors import Floor  # noqa: E402
from bench.gate import Call, Wrong  # noqa: E402
from fastgrad.cifar import models  # noqa: E402

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


@pytest.fixture(scope="module")
def work() -> shapes.Workspace:
    return shapes.workspace("tiny")


@pytest.fixture
def record() -> dict:
    return json.loads((Path(__file__).parent / "bench_miniature.json").read_text())


@pytest.fixture(autouse=True)
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    torch.set_num_threads(request.param)
    return request.param


def elements(name: str) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.LISTS[name]())


def test_the_lists_are_those_that_are_named():
    assert (len(shapes.resnet56()), elements("resnet56")) == (167, 853_018)
    assert (len(shapes.gpt()), elements("gpt")) == (147, 109_632_000)
    assert elements("one") == 1 << 26


def test_resnet56_is_the_model_of_the_experiments():
    parameters = models.build("resnet56", classes=10, channels=3).parameters()
    assert sorted(tuple(p.shape) for p in parameters) == sorted(shapes.resnet56())


def test_data_is_the_same_every_time_and_reset_restores_it(work):
    again = shapes.workspace("tiny")
    assert all(map(torch.equal, work.initial["grads"], again.grads))
    for t in (*again.grads, *again.params, *again.momenta):
        t.zero_()
    again.reset()
    for name in ("grads", "params", "momenta"):
        assert all(map(torch.equal, getattr(again, name), work.initial[name]))


# --- floors


@needs_compiler
@pytest.mark.parametrize("window", [0, 1 << 10, 25_000])
def test_floor_reads_everything(work, threads, window):
    work.reset()
    truth = sum(float(g.double().sum()) for g in work.grads)
    size = sum(float(g.abs().double().sum()) for g in work.grads)
    assert abs(floors.bind(Floor("nothing", True, window=window), work)() - truth) < 1e-5 * size


@needs_compiler
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("body", "shift"), [("to_u16", 16), ("to_u8", 24)])
@pytest.mark.parametrize("read_first", [False, True])
def test_floor_writes_every_code(work, threads, body, shift, streaming, read_first):
    if streaming and not floors.has_streaming():
        pytest.skip("no streaming stores")
    work.reset()
    call = floors.bind(Floor(body, read_first, streaming, window=9_000), work)
    for out in call.addresses.outs:
        out.fill_(-1)
    call()
    for g, out in zip(work.grads, call.addresses.outs, strict=True):
        codes = out.view(torch.uint8).view(-1)[: g.numel()] if shift == 24 else out.view(-1)
        expected = (g.view(torch.int32).view(-1) >> shift) & (2 ** (32 - shift) - 1)
        assert torch.equal(codes.to(torch.int32) & (2 ** (32 - shift) - 1), expected)
        rest = out.view(torch.uint8).view(-1)[g.numel() :] if shift == 24 else out[:0]
        assert bool((rest == 255).all())


@needs_compiler
@pytest.mark.parametrize("window", [0, 9_000])
def test_floor_changes_in_place_once(work, threads, window):
    work.reset()
    floors.bind(Floor("in_place", window > 0, window=window), work, a=2.0, c=0.5)()
    for g, before in zip(work.grads, work.initial["grads"], strict=True):
        assert torch.equal(g, (before - 0.5) * 2.0)


@needs_compiler
@pytest.mark.parametrize("window", [0, 9_000])
def test_floor_of_momentum_is_one_step(work, threads, window):
    work.reset()
    call = Call(floors.bind(Floor("momentum", window > 0, window=window), work, mu=0.9, lr=1e-3))
    call()
    gate.momentum(work, call, None, lr=1e-3, mu=0.9, decay=0.0)
    assert all(map(torch.equal, work.grads, work.initial["grads"]))


@needs_compiler
def test_floor_of_adamw_moves_its_bytes(work, threads):
    work.reset()
    call = floors.bind(Floor("adamw"), work, mu=0.5, lr=1.0)
    for second in call.addresses.seconds:
        second.fill_(2.0)
    call()
    for i, (g, m, p) in enumerate(zip(*(work.initial[k] for k in ("grads", "momenta", "params")), strict=True)):
        torch.testing.assert_close(work.momenta[i], 0.5 * m + g)
        torch.testing.assert_close(call.addresses.seconds[i], 1.0 + g)
        torch.testing.assert_close(work.params[i], p - (work.momenta[i] + call.addresses.seconds[i]))


@torch.no_grad()
def test_the_gate_refuses_an_adamw_of_another_rule(work):
    def sgd(parameters):
        return torch.optim.SGD(parameters, adamw.LR)

    with pytest.raises(Wrong, match="more than a gap"):
        gate.run(work, adamw.step_of(work, sgd, torch.float32), adamw.first_step)
    with pytest.raises(Wrong, match="against the gradient"):
        gate.run(work, adamw.step_of(work, sgd, torch.float32), partial(adamw.first_step, factored=True))


def test_without_a_compiler_the_message_says_so(monkeypatch):
    monkeypatch.setattr(floors.shutil, "which", lambda name: None)
    with pytest.raises(floors.NoCompiler, match="no C\\+\\+ compiler found"):
        floors._compiler()


# --- the gate

CASES = [
    pytest.param(row, contestant, id=f"{row.name}-{contestant.name}")
    for row in ROWS.values()
    for contestant in row.contestants
    if contestant.kind not in ("floor", "compile", "peer") and contestant.check is not gate.nothing
]


@pytest.mark.parametrize(("row", "contestant"), CASES)
@torch.no_grad()
def test_contestants_pass_the_gate(work, row, contestant):
    gate.run(work, contestant.build(work), contestant.check or row.check)


@pytest.mark.parametrize("row", ["znorm", "bf16", "chain"])
@torch.no_grad()
def test_the_gate_looks_at_a_selection_of_large_tensors(work, monkeypatch, row):
    monkeypatch.setattr(gate, "SAMPLE", 5000)
    assert [gate.sample(t).numel() for t in work.grads] == [432, 16, 4001, 4001, 4800]
    ours, eager = (next(c for c in ROWS[row].contestants if c.kind == kind) for kind in ("ours", "eager"))
    gate.run(work, ours.build(work), ROWS[row].check)
    gate.run(work, eager.build(work), ROWS[row].check)
    monkeypatch.setattr(plain, "round_bf16", nearest)
    if row != "znorm":
        with pytest.raises(Wrong, match="mean square error"):
            gate.run(work, eager.build(work), ROWS[row].check)


def nearest(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16)


def truncated(x: torch.Tensor) -> torch.Tensor:
    return (x.view(torch.int32) & -65536).view(torch.float32).to(torch.bfloat16)


def two_gaps(x: torch.Tensor) -> torch.Tensor:
    return (x * (1 + 2.0**-6)).to(torch.bfloat16)


PLANTED = [
    ("bf16", "round_bf16", nearest, "mean square error"),
    ("bf16", "round_bf16", truncated, "biased"),
    ("bf16", "round_bf16", two_gaps, "not a neighbour"),
    ("bf16", "q_k", lambda x, q: torch.ones(()) * 1.01, "q_k"),
    ("fp8", "current_scale", lambda x, f: x.abs().amax() / f * 1.1, "not that of the absmax"),
    ("fp8", "round_e4m3", lambda v: v.to(torch.float8_e4m3fn), "mean square error"),
    ("int8", "round_int8", lambda v: v.round().to(torch.int8), "mean square error"),
    ("chain", "round_bf16", nearest, "mean square error"),
    ("chain", "round_bf16", lambda x: x, "mean square error"),
    ("chain", "EPS", 0.1, "not a neighbour|biased"),
    ("chain", "_update_", lambda q, p, m, lr, mu, decay: m.mul_(mu).add_(q), "params"),
    ("chain_fp8", "round_e4m3", lambda v: v.to(torch.float8_e4m3fn), "mean square error"),
    ("moments", "std_mean", lambda grads: [torch.std_mean(g) for g in grads], "std"),
    ("znorm", "znorm_", lambda grads: [g.div_(g.std()) for g in grads], "is off"),
    ("momentum", "momentum_", lambda grads, params, momenta, lr, mu: None, "is off"),
]


@pytest.mark.parametrize(("row", "name", "wrong", "message"), PLANTED)
@torch.no_grad()
def test_a_planted_mistake_is_caught(work, monkeypatch, row, name, wrong, message):
    monkeypatch.setattr(plain, name, wrong)
    builds = {
        "moments": lambda work: Call(plain.std_mean, (work.grads,)),
        "znorm": lambda work: Call(plain.znorm_, (work.grads,)),
        "bf16": lambda work: Call(plain.quantize_bf16, (work.grads,)),
        "fp8": lambda work: Call(plain.quantize_e4m3, (work.grads,)),
        "int8": lambda work: Call(plain.quantize_int8, (work.grads,)),
        "momentum": lambda work: Call(plain.momentum_, (work.grads, work.params, work.momenta, 1e-3, 0.9)),
        "chain": next(c.build for c in ROWS["chain"].contestants if c.kind == "eager"),
        "chain_fp8": next(c.build for c in ROWS["chain_fp8"].contestants if c.kind == "eager"),
    }
    with pytest.raises(Wrong, match=message):
        gate.run(work, builds[row](work), ROWS[row].check)


# --- timing and running


def test_a_failed_contestant_is_reported_and_not_timed(work):
    timed = []
    wrong = Contestant("wrong", "eager", lambda work: Call(lambda: timed.append(1), (), lambda result: []))
    right = next(c for c in ROWS["moments"].contestants if c.kind == "ours")
    results = run.run_row(ROWS["moments"], work, [wrong, right], repeats=2, seconds=0.0, budget=0.0)
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


@needs_compiler
def test_run_and_report_from_end_to_end(tmp_path, capsys):
    stored = tmp_path / "out.json"
    arguments = ["--rows", "moments,momentum", "--lists", "tiny", "--repeats", "2", "--seconds", "0.001"]
    assert run.main([*arguments, "--threads", "1", "--no-compile", "--json", str(stored)]) == 0
    assert "fastgrad.gradient_moments" in capsys.readouterr().out
    text = stored.read_text()
    assert str(tmp_path) not in text and "--json" not in text
    record = json.loads(text)
    assert {r["row"] for r in record["results"]} == {"moments", "momentum"}
    assert record["machine"]["torch"] == torch.__version__
    assert report.main([str(stored), "--out", str(tmp_path / "b.md")]) == 0
    assert "time / floor" in (tmp_path / "b.md").read_text()


# --- the report


def test_report_of_a_stored_run(record, tmp_path):
    pytest.importorskip("matplotlib")
    stored = tmp_path / "in.json"
    stored.write_text(json.dumps(record))
    out, plot = tmp_path / "docs" / "b.md", tmp_path / "docs" / "b.png"
    out.parent.mkdir()
    assert report.main([str(stored), "--out", str(out), "--plot", str(plot)]) == 0
    text = out.read_text()
    assert "| fastgrad.gradient_moments | **3.00** | 0.060 |" in text
    assert "| floor: momentum | 1.00 |" in text and "floor: momentum streaming" not in text
    assert "first call 21.5 s" in text and "2 of 3 disturbed" in text
    assert "| torch.optim.SGD(foreach=True) | **failed** | | | | | Wrong: momenta[3]" in text
    assert "![" in text and "(b.png)" in text and plot.stat().st_size > 10_000
    assert "## ResNet-56: 167 tensors, 853,018 elements" in text and record["command"] in text
    tables = [line for line in text.splitlines() if line.startswith("| ") and "time / floor" not in line]
    assert all(line.count("|") in (3, 8) for line in tables)


def test_report_counts_bytes(record):
    row = next(r for r in record["results"] if r["contestant"] == "torch.optim.SGD(fused=True)")
    assert f"| {20 * 853018 / 3.8e-4 / 1e9:.1f} |" in report._row(row, 5e-5)


def test_compare_flags_a_planted_slowdown(record):
    assert report.compare(record, record) == []
    slower = copy.deepcopy(record)
    for name, factor in (("fastgrad.gradient_moments", 1.3), ("floor: read", 1.01), ("floor: momentum", 0.5)):
        for r in slower["results"]:
            if r["contestant"] == name and r["list"] == "gpt":
                for q in ("q1", "median", "q3"):
                    r[q] *= factor
    lines = report.compare(slower, record)
    assert lines == [
        "slower x1.30: gpt 2 moments fastgrad.gradient_moments: 18.0 -> 23.4 ms",
        "faster x0.50: gpt 2 momentum floor: momentum: 15.0 -> 7.500 ms",
    ]
    slower["machine"]["cpu"] = "another"
    assert report.compare(slower, record)[0].startswith("not the same cpu")
