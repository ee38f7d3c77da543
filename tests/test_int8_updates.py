"""How int8 weights are rounded: their error, when a block's scale follows, and that updates are unbiased."""

from __future__ import annotations

import pytest
import torch
from contract_bits import assert_same_bits
from torch import Tensor, nn

import fastgrad
from fastgrad.optim import AdamW
from fastgrad.weights import HEADROOM, Int8Weight


@pytest.mark.parametrize("block", (16, 32, 64, 128, 256))
@pytest.mark.parametrize("magnitude", (1e-30, 1e-3, 1.0, 1e30))
def test_the_error_is_half_a_gap(block, magnitude):
    """Of each block, whose largest element is at code 120."""
    w = torch.randn(8, 512) * magnitude * 10.0 ** torch.randint(-3, 3, (8, 1))
    q = Int8Weight.from_dense(w, block)
    assert q.block == block
    spread = q.scales.double().repeat_interleave(block, dim=1)
    exact = w.double().view(8, -1, block).abs().amax(-1) / HEADROOM
    torch.testing.assert_close(q.scales.double(), exact, rtol=2.0**-24, atol=0.0)
    error = (q.codes.double() * spread - w.double()).abs()
    # v * 65536 is a float32: of up to 23 bits, its own rounding is below a 2^-16 of a gap.
    assert bool((error <= spread * (0.5 + 2.0**-16)).all())
    assert bool((q.codes.view(8, -1, block).abs().amax(-1) == 120).all())
    rounded = (q.codes.float() * q.scales.repeat_interleave(block, dim=1)).to(w.dtype)
    assert_same_bits([q.dense()], [rounded], "dense")


def test_zeros_have_a_scale():
    q = Int8Weight.from_dense(torch.zeros(4, 32), 16)
    assert not q.codes.any() and bool((q.scales == 1.0).all()) and not q.dense().any()


class Driven:
    """An int8 weight of one block a row, whose numbers are moved to where a test wants them.

    With beta1 = beta2 = 0 and eps = 0 the step is lr * sign(g), and lr is free at every step.
    """

    def __init__(self, rows: list[float], block: int = 16) -> None:
        w = torch.tensor(rows).repeat_interleave(block).view(len(rows), block)
        self.weight = nn.Parameter(Int8Weight.from_dense(w, block))
        self.optimizer = AdamW([self.weight], betas=(0.0, 0.0), eps=0.0, weight_decay=0.0, weight_rounding="nearest")

    def move(self, lr: float, direction: float = 1.0) -> tuple[Tensor, Tensor]:
        """The scales before, and the largest magnitudes as the rule of section 12 sees them."""
        before = self.weight.scales.clone().flatten()
        numbers = self.weight.codes.float() * self.weight.scales
        self.weight.grad = torch.full(self.weight.shape, -direction)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        return before, (numbers + direction * torch.tensor(lr, dtype=torch.float32)).abs().amax(1)

    @property
    def scales(self) -> Tensor:
        return self.weight.scales.detach().clone().flatten()


def rule(s: Tensor, largest: Tensor) -> Tensor:
    """Section 12: kept while A = 0 or 48 s <= A <= 127 s, else A / 120."""
    kept = (largest == 0) | ((48.0 * s <= largest) & (largest <= 127.0 * s))
    return torch.where(kept, s, torch.maximum(largest / 120.0, torch.tensor(2.0**-126)))


def test_a_scale_is_kept_grows_and_shrinks_by_the_rule():
    """Every scale of a long walk out and back is the one that the rule gives, and all of its branches are taken."""
    driven = Driven([0.5, 1.0, 1.0, 3.0])
    grown = shrunk = kept = 0
    for lr, direction in [(0.004, 1.0)] * 30 + [(0.05, 1.0)] * 30 + [(0.02, -1.0)] * 150 + [(0.03, 1.0)] * 60:
        before, largest = driven.move(lr, direction)
        assert_same_bits([driven.scales], [rule(before, largest)], f"{lr * direction}")
        grown += int((driven.scales > before).sum())
        shrunk += int((driven.scales < before).sum())
        kept += int((driven.scales == before).sum())
    assert grown > 10 and shrunk > 10 and kept > 500
    # A scale that followed the largest would have changed at every step.
    assert grown + shrunk < kept / 3


