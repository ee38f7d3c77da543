"""AdamW and shards on the interpreted Triton kernels: the bits of the PyTorch reference."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from adamw_states import KINDS, new_states
from contract_bits import assert_same_bits
from contract_data import tensor

from fastgrad import library

pytest.importorskip("triton")
if not library.has_recent_triton():
    pytest.skip("triton is older than 3.6", allow_module_level=True)

import triton
import triton_package

from fastgrad.ops.sweeps import reference_sweep
from fastgrad.reference.adamw import Hyper, States, Step
from fastgrad.reference.adamw import power as exact_power

if not triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET is 0", allow_module_level=True)

kernels = triton_package.load()
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, where an overflow is meant

HYPER = torch.tensor([[0.1, 0.9, 0.99, 1e-8, 0.1, 0, 0, 0], [0.01, 0.0, 0.999, 1e-6, 0, 1, 0, 0]], dtype=torch.float64)
LISTS = ("param_scales", "exp_avgs", "exp_avg_scales", "exp_avg_sqs", "exp_avg_sq_scales", "row_sums", "column_sums")


def kept(shapes, kind: str, weights=torch.float32, **fields) -> tuple[list[torch.Tensor], States]:
    """Parameters and states that have content."""
    values = [tensor("normal", math.prod(shape), seed=i).view(shape) for i, shape in enumerate(shapes)]
    made = new_states(values, weights, kind, 0.9)
    return made.pop("params"), States(**made, ages=[3] * len(shapes), **fields)


def copied(states: States) -> States:
    return dataclasses.replace(states, **{name: [t.clone() for t in getattr(states, name)] for name in LISTS})


def agree(grads, params, states: States, **arguments) -> tuple[torch.Tensor, list[torch.Tensor], States]:
    """Both sweeps from the same start write the same bits and give the same table. Returns what they gave."""
    results = []
    for sweep in (kernels.sweep, reference_sweep):
        mine, own = [p.clone() for p in params], copied(states)
        rows = [p.shape[0] if p.dim() > 1 else 0 for p in params]
        given = {"hyper": HYPER, "flags": [3] * len(params), "weight_rounding": "stochastic", **arguments}
        table = sweep([g.clone() for g in grads], rows=rows, params=mine, states=own, **given)
        results.append((table, mine, own))
    flat = [[t, *ps, *(x for name in LISTS for x in getattr(s, name))] for t, ps, s in results]
    assert_same_bits(*flat, "Triton and the reference")
    return results[0]


def gradients(shapes, kind: str = "normal", dtype=torch.float32) -> list[torch.Tensor]:
    return [tensor(kind, math.prod(shape), dtype, seed=50 + i).view(shape) for i, shape in enumerate(shapes)]


SHAPES = ((5, 240), (33,), (0, 4), (2, 32))


@pytest.mark.parametrize("weights", (torch.float32, torch.bfloat16, torch.int8), ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_state(kind, weights):
    """Whole blocks and, where there are none, float32 beside them; one group has no first moment."""
    for number, rounding in enumerate(("stochastic", "nearest")):
        agree(
            gradients(SHAPES, dtype=(torch.float32, torch.float16)[number]),
            *kept(SHAPES, kind, weights),
            groups=[0, 1, 0, number],
            flags=[3, 7, 3, 3 | 4 * number],
            weight_rounding=rounding,
            factors=torch.tensor([1.0, 0.7, 1.0, 1.3], dtype=torch.float64),
            format=("fp32", "fp8_e4m3")[number],
            measure=False,
        )


@pytest.mark.parametrize("kind", ("fp32", "fp16", "int8", "fp4_e2m1", "factored"))
@pytest.mark.parametrize("numbers", ("wild", "tiny", "huge", "zeros"))
def test_any_numbers(numbers, kind):
    params, states = kept([(8, 256)], kind)
    params = [tensor(numbers, 2048, seed=1).view(8, 256)]
    agree(gradients([(8, 256)], numbers), params, states)


@pytest.mark.parametrize("block", (16, 256))
def test_blocks(block):
    """Blocks of one lane's elements and of two rows of a tile, of parameter and states."""
    n = 3 * 1280
    codes, scales = torch.arange(n) % 251, torch.rand(n // block) * 1e-2
    states = States(
        param_scales=[scales.clone()],
        exp_avgs=[(codes - 125).to(torch.int8)],
        exp_avg_scales=[scales.clone()],
        exp_avg_sqs=[codes[: n // 2].to(torch.uint8)],
        exp_avg_sq_scales=[scales.clone()],
        ages=[7],
    )
    agree(gradients([(3, 1280)]), [(codes % 127).to(torch.int8).view(3, 1280)], states)


# One by one; rows and columns that several programs sum; rows longer than what a program steps; rows of a whole tile.
MATRICES = ((1, 1), (150, 140), (2, 8400), (4, 1024), (1, 300), (300, 1))


@pytest.mark.parametrize("shape", MATRICES, ids=str)
def test_factored(shape):
    agree(gradients([shape]), *kept([shape], "factored"))


@pytest.mark.parametrize("method", ("none", "znorm", "centralize"))
@pytest.mark.parametrize("lagged", (False, True))
def test_factored_after_a_map(method, lagged):
    """The bound is that of this call's moments, after the map."""
    shapes = ((6, 50), (3, 7), (4,))
    grads = gradients(shapes, "sprinkled")
    table = reference_sweep(gradients(shapes), flags=[3] * 3) if lagged else None
    for flags in ([3, 3, 3], [2, 7, 3]):
        agree(grads, *kept(shapes, "factored int4"), method=method, lagged=table, flags=flags, format="int8",
              scale="tensor", inv_scale=0.37)  # fmt: skip


@pytest.mark.parametrize("phase", ("all", "sums", "update"))
@pytest.mark.parametrize("stop", (False, True))
def test_skipped(phase, stop):
    shapes = ((6, 50), (40,))
    grads = gradients(shapes)
    if stop:
        grads[1][3] = math.inf
    sums = {"row_sums": [torch.ones(6, dtype=torch.float64), torch.empty(0)], "phase": phase}
    sums["column_sums"] = [torch.ones(50, dtype=torch.float64), torch.empty(0)]
    params, states = kept(shapes, "factored", **(sums if phase != "all" else {}))
    before = [t.clone() for t in (*params, *states.exp_avg_sqs, *states.row_sums)]
    _, stepped, after = agree(grads, params, states, skip_nonfinite=True, format="bf16", factors=torch.ones(2).double())
    same = [torch.equal(a, b) for a, b in zip((*stepped, *after.exp_avg_sqs, *after.row_sums), before, strict=True)]
    assert all(same) == stop


def split(tensors, cuts) -> list[torch.Tensor]:
    """The first of some tensors in shards of so many dim-0 rows, or elements."""
    return [part.clone() for t in tensors[:1] for part in t.split(cuts)]


@pytest.mark.parametrize("bits", ("fp32", "bf16"))
@pytest.mark.parametrize("cuts", ([1000, 1, 0, 30, 1269], [2048, 252]), ids=str)
def test_shards_of_sgd(cuts, bits):
    """Shards that begin anywhere have the noise of the whole; their sums are those of the tiles they have."""
    g, p = gradients([(2300,)]), [tensor("normal", 2300, torch.bfloat16)]
    hyper = torch.tensor([[0.1, 0.9, 0, 0.01, 0, 1, 0, 0]], dtype=torch.float64)
    offsets = [sum(cuts[:i]) for i in range(len(cuts))]
    lagged = reference_sweep([g[0]] * len(cuts), flags=[3] * len(cuts), format="int8")
    results = []
    for sweep, parts, starts in ((kernels.sweep, cuts, offsets), (reference_sweep, cuts, offsets),
                                 (kernels.sweep, [2300], [0])):  # fmt: skip
        params, momenta = split(p, parts), split([torch.ones(2300)], parts)
        table = sweep(
            split(g, parts), flags=[3] * len(parts), params=params, momenta=momenta, hyper=hyper, offsets=starts,
            ids=[5] * len(parts), method="znorm", lagged=lagged[: len(parts) + 1], measure=False, step=3,
            format="fp8_e4m3" if bits == "fp32" else "bf16", weight_rounding="stochastic",
        )  # fmt: skip
        results.append([table, *params, *momenta])
    assert_same_bits(results[0], results[1], "shards")
    whole = [torch.cat(results[0][1 : 1 + len(cuts)]), torch.cat(results[0][1 + len(cuts) :])]
    assert_same_bits(whole, results[2][1:], "the shards put together")


def test_shards_of_rows():
    """What is measured row by row needs no table of the whole; blocks of shards."""
    g = gradients([(9, 192)])
    offsets, cuts = [0, 192, 6 * 192], [1, 5, 3]
    hyper = torch.tensor([[0.1, 0, 0, 0.01, 0, 1, 0, 0]], dtype=torch.float64)
    results = []
    for sweep in (kernels.sweep, reference_sweep):
        params = split([tensor("normal", 9 * 192).view(9, 192)], cuts)
        table = sweep(
            split(g, cuts), flags=[3, 3, 2], rows=cuts, params=params, hyper=hyper, offsets=offsets, ids=[1] * 3,
            method="centralize", measure=False, format="int4", scale="block", block=64,
        )  # fmt: skip
        results.append([table, *params])
    assert_same_bits(*results, "shards")


@pytest.mark.parametrize("kind", ("int8", "factored int4"))
def test_shards_of_adamw(kind):
    """Two halves of a step, between which the sums of shards are added up, are the step of the whole."""
    shape, cuts = (9, 192), [1, 5, 3]
    params, states = kept([shape], kind, torch.int8)
    whole = agree(gradients([shape]), params, states, ids=[4], format="fp8_e4m3", step=2)
    bound = float(gradients([shape])[0].abs().max())

    def shard(t: torch.Tensor) -> list[torch.Tensor]:
        per_row = t.numel() // shape[0]
        return list(t.reshape(-1).split([cut * per_row for cut in cuts]))

    arguments = {"offsets": [0, 192, 6 * 192], "ids": [4] * 3, "format": "fp8_e4m3", "step": 2, "measure": False}
    own = {name: shard(getattr(states, name)[0]) for name in LISTS[:4]}
    columns = states.exp_avg_sq_scales[0]  # of factored moments: every shard has them all
    own["exp_avg_sq_scales"] = shard(columns) if kind == "int8" else [columns.clone() for _ in cuts]
    parts = States(
        **own,
        ages=[3] * 3,
        phase="sums",
        row_sums=[torch.full((cut,), math.nan, dtype=torch.float64) for cut in cuts],
        column_sums=[torch.full((192,), math.nan, dtype=torch.float64) for _ in cuts],
        bounds=[bound] * 3,
        whole_rows=[9] * 3,
    )
    grads, params = split(gradients([shape]), cuts), split(params, cuts)
    if kind != "int8":
        _, _, parts = agree(grads, params, parts, **arguments)
        total = sum(parts.column_sums)
        parts = dataclasses.replace(parts, column_sums=[total.clone() for _ in cuts])
    parts = dataclasses.replace(parts, phase="update")
    _, params, parts = agree(grads, params, parts, **arguments)
    for name in LISTS[:4]:
        assert_same_bits([torch.cat(getattr(parts, name))], getattr(whole[2], name), f"{name}, put together")
    assert_same_bits([torch.cat(params)], whole[1], "the shards put together")


def test_a_clock_is_added_to_ages():
    """As a number it is only the step of the noise."""
    params, states = kept([(4, 64)], "int8")
    agree(gradients([(4, 64)]), params, states, step=torch.tensor([12]))
    later = dataclasses.replace(states, ages=[15])
    results = []
    for own, step in ((states, torch.tensor(12)), (later, 12)):
        mine, own = [p.clone() for p in params], copied(own)
        kernels.sweep(gradients([(4, 64)]), flags=[3], rows=[4], params=mine, states=own, hyper=HYPER, step=step)
        results.append([*mine, *own.exp_avgs])
    assert_same_bits(*results, "with a clock")


def test_constants_of_a_step():
    """Of ages from one step to more than anyone takes, and of betas at their ends."""
    ages = [1, 2, 3, 7, 1000, 12345, 10**6, 2**31 - 1]
    betas = ((0.9, 0.999), (0.0, 0.95), (0.99, 0.0), (1 - 2.0**-40, 0.5))
    hyper = [Hyper(1e-3, beta1, beta2, 1e-8, 0.01, False) for beta1, beta2 in betas]
    rows = torch.tensor([[h.lr, h.beta1, h.beta2, h.eps, h.weight_decay, 0, 0, 0] for h in hyper], dtype=torch.float64)
    count = len(ages) * len(hyper)
    params, states = kept([(2,)] * count, "fp32")
    states = dataclasses.replace(states, ages=ages * len(hyper))
    plan = triton_package.load("states").Adamw(params, states, [0] * count)
    tables = triton_package.load("tables")
    told = tables.Jobs([2] * count)
    plan.tell(told)
    told.set(triton_package.load("jobs").GROUP, [i // len(ages) for i in range(count)])
    made = plan.make_constants(told.rows, None, rows, torch.full((count,), 1.7, dtype=torch.float64))
    for i, row in enumerate(made):
        h, age = hyper[i // len(ages)], states.ages[i]
        step = Step.of(h, 1.7, age)
        numbers = [step.rate1, step.rate2, step.step, step.root, step.eps, step.decay]
        exact = [1 - h.beta2, math.sqrt(1 - exact_power(h.beta2, age))]
        expected = torch.tensor([*map(float, numbers), *exact], dtype=torch.float64)
        assert_same_bits([row], [expected], f"age {age}, {h}")


def test_sums_are_exact():
    """As fractions: the sums of the squares, each rounded to the gap of the matrix."""
    g = gradients([(140, 130)], "sprinkled")
    empty = {"row_sums": [torch.empty(140).double()], "column_sums": [torch.empty(130).double()]}
    params, states = kept([(140, 130)], "factored", phase="sums", **empty)
    _, _, made = agree(g, params, states)
    finite = torch.where(torch.isfinite(g[0]), g[0], 0.0).double()
    bound = float(finite.abs().max())
    gap = Fraction(2) ** (2 * (math.frexp(bound)[1] - 1) + 2 + 8 - 52)
    squares = [[round(Fraction(x) ** 2 / gap) for x in row] for row in finite.tolist()]
    assert [Fraction(s) / gap for s in made.row_sums[0].tolist()] == [sum(row) for row in squares]
    assert [Fraction(s) / gap for s in made.column_sums[0].tolist()] == [
        sum(column) for column in zip(*squares, strict=True)
    ]


@pytest.mark.parametrize(("kind", "expected"), (("fp32", 3), ("int8", 4), ("factored", 11)))
def test_launches(kind, expected, monkeypatch):
    """Their number depends on how states are kept, not on the tensors."""
    launched = []
    genuine = triton.runtime.interpreter.GridExecutor.__call__

    def counted(self, *given, **named):
        launched.append(self.fn)
        return genuine(self, *given, **named)

    monkeypatch.setattr(triton.runtime.interpreter.GridExecutor, "__call__", counted)
    for shapes in ([(2, 32), (5,)], [(2, 32), (7, 32), (9,), (1,), (3, 32), (0, 32)]):
        params, states = kept(shapes, kind)
        launched.clear()
        kernels.sweep(
            gradients(shapes), flags=[3] * len(shapes), rows=[p.shape[0] if p.dim() > 1 else 0 for p in params],
            params=params, states=states, hyper=HYPER, measure=False,
        )  # fmt: skip
        assert len(launched) == expected
