"""adamw_step_ on every native backend: whole runs of six steps keep the reference's bits.

Gradients depend on parameters, factors and lagged statistics on the tables before: one wrong bit spreads.
"""

from __future__ import annotations

import pytest
import torch
from adamw_states import KINDS, new_states
from contract_backends import agree, needs_native
from contract_cases import name, pairwise
from contract_data import DTYPES, channels_last, tensor

import fastgrad
from fastgrad import shrinkage
from fastgrad.ops import sweeps

STEPS = 6
AXES = {
    "states": KINDS,
    "beta1": (0.9, 0.0),
    "weights": (torch.float32, torch.bfloat16, torch.float16, torch.int8),
    "gradients": DTYPES,
    "weight_rounding": ("stochastic", "nearest"),
    "decay": (0.0, 0.1),
    "maximize": (False, True),
    "method": sweeps.METHODS,
    "format": ("fp32", "bf16", "fp8_e4m3", "int8"),
    "scale": ("none", "tensor", "block 32"),
    "lagged": (False, True),
    "factors": (False, True),
    "inv_scale": (1.0, 0.37),
    "skip_nonfinite": (False, True),
    "measure": (False, True),
    "flags": ("all", "mixed"),
}
SHAPES = ((37,), (16, 48), (130, 16), (0, 16), (3, 22_528), (5, 7))


def legal(case):
    return case if case["format"] != "fp32" else {**case, "scale": "none"}


def start() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    tensors = [torch.randn(*shape, generator=generator) for shape in SHAPES]
    return [*tensors, channels_last(8, 16, 3, 3), torch.zeros(64, 32)]


def gradients(values: list[torch.Tensor], step: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Those of 0.05 |p|^2, noisy; non-finite here and there in step 3; tensor 2 has rows and columns of zeros."""
    made = []
    for i, p in enumerate(values):
        noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i))
        g = 0.1 * p.nan_to_num() + 0.01 * noise
        if step == 3 and i in (0, 1):
            g.view(-1)[::30] = torch.nan if i == 1 else -torch.inf
        if i == 2:
            g[::3], g[:, 5] = 0.0, 0.0
        made.append(g.to(dtype))
    return made


def trajectory(case) -> list[torch.Tensor]:
    """Tables, parameters and states after every step."""
    states = new_states(start(), case["weights"], case["states"], case["beta1"], poison=True)
    scale, _, extra = case["scale"].partition(" ")
    hyper = torch.tensor(
        [[lr, case["beta1"], 0.99, 1e-8, case["decay"], m, 0, 0] for lr, m in ((0.1, 0), (0.01, case["maximize"]))],
        dtype=torch.float64,
    )
    state = torch.zeros(2, dtype=torch.float64)
    count = len(states["params"])
    flags = [3] * count if case["flags"] == "all" else [3, 2, 1, 0, 3, 3, 2, 1]
    results, table = [], None
    for step in range(STEPS):
        factors = None
        if case["factors"] and table is not None:
            yy, yq = table[:-1, sweeps.reference.SUM_YY], table[:-1, sweeps.reference.SUM_YQ]
            factors = 1.0 / shrinkage.projection(yy, yq)
        late = [i == 2 and step >= 4 for i in range(count)]  # tensor 2 begins anew in step 4
        table = fastgrad.adamw_step_(
            grads=gradients(values_of(states), step, case["gradients"]),
            hyper=hyper,
            ages=[step - 3 if anew else step + 1 for anew in late],
            groups=[0, 1, 0, 1, 0, 0, 1, 0],
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
            seed=9,
            step=step,
            slot=2,
            ids=[5, 1, 2, 3, 4, 0, 6, 7],
            factors=factors,
            inv_scale=case["inv_scale"],
            measure=case["measure"],
            skip_nonfinite=case["skip_nonfinite"],
            weight_rounding=case["weight_rounding"],
            **states,
        )
        results += [table, state.clone()]
        results += [t.clone() for value in states.values() if isinstance(value, list) for t in value]
    return results


def values_of(states) -> list[torch.Tensor]:
    """The parameters as float32, of the shape they have."""
    values = []
    for p, s in zip(states["params"], states["param_scales"], strict=True):
        block = p.numel() // s.numel() if s.numel() else 1
        values.append(p.float() * s.repeat_interleave(block).view(p.shape) if s.numel() else p.float().contiguous())
    return values


@needs_native
@pytest.mark.parametrize("case", pairwise(AXES, seed=3, adjust=legal), ids=name)
def test_trajectories(case):
    agree(lambda: trajectory(case), "adamw_step_", emulated_every=8)


PLAIN = {axis: values[0] for axis, values in AXES.items()}


@needs_native
@pytest.mark.parametrize("states", KINDS)
@pytest.mark.parametrize("first", (True, False), ids=("first", "later"))
def test_wild_everything(states, first):
    """Any bits at all in gradients and parameters, tiny and huge ones."""

    def run():
        results = []
        for kind in ("wild", "tiny", "huge", "zeros"):
            p, g = tensor(kind, 5120, seed=1).view(40, 128), tensor(kind, 5120, seed=2).view(40, 128)
            kept = new_states([p], torch.float32, states, 0.9, seed=3)
            hyper = torch.tensor([[0.1, 0.9, 0.99, 1e-8, 0.1, 0, 0, 0]], dtype=torch.float64)
            flags, ages = [7 if first else 3], [1 if first else 5]
            table = fastgrad.adamw_step_(grads=[g], hyper=hyper, ages=ages, flags=flags, method="centre", **kept)
            results += [table, *(t for value in kept.values() if isinstance(value, list) for t in value)]
        return results

    agree(run, f"adamw_step_ of wild tensors, {states}")


@needs_native
@pytest.mark.parametrize("maximize", (False, True))
@pytest.mark.parametrize("decay", (0.0, 0.1))
def test_nothing_but_adamw(decay, maximize):
    """Everything in float32 and nothing done to the gradients: the C++ takes whole chunks at once."""
    agree(lambda: trajectory(PLAIN | {"decay": decay, "maximize": maximize}), "adamw_step_ alone")


@needs_native
@pytest.mark.parametrize("n", (8192, 3 * 8192 + 128, 2 * 8192 + 130))
def test_nothing_but_adamw_on_wild_chunks(n):
    """NaN of any payload and infinities in parameters, gradients and states, of one chunk and of all."""

    def run():
        results = []
        for kind in ("wild", "normal"):
            p, g = tensor(kind, n, seed=1), tensor("normal", n, seed=2)
            g[n // 2] = p[-1] = torch.nan
            kept = new_states([p], torch.float32, "fp32", 0.9, seed=3)
            for step in range(3):
                hyper = torch.tensor([[0.1, 0.9, 0.99, 1e-8, 0.1, 0, 0, 0]], dtype=torch.float64)
                fastgrad.adamw_step_(grads=[g], hyper=hyper, ages=[5 + step], measure=False, step=step, **kept)
            results += [t for value in kept.values() if isinstance(value, list) for t in value]
        return results

    agree(run, f"adamw_step_ alone on {n} wild elements")