def test_the_edges_of_the_rule():
    """The largest at 127, and at 48 gaps, belongs to what keeps its scale; a little beyond does not."""
    for moved, same in ((7.0, True), (7.01, False), (-72.0, True), (-72.01, False)):
        driven = Driven([120.0])
        assert driven.scales.item() == 1.0
        driven.move(abs(moved), 1.0 if moved > 0 else -1.0)
        expected = 1.0 if same else float(torch.tensor(120.0 + moved) / 120.0)
        assert driven.scales.item() == pytest.approx(expected, abs=1e-7), moved
        assert (driven.scales.item() == 1.0) == same
    driven = Driven([1.0])
    scale = driven.scales
    driven.move(float(driven.weight.codes[0, 0] * scale), -1.0)
    assert not driven.weight.codes.any()
    assert_same_bits([driven.scales], [scale], "a block of zeros keeps its scale")
    driven.move(1e-6)
    assert driven.scales.item() == pytest.approx(1e-6 / 120)


def test_a_small_step_is_not_lost_and_not_biased():
    """Of a hundredth of a gap: nearest rounding loses it, stochastic keeps it in expectation."""
    rows, block, steps = 64, 128, 25
    moved = {}
    for rounding in ("nearest", "stochastic"):
        w = torch.linspace(-1.0, 1.0, block).repeat(rows, 1)
        weight = nn.Parameter(Int8Weight.from_dense(w, block))
        gap = float(weight.scales[0, 0])
        optimizer = AdamW([weight], lr=0.01 * gap, weight_decay=0.0, weight_rounding=rounding)
        before = weight.codes.double()
        for _ in range(steps):
            weight.grad = torch.full((rows, block), -1.0)
            optimizer.step()
        assert bool((weight.scales == gap).all())
        moved[rounding] = (weight.codes.double() - before).mean()
    assert moved["nearest"] == 0.0
    # Each step moves an element by one gap with probability 0.01.
    deviation = (steps * 0.01 * 0.99 / (rows * block)) ** 0.5
    assert abs(float(moved["stochastic"]) - steps * 0.01) < 5 * deviation


@pytest.mark.parametrize("grown", (False, True), ids=("scale kept", "scale grown"))
def test_an_update_is_unbiased(grown):
    """The mean over seeds approaches the update in float32, as fast as the spread says; also where all codes of a
    block are rounded anew because its scale grew."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(32, 128, generator=generator)
    start = Int8Weight.from_dense(w)
    g = torch.randn(32, 128, generator=generator)
    lr = 0.5 if grown else 1e-3

    def updated(seed: int) -> Tensor:
        weight = nn.Parameter(start.detach().clone())
        optimizer = AdamW([weight], lr, weight_decay=0.0, seed=seed)
        weight.grad = g.clone()
        optimizer.step()
        assert bool((weight.scales != start.scales).any()) == grown
        return weight.codes.double() * weight.scales.double()

    exact = nn.Parameter(start.dense())
    optimizer = AdamW([exact], lr, weight_decay=0.0)
    exact.grad = g.clone()
    optimizer.step()
    runs = torch.stack([updated(seed) for seed in range(1, 301)])
    error, deviation = runs.mean(0) - exact.detach().double(), runs.std(0)
    assert 0 < deviation.mean() and error.abs().mean() < 1.1 * deviation.mean() / len(runs) ** 0.5
    for sign in (torch.ones(()), exact.detach().sign()):  # a drift upwards, and one outwards
        assert (error * sign).sum().abs() < 5 * (deviation.square().sum() / len(runs)).sqrt()


def test_a_nan_skips_the_step():
    """Codes have no NaN: with int8 weights this is the default."""
    module = nn.Linear(64, 32)
    fastgrad.quantize_weights_(module)
    optimizer = AdamW(module.parameters(), 1e-2, state_format="int8")
    before = [module.weight.codes.clone(), module.weight.scales.clone(), module.bias.detach().clone()]
    module(torch.ones(2, 64)).sum().backward()
    module.weight.grad[1, 2] = torch.nan
    optimizer.step()
    assert_same_bits([module.weight.codes, module.weight.scales, module.bias], before, "skipped")
    assert optimizer.skipped == 1 and not optimizer.state
