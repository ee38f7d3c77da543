"""What the gate of the benchmark lets through, and what it refuses, in every row."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench import gate, plain, shapes  # noqa: E402
from bench.gate import Call, Wrong  # noqa: E402
from bench.peers.own_state import step_of  # noqa: E402
from bench.rows import ROWS, activations, adamw, chain, normalize, quantize, step  # noqa: E402
from bench.rows.row import LR, MU  # noqa: E402


@pytest.fixture(scope="module")
def lists() -> dict[str, shapes.Workspace]:
    return {dtype: shapes.workspace("tiny", dtype=dtype) for dtype in shapes.DTYPES}


@pytest.fixture
def work(lists) -> shapes.Workspace:
    return lists["fp32"]


CASES = [
    pytest.param(dtype, row, contestant, id=f"{dtype}-{row.name}-{contestant.name}")
    for dtype in shapes.DTYPES
    for row in ROWS.values()
    for contestant in row.contestants
    if dtype in row.dtypes and dtype in contestant.dtypes
    if contestant.kind not in ("floor", "compile") and contestant.package is None
    if contestant.check is not gate.nothing
]


@pytest.mark.parametrize(("dtype", "row", "contestant"), CASES)
@torch.no_grad()
def test_contestants_pass_the_gate(lists, dtype, row, contestant):
    work = lists[dtype]
    gate.run(work, contestant.build(work), contestant.check or row.check)


@pytest.mark.parametrize("row", ["znorm", "bf16", "chain"])
@torch.no_grad()
def test_the_gate_looks_at_a_selection_of_large_tensors(work, monkeypatch, row):
    monkeypatch.setattr(gate.call, "SAMPLE", 5000)
    assert [gate.sample(t).numel() for t in work.grads] == [432, 16, 4001, 4001, 4800]
    ours, eager = (next(c for c in ROWS[row].contestants if c.kind == kind) for kind in ("ours", "eager"))
    gate.run(work, ours.build(work), ROWS[row].check)
    gate.run(work, eager.build(work), ROWS[row].check)
    monkeypatch.setattr(plain, "round_bf16", nearest)
    if row != "znorm":
        with pytest.raises(Wrong, match="mean square error"):
            gate.run(work, eager.build(work), ROWS[row].check)


@torch.no_grad()
def test_a_nearest_reference_has_to_be_the_nearest(work, monkeypatch):
    reference = next(c for c in ROWS["fp8"].contestants if c.name == "torch: nearest, no q_k")
    monkeypatch.setattr(plain, "current_scale", lambda x, largest: x.abs().amax() / largest * 1.01)
    with pytest.raises(Wrong, match="not that of the absmax"):
        gate.run(work, reference.build(work), reference.check)
    monkeypatch.undo()
    stochastic = ROWS["fp8"].contestants[-1].check.keywords | {"format": "fp8_e4m3", "rounding": "nearest"}
    eager = next(c for c in ROWS["fp8"].contestants if c.kind == "eager")
    with pytest.raises(Wrong, match="not a neighbour"):
        gate.run(work, eager.build(work), partial(gate.rounded, **stochastic))


# --- planted mistakes


def nearest(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16)


def truncated(x: torch.Tensor) -> torch.Tensor:
    return (x.view(torch.int32) & -65536).view(torch.float32).to(torch.bfloat16)


def two_gaps(x: torch.Tensor) -> torch.Tensor:
    return (x * (1 + 2.0**-6)).to(torch.bfloat16)


def nearest_fp8(v: torch.Tensor, format: str) -> torch.Tensor:
    return v.to(torch.float8_e4m3fn if format == "fp8_e4m3" else torch.float8_e5m2)


def nearest_fp4(v: torch.Tensor) -> torch.Tensor:
    grid = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    place = (v.abs().unsqueeze(-1) - grid).abs().argmin(-1).to(torch.uint8)
    return place | (torch.signbit(v).to(torch.uint8) << 3)


# (row, name in bench/plain.py, what stands there instead, what the gate says)
PLANTED = [
    ("moments", "std_mean", lambda grads: [torch.std_mean(g) for g in grads], "std"),
    ("znorm", "znorm_", lambda grads: [g.div_(g.std()) for g in grads], "is off"),
    ("centralize", "centralize_", lambda grads: [g.sub_(g.mean()) for g in grads], "is off"),
    ("centralize", "centralize_", lambda grads: None, "is off"),
    ("autoscale", "autoscale_log_", lambda grads: [g.sub_(g.mean()) for g in grads], "is off"),
    ("autoscale", "_sigma", lambda grads, statistics: statistics[0][0], "is off"),
    ("clip", "clip_", lambda grads, max_norm: [g.mul_(max_norm / g.norm()) for g in grads], "is off"),
    ("bf16", "round_bf16", nearest, "mean square error"),
    ("bf16", "round_bf16", truncated, "biased"),
    ("bf16", "round_bf16", two_gaps, "not a neighbour"),
    ("bf16", "q_k", lambda x, q: torch.ones(()) * 1.01, "q_k"),
    ("fp8", "current_scale", lambda x, f: x.abs().amax() / f * 1.1, "not that of the absmax"),
    ("fp8", "round_fp8", nearest_fp8, "mean square error"),
    ("fp8_e5m2", "round_fp8", nearest_fp8, "mean square error"),
    ("fp8_e5m2", "round_fp8", lambda v, format: v.to(torch.float8_e4m3fn).to(torch.float8_e5m2), "not a neighbour"),
    ("fp8_delayed", "round_fp8", nearest_fp8, "mean square error"),
    ("int8", "round_int8", lambda v: v.round().to(torch.int8), "mean square error"),
    ("fp4", "round_fp4", nearest_fp4, "mean square error|biased"),  # ties of bfloat16 gradients all go one way
    ("fp4", "q_k", lambda x, q: torch.ones(()) * 1.01, "q_k"),
    ("fp4", "values_of_fp4", lambda nibbles: nibbles.float(), "not a neighbour|q_k"),
    ("momentum", "momentum_", lambda grads, params, momenta, lr, mu: None, "is off"),
    ("chain", "round_bf16", nearest, "mean square error|biased"),
    ("chain", "round_bf16", lambda x: x, "mean square error"),
    ("chain", "EPS", 0.1, "not a neighbour|biased"),
    ("chain", "_update_", lambda q, p, m, lr, mu, decay: m.mul_(mu).add_(q), "params"),
    ("chain_fp8", "round_fp8", nearest_fp8, "mean square error"),
    ("activations", "round_int8", lambda v: v.round().to(torch.int8), "mean square error"),
    ("activations", "decode_int8", lambda codes, scale, dtype: codes.to(dtype), "not a neighbour"),
]


def plain_call(row: str, work: shapes.Workspace) -> Call:
    """The plain work of a row, looked up in bench/plain.py now: what is planted there is found."""
    grads = (work.grads,)
    calls = {
        "moments": lambda: Call(plain.std_mean, grads),
        "znorm": lambda: Call(plain.znorm_, grads),
        "centralize": lambda: Call(plain.centralize_, grads),
        "autoscale": lambda: Call(plain.autoscale_log_, grads),
        "clip": lambda: Call(plain.clip_, (*grads, normalize.MAX_NORM)),
        "bf16": lambda: Call(plain.quantize_bf16, grads),
        "fp8": lambda: quantize.plain_fp8(work, "fp8_e4m3"),
        "fp8_e5m2": lambda: quantize.plain_fp8(work, "fp8_e5m2"),
        "fp8_delayed": lambda: quantize.plain_fp8(work, "fp8_e4m3", given=True),
        "int8": lambda: Call(plain.quantize_int8, grads),
        "fp4": lambda: quantize.plain_fp4(work),
        "momentum": lambda: step.plain_momentum(work),
        "chain": lambda: chain.plain_chain(work),
        "chain_fp8": lambda: chain.plain_autoscale(work),
        "activations": lambda: activations.hooks(work, plain.pack_int8, plain.unpack_int8),
    }
    return calls[row]()


def test_every_row_has_a_planted_mistake():
    assert {row for row, *_ in PLANTED} == set(ROWS) - {"adamw"}, "adamw has a test of its own below"


@pytest.mark.parametrize("dtype", list(shapes.DTYPES))
@pytest.mark.parametrize(("row", "name", "wrong", "message"), PLANTED)
@torch.no_grad()
def test_a_planted_mistake_is_caught(lists, monkeypatch, dtype, row, name, wrong, message):
    if dtype not in ROWS[row].dtypes:
        pytest.skip(f"the row has no {dtype}")
    monkeypatch.setattr(plain, name, wrong)
    with pytest.raises(Wrong, match=message):
        gate.run(lists[dtype], plain_call(row, lists[dtype]), ROWS[row].check)


@torch.no_grad()
def test_the_gate_refuses_an_adamw_of_another_rule(work):
    def sgd(parameters):
        return torch.optim.SGD(parameters, adamw.LR)

    with pytest.raises(Wrong, match="more than a gap"):
        gate.run(work, step_of(work, sgd, torch.float32), adamw.first_step)
    with pytest.raises(Wrong, match="against the gradient"):
        gate.run(work, step_of(work, sgd, torch.float32), partial(adamw.first_step, factored=True))


@torch.no_grad()
def test_a_learning_rate_that_is_a_little_off_is_seen(work):
    """By each of the checks of AdamW's rows but the factored one."""
    checks = {c.check for c in ROWS["adamw"].contestants if c.kind != "floor"}

    def adam(parameters):
        return torch.optim.AdamW(parameters, adamw.LR * 1.001, adamw.BETAS, adamw.EPS, adamw.DECAY)

    for check in checks:
        if not getattr(check, "keywords", {}).get("factored"):
            with pytest.raises(Wrong, match="more than a gap"):
                gate.run(work, step_of(work, adam, torch.float32), check)


