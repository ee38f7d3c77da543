"""Sections 7, 9, 10 and 11 of docs/numerics.md: maps, SGD, the table, and the sweep of them all."""

import math

import pytest
import torch

from fastgrad.reference.formats import FORMATS, decode, f32, load_codes
from fastgrad.reference.moments import merge_all, moments, row_moments
from fastgrad.reference.normalizers import ALPHAS, alpha, log64
from fastgrad.reference.sweep import FIRST, NORMALIZE, QUANTIZE, sweep

N, MEAN, M2, MIN, MAX, NONFINITE, A, C = range(8)
SUM_YY, SUM_YQ, SUM_QQ, ZEROED, SATURATED, SCALE, ABSMAX, K = range(8, 16)
BOTH = NORMALIZE | QUANTIZE
QUANTIZED = [name for name in FORMATS if name != "fp32"]


def randn(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int16)


def zeros2() -> torch.Tensor:
    return torch.zeros(2, dtype=torch.float64)


def normalized(x: torch.Tensor, **options) -> tuple[torch.Tensor, torch.Tensor]:
    out = torch.empty_like(x)
    table = sweep([x], flags=[NORMALIZE], outs=[out], **options)
    return out, table


def test_log64():
    generator = torch.Generator().manual_seed(0)
    values = (2.0 ** (252 * torch.rand(2000, dtype=torch.float64, generator=generator) - 126)).tolist()
    for x in [*values, 1.0, 0.5, 2.0**-126, 1 - 2.0**-10, math.sqrt(0.5)]:
        assert log64(x) == pytest.approx(math.log(x), rel=4e-16, abs=2e-16)


@pytest.mark.parametrize("rule", ALPHAS)
def test_alpha(rule):
    if rule == "given":  # the factor itself
        assert alpha(rule, 0.5, (0.75, 3.0)) == (0.75, (0.75, 3.0))
        assert alpha(rule, 0.5, (-1.0, 3.0))[0] == 0.0
        return
    assert alpha(rule, 0.0, (0.0, 0.0)) == (1.0, (0.0, 0.0))
    _, state = alpha(rule, 0.25, (0.0, 0.0))
    assert state == (0.25, 0.25)
    _, state = alpha(rule, 0.5, state)
    assert state == (0.25, 0.5)
    value, state = alpha(rule, 0.125, state)
    assert state == (0.25, 0.5)
    expected = {
        "ratio_first": 0.5,
        "ratio_max": 0.25,
        "sigma": 0.125,
        "inverse_log": 1 / math.log(8),
        "log": math.log(8),
        "one_plus": 1.125,
        "one": 1.0,
    }[rule]
    assert value == pytest.approx(expected, rel=1e-15)
    for sigma in (1e-60, 1.0, 1e60):
        assert 0.0 <= alpha(rule, sigma, (1e-200, 1e-200))[0] <= 2.0**126


def test_methods():
    x = randn(5000) * 3 + 2
    n, mean, m2 = moments(x)[:3].tolist()
    std = math.sqrt(m2 / n)
    a_c = {
        "none": (1.0, 0.0),
        "centre": (1.0, mean),
        "znorm": (1 / (std + 1e-8), mean),
        "clip": (1 / (math.sqrt(m2 + n * mean * mean) + 1e-6), 0.0),
        "autoscale": (std, mean),
    }
    for method, (a, c) in a_c.items():
        out, table = normalized(x, method=method, alpha="sigma")
        assert torch.equal(out, (x - f32(c)) * f32(a))
        assert table[0, A] == f32(a) and table[0, C] == f32(c)
        assert table[1, A] == (f32(a) if method in ("clip", "autoscale") else 1) and table[1, C] == 0


def test_centralize():
    x = randn(7 * 1500) + torch.arange(7).repeat_interleave(1500)
    rows = row_moments(x, 7)
    out, table = normalized(x, method="centralize", rows=[7])
    assert torch.equal(out.view(7, 1500), x.view(7, 1500) - rows[:, 1:2].float())
    assert torch.equal(table[0, :6], merge_all(rows))
    assert table[0, C] == 0 and table[0, A] == 1
    assert torch.equal(normalized(x, method="centralize", rows=[0])[0], x)
    one = normalized(x, method="centralize", rows=[1])[0]
    assert torch.equal(one, x - row_moments(x, 1)[0, 1].float())


def test_all_is_over_the_flagged_tensors():
    grads = [randn(3000, 1), randn(2000, 2) * 100, randn(4000, 3)]
    table = sweep(grads, flags=[NORMALIZE, 0, NORMALIZE], method="autoscale", alpha="sigma")
    assert table[3, N] == 7000 and table[3, MAX] == max(grads[0].max(), grads[2].max())
    assert table[:, A].tolist() == [table[3, A], 1.0, table[3, A], table[3, A]]
    assert sweep(grads, flags=[0, 0, 0])[3, N] == 9000


