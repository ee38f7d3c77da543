"""The columns of the table against float64, computed here from the data alone."""

from __future__ import annotations

import pytest
import torch
from contract_data import DTYPES, tensor
from torch import Tensor

import fastgrad
from fastgrad import shrinkage
from fastgrad.reference.formats import FORMATS

HALF_ULP = 2.0**-24
# The longest chain of float32 additions in a tile sum: 8 rows and 7 halvings; products are rounded too.
TILE_ROUNDINGS = 15 + 2
# Kinds with every element finite and, in float32, no product outside the range of float32.
FINITE = ("normal", "tiny", "huge", "zeros", "offset", "constant")
QUANTIZED = [name for name in FORMATS if name != "fp32"]


def column(table: Tensor, name: str) -> list[float]:
    return shrinkage.column(table, name).tolist()


def two_pass_float32(x: Tensor) -> tuple[float, float]:
    """The plain formula: mean, then the sum of squared deviations, all of it in float32."""
    x = x.float()
    mean = x.mean()
    return mean.item(), ((x - mean) ** 2).sum().item()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", FINITE)
@pytest.mark.parametrize("n", (1, 17, 129, 1025, 200_000))
def test_moments(kind, dtype, n, backend):
    """n, min, max exactly; mean and M2 to a few roundings of float32, or no worse than the plain formula."""
    x = tensor(kind, n, dtype)
    if not bool(torch.isfinite(x).all()):
        pytest.skip("does not fit float16")
    x64 = x.double()
    mean64, m2_64 = x64.mean().item(), ((x64 - x64.mean()) ** 2).sum().item()
    count, mean, m2, low, high, bad = fastgrad.gradient_moments([x])[0].tolist()
    assert (count, low, high, bad) == (n, x64.min().item(), x64.max().item(), 0)
    naive_mean, naive_m2 = two_pass_float32(x)
    spread = (m2_64 / n) ** 0.5
    # d = x - mean32 is rounded relative to |d|: the error follows the spread, not |mean|
    assert abs(mean - mean64) <= max(abs(naive_mean - mean64), 20 * HALF_ULP * spread + 1e-15 * abs(mean64))
    assert abs(m2 - m2_64) <= max(abs(naive_m2 - m2_64), 40 * HALF_ULP * m2_64 + 1e-12 * n * abs(mean64) ** 2 * 2**-24)


@pytest.mark.parametrize("kind", ("normal", "offset", "sprinkled"))
def test_merged_row(kind, backend):
    """The last row is the union of the tensors."""
    tensors = [tensor(kind, n, seed=n) for n in (1, 1000, 70_000, 129)]
    everything = torch.cat(tensors).double()
    finite = everything[torch.isfinite(everything)]
    count, mean, m2, low, high, bad = fastgrad.gradient_moments(tensors)[-1].tolist()
    assert count == finite.numel() and bad == everything.numel() - finite.numel()
    assert (low, high) == (finite.min().item(), finite.max().item())
    assert mean == pytest.approx(finite.mean().item(), rel=1e-6, abs=1e-6 * finite.std().item())
    assert m2 == pytest.approx(((finite - finite.mean()) ** 2).sum().item(), rel=1e-6)


@pytest.mark.parametrize("kind", (*FINITE, "sprinkled"))
@pytest.mark.parametrize("format", QUANTIZED)
@pytest.mark.parametrize("scale", ("tensor", "block"))
def test_sums_and_counts(kind, format, scale, backend):
    """Sums to the roundings a tile sum has; counts, scale and largest exactly, from the stored values."""
    x = tensor(kind, 3001)
    quantized, table = fastgrad.quantize(x, format, scale=scale, block=32, moments=True)
    q64 = fastgrad.dequantize(quantized, torch.float32).double()
    finite = torch.isfinite(x)
    y, q = x.double()[finite], q64[finite]
    row = dict(zip(shrinkage.COLUMNS, table[0].tolist(), strict=True))
    for name, terms in (("sum_yy", y * y), ("sum_yq", y * q), ("sum_qq", q * q)):
        bound = TILE_ROUNDINGS * HALF_ULP * terms.abs().sum().item()
        assert abs(row[name] - terms.sum().item()) <= bound, name
    assert row["zeroed"] == int(((y != 0) & (q == 0)).sum())
    assert row["nonfinite"] == int((~finite).sum())
    assert row["absmax"] == y.abs().max().item()
    assert row["n"] == y.numel() and row["k"] == row["a"] == 1 and row["c"] == 0
    assert row["scale"] == (quantized.scale.item() if scale == "tensor" else 1.0)
    spread = quantized.scale.repeat_interleave(32)[:3001] if scale == "block" else quantized.scale.expand(3001)
    v = (x * (1.0 / spread)).abs()
    assert row["saturated"] == int((v[finite] > FORMATS[format].largest).sum())


@pytest.mark.parametrize("format", QUANTIZED)
def test_every_element_is_within_one_gap(format, backend):
    """Stochastic rounding takes one of the two neighbours: found here by nearest rounding of neighbours."""
    x = tensor("normal", 20_000, seed=4)
    (low, _), (any_, _) = (fastgrad.quantize(x, format, rounding=r, seed=3) for r in ("truncate", "stochastic"))
    below, chosen = fastgrad.dequantize(low).double(), fastgrad.dequantize(any_).double()
    scale = low.scale.double().item()
    assert bool((below.abs() <= x.double().abs() * (1 + 2**-22)).all())
    step = (chosen.abs() - below.abs()) / scale
    assert bool((step >= 0).all())
    up = step > 0
    assert 0.05 < up.double().mean().item() < 0.95
    # codes of neighbours differ by one
    if format in ("int8", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2"):
        width = torch.int16 if format in ("bf16", "fp16") else torch.int8
        a, b = low.codes.view(width).int(), any_.codes.view(width).int()
        magnitude = (
            (lambda c: c.abs()) if format == "int8" else (lambda c: c & (0x7FFF if width == torch.int16 else 0x7F))
        )
        assert torch.equal(magnitude(b) - magnitude(a), up.int())


@pytest.mark.parametrize("method", ("centre", "znorm", "clip", "autoscale", "centralize"))
@pytest.mark.parametrize("kind", ("normal", "offset", "tiny", "huge"))
def test_normalizers(method, kind, backend):
    """What the maps are for: means of zero, deviations of one, a norm of max_norm."""
    x = tensor(kind, 6000).view(20, 300)
    truth = x.double()
    std = truth.std(correction=0).item()
    table = fastgrad.normalize_([x], method, max_norm=std * 3, eps=0.0, alpha="one")
    got = x.double()
    rounding = 4 * HALF_ULP * (truth.abs().max().item() / std)
    if method == "znorm":
        assert got.mean().abs() < rounding and got.std(correction=0).item() == pytest.approx(1, rel=1e-6)
        assert table[0, 6].item() == pytest.approx(1 / std, rel=1e-6)
    elif method == "clip":
        norm = truth.norm().item()
        factor = min(1.0, std * 3 / (norm + 1e-6))
        assert got.norm().item() == pytest.approx(norm * factor, rel=1e-6)
        assert table[-1, 6].item() == pytest.approx(factor, rel=1e-6)
    elif method == "centralize":
        assert (got.mean(dim=1).abs() / std < rounding).all() and table[0, 7] == 0
    else:
        assert got.mean().abs() / std < rounding
        assert got.std(correction=0).item() == pytest.approx(std, rel=1e-6)
        assert table[0, 7].item() == pytest.approx(truth.mean().item(), rel=1e-6)