@pytest.mark.parametrize("dampening", [0.0, 0.1])
@torch.no_grad()
def test_momenta_of_their_own_are_seen_at_the_second_step(work, dampening):
    def sgd(parameters):
        return torch.optim.SGD(parameters, LR, MU, dampening)

    call, check = step_of(work, sgd), partial(gate.two_steps, lr=LR, mu=MU)
    if dampening:
        with pytest.raises(Wrong, match="is off"):
            gate.run(work, call, check)
    else:
        gate.run(work, call, check)


@torch.no_grad()
def test_references_are_checked_for_what_they_do(work):
    norms = Call(lambda grads: [g.norm() * 1.1 for g in grads], (work.grads,))
    with pytest.raises(Wrong, match="norm"):
        gate.run(work, norms, gate.norms)
    lost = Call(lambda grads: [torch.zeros_like(g) for g in grads], (work.grads,))
    with pytest.raises(Wrong, match="of the absmax"):
        gate.run(work, lost, partial(gate.restored, block=256, tolerance=0.02))
    with pytest.raises(Wrong, match="restored"):
        gate.run(work, lost, activations.cast)


@torch.no_grad()
def test_left_alone_is_not_compressed(work):
    call = activations.hooks(work, lambda t: t, lambda t: t)
    with pytest.raises(Wrong, match="elements were compressed"):
        gate.run(work, call, activations.unbiased_int8)


@torch.no_grad()
def test_normalizing_again_and_again_stays_finite(work):
    """Calls are timed on their own results."""
    for row in ("znorm", "centralize", "autoscale", "clip"):
        work.reset()
        call = next(c for c in ROWS[row].contestants if c.kind == "ours").build(work)
        for _ in range(200):
            call()
        spread = torch.cat([g.reshape(-1) for g in work.grads]).std()
        assert 1e-6 < float(spread) < 10, row
    assert normalize.MAX_NORM < work.sigma * work.elements**0.5