def test_degenerate_tensors():
    grads = [torch.zeros(0), torch.zeros(5), torch.full((5,), math.nan), torch.full((5,), 7.0)]
    for method in ("centre", "znorm", "clip", "autoscale", "centralize"):
        outs = [torch.empty_like(g) for g in grads]
        table = sweep(
            grads, flags=[BOTH] * 4, method=method, outs=outs, format="int8", scale="tensor", eps=0.0
        )
        assert not table.isnan().any()
        assert outs[1].tolist() == [0.0] * 5 and outs[2].tolist() == [0.0] * 5
        assert table[2, NONFINITE] == 5 and table[2, A] == 1 and table[2, C] == 0 and table[2, SCALE] == 1
    assert table.shape == (5, 16)
    assert sweep([], flags=[]).shape == (1, 16)


@pytest.mark.parametrize("scale", ["none", "tensor", "block"])
@pytest.mark.parametrize("rounding", ["stochastic", "nearest", "truncate"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_codes_scales_and_values_fit_together(name, rounding, scale):
    n, block = 5003, 32
    x = randn(n) * 5
    fmt = FORMATS[name]
    out = torch.empty(n)
    codes = torch.empty((n + 1) // 2 if fmt.packed else n, dtype=fmt.dtype)
    scales = torch.empty(157 if scale == "block" else 1)
    table = sweep(
        [x], flags=[BOTH], method="centre", format=name, rounding=rounding, scale=scale, block=block,
        outs=[out], codes=[codes], scales=[scales],
    )  # fmt: skip
    each = scales.repeat_interleave(block)[:n] if scale == "block" else scales
    assert torch.equal(bits(decode(load_codes(codes, name, n), each, name)), bits(out))
    y = x - table[0, C].float()
    assert table[0, ABSMAX] == y.abs().max() == table[1, ABSMAX]
    assert table[0, SCALE] == (scales.item() if scale == "tensor" else 1)
    assert table[0, ZEROED] == int(((out == 0) & (y != 0)).sum())
    if scale == "none":
        assert table[0, SATURATED] == int((y.abs() > fmt.largest).sum())
    y, q = y.double(), out.double()
    for column, terms in ((SUM_YY, y * y), (SUM_YQ, y * q), (SUM_QQ, q * q)):
        assert table[0, column].item() == pytest.approx(terms.sum().item(), rel=1e-5)
        assert table[1, column] == table[0, column]


def test_stochastic_rounding_is_unbiased():
    x, total = randn(2000), torch.zeros(2000, dtype=torch.float64)
    for stream in range(400):
        out = torch.empty(2000)
        sweep([x], flags=[QUANTIZE], format="fp4_e2m1", streams=[stream], outs=[out], scale="tensor")
        total += out
    assert ((total / 400 - x).abs() / x.abs().max()).max() < 5 * 0.17 / 20


def test_given_scales_are_used():
    x = randn(100)
    out, given = torch.empty(100), torch.tensor([0.25])
    options = {"flags": [QUANTIZE], "format": "int8", "rounding": "nearest", "outs": [out]}
    table = sweep([x], scale="tensor", given_scales=[given], measure=False, **options)
    assert torch.equal(out, (x / 0.25).round() * 0.25)
    assert table[0, SCALE] == 0.25 and table[0, :A].tolist() == [0.0] * 6
    given = torch.tensor([0.25, 0.5])
    sweep([x], scale="block", block=64, given_scales=[given], **options)
    assert torch.equal(out[64:], (x[64:] / 0.5).round() * 0.5)


@pytest.mark.parametrize("method", ["centre", "znorm", "clip", "autoscale", "centralize"])
def test_lagged_takes_the_previous_table(method):
    """On the same gradients the lagged map and scale are the current ones."""
    grads = [randn(4096, 1), randn(3000, 2) * 9]
    now, later = [[torch.empty_like(g) for g in grads] for _ in range(2)]
    options = {"flags": [BOTH] * 2, "rows": [8, 3], "method": method, "format": "int8", "scale": "tensor"}
    state = zeros2()
    first = sweep(grads, outs=now, state=state, **options)
    second = sweep(grads, outs=later, state=state, lagged=first, **options)
    assert torch.equal(second, first)
    assert all(torch.equal(a, b) for a, b in zip(now, later, strict=True))
    third = sweep([g * 3 for g in grads], lagged=first, **options)
    assert torch.equal(third[:, [A, C, SCALE]], first[:, [A, C, SCALE]])
    assert third[0, MAX] == 3 * grads[0].max()


def test_first_step_of_lagged_is_the_identity():
    x = randn(3000)
    out = torch.empty_like(x)
    previous = torch.zeros(2, 16, dtype=torch.float64)
    sweep([x], flags=[NORMALIZE], method="znorm", lagged=previous, outs=[out])
    assert torch.equal(out, x)


def test_skip_nonfinite_writes_nothing():
    grads = [randn(100), randn(2000)]
    grads[1][1500] = math.inf
    outs, params = [torch.full_like(g, 9) for g in grads], [torch.full_like(g, 5) for g in grads]
    hyper, state = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0]]).double(), zeros2()
    options = {"flags": [NORMALIZE] * 2, "method": "autoscale", "skip_nonfinite": True, "state": state}
    table = sweep(grads, outs=outs, params=params, hyper=hyper, **options)
    assert table[:, NONFINITE].tolist() == [0, 1, 1] and table[:, N].tolist() == [100, 1999, 2099]
    assert all((o == 9).all() for o in outs) and all((p == 5).all() for p in params)
    assert state.tolist() == [0, 0]
    grads[1][1500] = 0
    sweep(grads, outs=outs, params=params, hyper=hyper, **options)
    assert state[0] > 0 and not any((p == 5).all() for p in params)


