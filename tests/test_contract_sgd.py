"""sgd_step_ on every native backend: whole runs of ten steps keep the reference's bits.

Gradients depend on parameters, factors and lagged statistics on the tables before: one wrong bit spreads.
"""

from __future__ import annotations

import pytest
import torch
from contract_backends import agree, needs_native
from contract_cases import grid, name, pairwise
from contract_data import DTYPES, channels_last, tensor

import fastgrad
from fastgrad import shrinkage
from fastgrad.ops import sweeps

STEPS = 10
AXES = {
    "momentum": (0.0, 0.9),
    "dampening": (0.0, 0.1),
    "nesterov": (False, True),
    "decay": ("none", "coupled", "decoupled"),
    "maximize": (False, True),
    "dtype": DTYPES,
    "gradients": DTYPES,
    "weight_rounding": ("nearest", "stochastic"),
    "method": sweeps.METHODS,
    "format": sweeps.FORMATS,
    "scale": ("none", "tensor", "tensor pow2", "block 32"),
    "lagged": (False, True),
    "factors": (False, True),
    "inv_scale": (1.0, 2.0**-10, 0.37),
    "skip_nonfinite": (False, True),
    "measure": (False, True),
    "flags": ("all", "mixed"),
}
SHAPES = ((1,), (37,), (16, 9), (1030,), (0, 5))


def legal(case):
    return case if case["format"] != "fp32" else {**case, "scale": "none"}


def start(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    tensors = [torch.randn(*shape, generator=generator) for shape in SHAPES]
    return [t.to(dtype) for t in (*tensors, channels_last(8, 4, 3, 3), torch.randn(3, 22_500, generator=generator))]


def gradients(params: list[torch.Tensor], step: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Those of 0.05 |p|^2, noisy; non-finite here and there in step 3."""
    made = []
    for i, p in enumerate(params):
        noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i))
        g = 0.1 * p.float().contiguous() + 0.01 * noise
        if step == 3 and i in (1, 2):
            g.view(-1)[::30] = torch.nan if i == 1 else -torch.inf
        made.append(g.to(dtype))
    return made


def trajectory(case, buffers: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Tables, parameters, momenta and state after every step."""
    params = start(case["dtype"])
    momenta = [torch.full_like(p, 7.0, dtype=buffers) for p in params]  # without content: FIRST must not read it
    scale, _, extra = case["scale"].partition(" ")
    rows = []
    for lr, maximize in ((0.1, case["maximize"]), (0.003, not case["maximize"])):
        decay = 0.0 if case["decay"] == "none" else 0.01
        rows.append(
            [
                lr,
                case["momentum"],
                case["dampening"],
                decay,
                case["nesterov"],
                case["decay"] == "decoupled",
                maximize,
                0,
            ]
        )
    hyper = torch.tensor(rows, dtype=torch.float64)
    state = torch.zeros(2, dtype=torch.float64)
    flags = [3] * len(params) if case["flags"] == "all" else [3, 2, 1, 0, 3, 3, 2]
    results, table = [], None
    for step in range(STEPS):
        factors = None
        if case["factors"] and table is not None:
            factors = 1.0 / shrinkage.projection(
                table[:-1, sweeps.reference.SUM_YY], table[:-1, sweeps.reference.SUM_YQ]
            )
        table = fastgrad.sgd_step_(
            params,
            gradients(params, step, case["gradients"]),
            momenta if case["momentum"] else [],
            hyper,
            groups=[0, 1, 0, 1, 0, 0, 1],
            flags=[flag | (4 if step == 0 or (i == 2 and step == 4) else 0) for i, flag in enumerate(flags)],
            method=case["method"],
            max_norm=0.5,
            alpha="ratio_max",
            state=state,
            lagged=table if case["lagged"] else None,
            two_reads=step % 2 == 1,
            format=case["format"],
            scale=scale,
            block=int(extra) if scale == "block" else 0,
            pow2=extra == "pow2",
            rounding="stochastic",
            seed=9,
            step=step,
            slot=2,
            ids=[5, 1, 2, 3, 4, 0, 6],
            factors=factors,
            inv_scale=case["inv_scale"],
            measure=case["measure"],
            skip_nonfinite=case["skip_nonfinite"],
            weight_rounding=case["weight_rounding"],
        )
        results += [table, state.clone(), *(p.clone() for p in params), *(m.clone() for m in momenta)]
    return results


@needs_native
@pytest.mark.parametrize("case", pairwise(AXES, seed=3, adjust=legal), ids=name)
def test_trajectories(case):
    agree(lambda: trajectory(case), "sgd_step_")


PLAIN = {axis: values[0] for axis, values in AXES.items()}


@needs_native
@pytest.mark.parametrize("buffers", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("nesterov", (False, True))
def test_narrow_momentum(buffers, nesterov):
    case = {**PLAIN, "momentum": 0.9, "nesterov": nesterov, "factors": False}
    agree(lambda: trajectory(case, buffers), "sgd_step_ with a narrow momentum buffer")


@needs_native
@pytest.mark.parametrize("step", (0, 1), ids=("first", "later"))
def test_wild_everything(step):
    """Any bits at all in gradients, parameters and momenta."""

    def run():
        results = []
        for dtype in DTYPES:
            for format in sweeps.FORMATS:
                p, g = tensor("wild", 5000, dtype, seed=1), tensor("wild", 5000, torch.float32, seed=2)
                m = tensor("wild", 5000, torch.float32, seed=3)
                hyper = torch.tensor([[0.1, 0.9, 0.5, 0.1, 1, 0, 0, 0]], dtype=torch.float64)
                table = fastgrad.sgd_step_(
                    [p],
                    [g],
                    [m],
                    hyper,
                    flags=[3 if step else 7],
                    method="centre",
                    format=format,
                    weight_rounding="stochastic",
                )
                results += [table, p, m]
        return results

    agree(run, "sgd_step_ of wild tensors")


@pytest.mark.parametrize("method", ("none", "autoscale"))
def test_skipped_step_writes_nothing(backend, method):
    """skip_nonfinite: parameters, momenta and state keep every bit; the table has the moments."""
    params, momenta = start(torch.bfloat16), [torch.randn(p.shape) for p in start(torch.float32)]
    before = [t.clone() for t in (*params, *momenta)]
    grads = gradients(params, 3, torch.float32)
    state = torch.tensor([0.5, 2.0], dtype=torch.float64)
    hyper = torch.tensor([[0.1, 0.9, 0, 0.01, 0, 1, 0, 0]], dtype=torch.float64)
    table = fastgrad.sgd_step_(
        params,
        grads,
        momenta,
        hyper,
        method=method,
        state=state,
        format="int8",
        scale="tensor",
        skip_nonfinite=True,
    )
    assert all(torch.equal(a, b) for a, b in zip((*params, *momenta), before, strict=True))
    assert state.tolist() == [0.5, 2.0]
    bad = [float((~torch.isfinite(g)).sum()) for g in grads]
    assert table[:-1, sweeps.reference.NONFINITE].tolist() == bad and table[-1, sweeps.reference.NONFINITE] == sum(bad)


@needs_native
@pytest.mark.slow
@pytest.mark.parametrize("format", sweeps.FORMATS)
def test_whole_grid(format):
    axes = {axis: (values[0],) for axis, values in AXES.items()}
    axes.update(
        format=(format,),
        **{a: AXES[a] for a in ("momentum", "nesterov", "decay", "dtype", "method", "scale", "lagged")},
    )
    for case in grid(axes, legal=lambda case: legal(case) == case):
        agree(lambda case=case: trajectory(case), name(case))
