"""normalize_ and normalize_quantize_ on every native backend: the reference's bits, lag included."""

from __future__ import annotations

import pytest
import torch
from contract_backends import agree, needs_native
from contract_bits import same_bits
from contract_cases import grid, name, pairwise
from contract_data import DTYPES, KINDS, LARGE_SIZES, shaped, tensor

import fastgrad
from fastgrad.ops import sweeps

SIZES = ((1, 127, 1025), (17, 1000, 128), (129, 1024), (LARGE_SIZES[0], 17))
AXES = {
    "method": sweeps.METHODS,
    "format": sweeps.FORMATS,
    "rounding": sweeps.ROUNDINGS,
    "scale": ("none", "tensor", "tensor pow2", "block 16", "block 32 pow2", "block 128", "block 256 pow2"),
    "alpha": (*(a for a in sweeps.ALPHAS if a != "given"), "callable"),
    "stats": ("cached", "two_reads", "lagged"),
    "dtype": DTYPES,
    "kind": KINDS,
    "sizes": SIZES,
    "eps": (1e-8, 0.0, 1e-3),
    "max_norm": (0.1, 1e30),
}


def legal(case):
    return case if case["format"] != "fp32" else {**case, "scale": "none"}


def twice(case) -> list[torch.Tensor]:
    """Two calls, the second on other data with the state and the table of the first."""
    scale, _, extra = case["scale"].partition(" ")
    alpha = (lambda sigma, state: 1.0 / (1.0 + sigma)) if case["alpha"] == "callable" else case["alpha"]
    state = torch.zeros(2, dtype=torch.float64)
    results, table = [], None
    for step in range(2):
        tensors = [shaped(tensor(case["kind"], n, case["dtype"], seed=step)) for n in case["sizes"]]
        table = fastgrad.normalize_quantize_(
            tensors,
            case["method"],
            case["format"],
            eps=case["eps"],
            max_norm=case["max_norm"],
            alpha=alpha,
            state=state,
            stats=case["stats"],
            previous=table if case["stats"] == "lagged" else None,
            rounding=case["rounding"],
            scale=scale,
            pow2=extra.endswith("pow2"),
            block=int(extra.split()[0]) if scale == "block" else 128,
            seed=2**64 - 1,
            step=step,
            slot=3,
        )
        results += [table, state.clone(), *tensors]
    return results


@needs_native
@pytest.mark.parametrize("case", pairwise(AXES, seed=2, adjust=legal), ids=name)
def test_normalize_quantize(case):
    agree(lambda: twice(case), "normalize_quantize_")


@needs_native
@pytest.mark.parametrize("stats", ("auto", "two_reads"))
@pytest.mark.parametrize("kind", ("normal", "sprinkled"))
@pytest.mark.parametrize("method", [m for m in sweeps.METHODS if m != "none"])
def test_normalize(method, kind, stats):
    def run():
        tensors = [shaped(tensor(kind, n)) for n in (1, 128, 1000, 1025, LARGE_SIZES[1])]
        return [fastgrad.normalize_(tensors, method, stats=stats), *tensors]

    agree(run, f"normalize_ {method}")


@needs_native
@pytest.mark.parametrize("alpha", [a for a in sweeps.ALPHAS if a != "given"])
@pytest.mark.parametrize("spread", (0.0, 1e-35, 0.9995, 1.0, 2.0, 1e30))
def test_alpha_rules(alpha, spread):
    """Four steps of a state, over sigmas at the ends of what the rules take, zero included."""

    def run():
        state, results = torch.zeros(2, dtype=torch.float64), []
        for factor in (1.0, 0.0, 0.5, 3.0):
            tensors = [tensor("normal", n, seed=5) * 1e3 * spread * factor for n in (1000, 77)]
            table = fastgrad.normalize_(tensors, "autoscale", alpha=alpha, state=state)
            results += [table, state.clone(), *tensors]
        return results

    agree(run, f"alpha {alpha} {spread}")


@needs_native
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "rows, length",
    ((2, 2), (300, 1), (3, 1025), (64, 27), (2, 70_000), (1, 500), (5, 0), (300, 577), (17, 8192), (17, 8193)),
)
def test_centralize_rows(kind, rows, length):
    """Rows shorter than a vector, rows of several chunks, one row, rows of nothing; rows that lie in two chunks, and
    the longest that are still measured chunk by chunk (where no scale of the whole tensor comes first)."""

    def run():
        results = []
        for format in ("fp32", "fp8_e4m3"):
            x = tensor(kind, rows * length).view(rows, length)
            table = fastgrad.normalize_quantize_([x], "centralize", format, seed=4)
            results += [x, table]
        return results

    agree(run, f"centralize {rows}x{length}")


@needs_native
@pytest.mark.slow
@pytest.mark.parametrize("format", sweeps.FORMATS)
@pytest.mark.parametrize("method", sweeps.METHODS)
def test_whole_grid(method, format):
    axes = {
        **AXES,
        "method": (method,),
        "format": (format,),
        "sizes": ((1025, 24),),
        "eps": (1e-8,),
        "max_norm": (0.1,),
    }
    if method != "autoscale":
        axes["alpha"] = ("one",)
    for case in grid(axes, legal=lambda case: legal(case) == case):
        agree(lambda case=case: twice(case), name(case))


@needs_native
@pytest.mark.parametrize("format", sweeps.FORMATS)
@pytest.mark.parametrize("flags", (None, [3], [1], [2], [0]), ids=str)
@pytest.mark.parametrize("n", (40, 1025, 70_000))
def test_out_of_place(format, flags, n):
    """The op under the backward passes; it leaves its input as it is."""
    x = shaped(tensor("sprinkled", n))
    before = x.clone()

    def run():
        state = torch.zeros(2, dtype=torch.float64)
        out, table = torch.ops.fastgrad.normalize_quantize(
            *(x, flags, "autoscale", 1e-8, 1.0, "sigma", state, None, False, format, "stochastic", "none", 0),
            *(False, 1, 0, torch.tensor(2), 3, "activation", None),
        )
        return [table, state, out]

    agree(run, "normalize_quantize")
    assert same_bits(x, before)