def test_in_place_and_inverse_loss_scale():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = (randn(3000) * 8).to(dtype)
        out = torch.empty_like(x)
        options = {"flags": [BOTH], "method": "znorm", "format": "fp8_e4m3", "inv_scale": 0.3}
        table = sweep([x], outs=[out], **options)
        assert table[0, MAX] == (x.float() * f32(0.3)).max()
        sweep([x], outs=[x], **options)
        assert torch.equal(bits(x), bits(out))


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("nesterov, dampening", [(False, 0.0), (False, 0.25), (True, 0.0)])
@pytest.mark.parametrize("momentum", [0.0, 0.875])
@pytest.mark.parametrize("weight_decay", [0.0, 0.0625])
def test_sgd_is_torchs(maximize, nesterov, dampening, momentum, weight_decay):
    """Up to the FMA torch may use; the first step has no buffer, the later ones do."""
    if nesterov and not momentum:
        pytest.skip("torch refuses it")
    mine, buffer = randn(2000), torch.full((2000,), math.nan)
    theirs = torch.nn.Parameter(mine.clone())
    options = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov, "maximize": maximize}
    optimizer = torch.optim.SGD([theirs], lr=0.1, weight_decay=weight_decay, **options)
    row = [0.1, momentum, dampening, weight_decay, nesterov, 0, maximize, 0]
    hyper = torch.tensor([row], dtype=torch.float64)
    for step in range(4):
        grad = randn(2000, step + 1)
        theirs.grad = grad.clone()
        optimizer.step()
        sweep([grad], flags=[0 if step else FIRST], params=[mine], momenta=[buffer], hyper=hyper)
    torch.testing.assert_close(mine, theirs.data, rtol=1e-6, atol=1e-6)


def test_sgd_decoupled_factor_and_groups():
    grads, params = [torch.ones(3), torch.ones(3)], [torch.full((3,), 2.0), torch.full((3,), 2.0)]
    hyper = torch.zeros(2, 8).double()
    hyper[0, 0], hyper[1, 0], hyper[1, 3], hyper[1, 5] = 0.5, 0.25, 0.5, 1
    table = sweep(grads, flags=[0, 0], params=params, hyper=hyper, groups=[1, 0], factors=[2.0, 1.0])
    assert params[0].tolist() == [2 * (1 - 0.125) - 0.5] * 3
    assert params[1].tolist() == [1.5] * 3
    assert table[:, K].tolist() == [2, 1, 1]


def test_narrow_parameters_round_stochastically():
    n = 4096
    hyper = torch.tensor([[2.0**-10, 0, 0, 0, 0, 0, 0, 0]]).double()
    for dtype, nearest in ((torch.bfloat16, 1.0), (torch.float16, 1 - 2.0**-10)):
        param = torch.ones(n, dtype=dtype)
        sweep([torch.ones(n)], flags=[0], params=[param], hyper=hyper)
        assert (param == nearest).all()
    param = torch.ones(n, dtype=torch.bfloat16)
    options = {"weight_rounding": "stochastic", "weight_streams": [7]}
    sweep([torch.ones(n)], flags=[0], params=[param], hyper=hyper, **options)
    assert set(param.tolist()) == {1.0, 1 - 2.0**-8}
    assert abs(param.double().mean().item() - (1 - 2.0**-10)) < 5 * 2.0**-8 * 0.44 / 64


@pytest.mark.parametrize(
    "option", [{"method": "zscore"}, {"alpha": "x"}, {"format": "fp8"}, {"rounding": "up"}, {"scale": "row"}]
)
def test_unknown_names_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        sweep([torch.ones(3)], flags=[BOTH], **option)
