"""What optim.AdamW keeps: which states are narrow, their bytes, their rounding, and that no denominator vanishes."""

from __future__ import annotations

import itertools

import pytest
import torch
from adamw_training import STATE_FORMATS, parameters, set_gradients, train
from contract_bits import assert_same_bits
from torch import Tensor, nn

import fastgrad
from fastgrad.optim import AdamW
from fastgrad.reference import formats, scales

CODES = [name for name in STATE_FORMATS if name not in ("fp32", "bf16", "fp16")]
FIRST = {
    "fp32": (torch.float32, 4.0),
    "bf16": (torch.bfloat16, 2.0),
    "fp16": (torch.float16, 2.0),
    "int8": (torch.int8, 1.0),
    "fp8_e4m3": (torch.float8_e4m3fn, 1.0),
    "fp8_e5m2": (torch.float8_e5m2, 1.0),
    "int4": (torch.uint8, 0.5),
    "fp4_e2m1": (torch.uint8, 0.5),
}
SECOND = {
    **{name: (torch.uint8, FIRST[name][1]) for name in CODES},
    "fp32": (torch.float32, 4.0),
    "bf16": (torch.bfloat16, 2.0),
    "fp16": (torch.bfloat16, 2.0),
}


@pytest.mark.parametrize("state_format", STATE_FORMATS)
def test_small_and_odd_parameters_stay_in_float32(state_format):
    """Blocks of 16 for rows of 144 elements, of 128 for rows of 128; none for rows of 67, 128 elements, a bias."""
    params = parameters()
    optimizer = AdamW(params, state_format=state_format)
    train(optimizer, params, range(1))
    blocks = [16, 128, 0, 0, 0]
    assert [optimizer.block_of(p) for p in params] == blocks
    for p, block in zip(params, blocks, strict=True):
        state = optimizer.state[p]
        in_blocks = state_format in CODES and block
        dtypes = (FIRST[state_format][0], SECOND[state_format][0])
        if state_format in CODES and not block:
            dtypes = torch.float32, torch.float32
        assert (state["exp_avg"].dtype, state["exp_avg_sq"].dtype) == dtypes
        assert ("exp_avg_scale" in state, "exp_avg_sq_scale" in state) == (bool(in_blocks), bool(in_blocks))
        if in_blocks:
            assert state["exp_avg_scale"].shape == (p.shape[0], p.numel() // p.shape[0] // block)


@pytest.mark.parametrize(
    "shape, block", [((4, 1024), 256), ((2, 2048), 64), ((64, 96), 32), ((4095, 1), 0), ((4096,), 0)]
)
def test_the_largest_block_that_divides_a_row(shape, block):
    optimizer = AdamW([nn.Parameter(torch.zeros(shape))], state_block=64 if shape[0] == 2 else 256)
    assert optimizer.block_of(optimizer.param_groups[0]["params"][0]) == block


@pytest.mark.parametrize("beta1", (0.9, 0.0))
@pytest.mark.parametrize("factored", (False, True))
@pytest.mark.parametrize("state_format", STATE_FORMATS)
@pytest.mark.parametrize("weights", ("float32", "bfloat16", "int8"))
def test_memory_is_what_arithmetic_says(weights, state_format, factored, beta1):
    """Of a 256 x 512 weight: bytes of the type, and 4 for each block, row or column; 4 for its step."""
    model = nn.Linear(512, 256, bias=False, dtype=torch.bfloat16 if weights == "bfloat16" else torch.float32)
    if weights == "int8":
        fastgrad.quantize_weights_(model, block=64)
    optimizer = AdamW(model.parameters(), betas=(beta1, 0.99), state_format=state_format, factored=factored)
    model(torch.ones(2, 512, dtype=model.weight.dtype)).sum().backward()
    optimizer.step()
    n, rows, columns = 256 * 512, 256, 512
    weight_bytes = {"float32": 4 * n, "bfloat16": 2 * n, "int8": n + 4 * n // 64}[weights]
    scale_bytes = 4 * n // 128 if state_format in CODES else 0
    first = FIRST[state_format][1] * n + scale_bytes if beta1 else 0
    second = 4 * (rows + columns) if factored else SECOND[state_format][1] * n + scale_bytes
    assert optimizer.memory() == {
        "weights": weight_bytes / n,
        "states": (first + second + 4) / n,
        "persistent": (weight_bytes + first + second + 4) / n,
    }
    # The documented smallest: int8 weights, no first moment, a factored second.
    if (weights, factored, beta1) == ("int8", True, 0.0):
        assert optimizer.memory()["persistent"] < 1.1


def test_bf16_weights_keep_updates_that_are_smaller_than_a_gap():
    """With a constant gradient Adam's step is lr: far below half a gap, it vanishes with nearest rounding and
    survives, on average, with stochastic."""
    steps, lr, n = 20, 1e-4, 100_000
    gap = 2.0**-8  # below 1
    moved = {}
    for rounding in ("nearest", "stochastic"):
        p = nn.Parameter(torch.ones(n, dtype=torch.bfloat16))
        optimizer = AdamW([p], lr=lr, weight_decay=0.0, weight_rounding=rounding)
        for _ in range(steps):
            p.grad = torch.full_like(p, 1e-2)
            optimizer.step()
        moved[rounding] = 1 - float(p.detach().double().mean())
    assert moved["nearest"] == 0.0
    # A step moves an element by a gap with probability lr / gap: variance below gap * lr each.
    assert abs(moved["stochastic"] - steps * lr) < 5 * (gap * lr * steps / n) ** 0.5


def stored_first(state: dict[str, Tensor], state_format: str) -> Tensor:
    """The numbers of a first moment, float64."""
    t = state["exp_avg"]
    if "exp_avg_scale" not in state:
        return t.double().flatten()
    spec = formats.get_format(state_format)
    n = t.numel() * (2 if t.dtype == torch.uint8 else 1)
    s = state["exp_avg_scale"].flatten()
    return formats.decode(formats.load_codes(t.flatten(), spec, n), scales.spread(s, n // s.numel(), n), spec).double()


def root_codes(state: dict[str, Tensor]) -> Tensor:
    codes = state["exp_avg_sq"].flatten()
    if codes.numel() * 2 == 128 * state["exp_avg_sq_scale"].numel():  # blocks of 128
        codes = torch.stack([codes & 0xF, codes >> 4], dim=1).flatten()
    return codes


def assert_unbiased(runs: Tensor, exact: Tensor, gap: Tensor) -> None:
    """The mean of the runs approaches the exact numbers as fast as their spread says, and nothing is off by a gap.

    runs: [N, n] float64; exact: [n], gap: the distance of the neighbours of each.
    """
    count = runs.shape[0]
    deviation = runs.std(0)
    assert float((runs - exact).abs().amax(0).div(gap).max()) <= 1.0 + 1e-6
    # E|mean - exact| is 0.8 deviations over sqrt(N), and a systematic part of it would add up over the elements.
    error = runs.mean(0) - exact
    spread = deviation.mean() / count**0.5
    assert 0 < spread and error.abs().mean() < 1.1 * spread
    outwards = (error * exact.sign()).sum()
    assert outwards.abs() < 5 * (deviation.square().sum() / count).sqrt()


@pytest.mark.parametrize("state_format", [name for name in STATE_FORMATS if name != "fp32"])
def test_the_rounding_of_states_is_unbiased(state_format):
    """Over many seeds, the first moment, and the second or its root, approach what float32 holds."""
    g = torch.randn(32, 128, generator=torch.Generator().manual_seed(0)) * 1e-3

    def state_of(seed: int, state_format: str) -> dict[str, Tensor]:
        p = nn.Parameter(torch.zeros(32, 128))
        optimizer = AdamW([p], betas=(0.9, 0.9), state_format=state_format, seed=seed)
        p.grad = g
        optimizer.step()
        return optimizer.state[p]

    plain = state_of(1, "fp32")
    states = [state_of(seed, state_format) for seed in range(1, 201)]
    spec = formats.get_format(state_format)
    m, v = (plain[name].double().flatten() for name in ("exp_avg", "exp_avg_sq"))
    s = states[0]["exp_avg_scale"].repeat_interleave(128) if state_format in CODES else torch.ones(1)
    s = s.flatten().double()

    def gap(x: Tensor, unit: Tensor, spec: formats.Format) -> Tensor:
        if spec.integer:
            return unit.expand_as(x)
        exponent = torch.frexp(x.abs() / unit)[1] - 1
        return torch.exp2(exponent.clamp(min=spec.e0 - 127).double() - spec.mantissa) * unit

    first = torch.stack([stored_first(state, state_format) for state in states])
    assert_unbiased(first, m, gap(m, s, spec))
    if state_format not in CODES:
        second = torch.stack([state["exp_avg_sq"].double().flatten() for state in states])
        assert_unbiased(second, v, gap(v, torch.ones(1).double(), formats.get_format("bf16")))
        return
    codes = torch.stack([root_codes(state) for state in states]).double()
    unit = states[0]["exp_avg_sq_scale"].repeat_interleave(128).double().flatten()
    roots = v.sqrt() / unit
    above = roots >= 1
    assert bool((codes[:, ~above] == 1).all()) and bool((~above).any())
    assert_unbiased(codes[:, above], roots[above], torch.ones(1))


@pytest.mark.parametrize("state_format", CODES)
def test_no_denominator_vanishes(state_format):
    """Gradients that differ by many orders of magnitude within a block: where the root of a second moment is far
    below one code it is still stored as one, and no update is much longer than lr."""
    p = nn.Parameter(torch.zeros(64, 128))
    optimizer = AdamW([p], lr=1.0, weight_decay=0.0, eps=1e-30, betas=(0.9, 0.99), state_format=state_format)
    generator = torch.Generator().manual_seed(0)
    magnitude = 10.0 ** (-12 * torch.rand(64, 128, generator=generator))
    largest, below_one = 0.0, 0
    for _ in range(12):
        p.grad = torch.randn(64, 128, generator=generator) * magnitude
        before = p.detach().clone()
        optimizer.step()
        largest = max(largest, float((p.detach() - before).abs().max()))
        codes = root_codes(optimizer.state[p])
        assert bool((codes >= 1).all())
        below_one += int((codes == 1).sum())
    assert below_one > 1000  # it was needed
    # A first moment that rounds up to a code c s_m meets a root of at least s_v: (A/7) / (A/15), bias-corrected.
    assert largest < 50


@pytest.mark.parametrize("factored", (False, True))
@pytest.mark.parametrize("state_format", STATE_FORMATS)
def test_rare_small_gradients_take_no_long_step(state_format, factored):
    """Rows that have a gradient now and then, as an embedding's: in between, the first moment meets a second that was
    stored and read. Squares of 1e-8 are zero in fp16; a step would be 1e4 times lr."""
    p = nn.Parameter(torch.zeros(64, 128))
    optimizer = AdamW([p], 1.0, weight_decay=0.0, state_format=state_format, factored=factored)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        p.grad = torch.randn(64, 128, generator=generator) * 1e-4
        p.grad[torch.rand(64, generator=generator) > 0.3] = 0.0
        before = p.detach().clone()
        optimizer.step()
        assert float((p.detach() - before).abs().max()) < 5.0  # one of 8,192 normal numbers is 4 deviations


def test_a_gradient_of_zeros_moves_nothing():
    for state_format, factored in itertools.product(STATE_FORMATS, (False, True)):
        params = parameters(torch.bfloat16)
        optimizer = AdamW(params, 1e-2, weight_decay=0.0, state_format=state_format, factored=factored)
        before = [p.detach().clone() for p in params]
        for _ in range(3):
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()
        assert_same_bits([p.detach() for p in params], before, f"{state_format} factored={factored}")


@pytest.mark.parametrize("factored", (False, True))
@pytest.mark.parametrize("state_format", STATE_FORMATS)
def test_channels_last_takes_the_same_values(state_format, factored):
    """States without rounding: the same bits. Rounded ones: the same bits at the first step (it is taken before
    rounding), after that noise and blocks lie in another order, and the trajectories stay within that noise."""
    trajectories, small = [], []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        p = nn.Parameter(torch.zeros(32, 32, 3, 3).to(memory_format=memory_format))
        optimizer = AdamW([p], 1e-3, weight_decay=0.0, state_format=state_format, factored=factored)
        for step in range(8):
            set_gradients([p], step)
            assert p.grad.is_contiguous(memory_format=memory_format)
            optimizer.step()
            if step == 0:
                small.append(p.detach().clone(memory_format=torch.contiguous_format))
        trajectories.append(p.detach().contiguous())
    assert_same_bits([small[1]], [small[0]], "first step")
    if state_format == "fp32":
        assert_same_bits([trajectories[1]], [trajectories[0]], "fp32 states")
        return
    exact = nn.Parameter(torch.zeros(32, 32, 3, 3))
    optimizer = AdamW([exact], 1e-3, weight_decay=0.0, factored=factored)
    train(optimizer, [exact], range(8))
    noise = (trajectories[0] - exact.detach()).square().mean().sqrt()
    between = (trajectories[0] - trajectories[1]).square().mean().sqrt()
    assert 0 < between < 2 * noise
    assert noise < 0.35 * exact.detach().square().mean().sqrt()


def test_transposed_parameters_take_the_same_values():
    """Dim 0 is not the outermost in memory: the step works on a copy in the order of dims."""
    for state_format in STATE_FORMATS:
        a, b = nn.Parameter(torch.zeros(128, 64).t()), nn.Parameter(torch.zeros(64, 128))
        for p in (a, b):
            optimizer = AdamW([p], 1e-3, state_format=state_format)
            train(optimizer, [p], range(4))
        assert_same_bits([a.detach().contiguous()], [b.detach()], state_format)
