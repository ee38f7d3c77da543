"""compress_saved_tensors: rounding, noise, arguments, and what compilers make of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from contract_bits import assert_same_bits
from saved_activations import STEPS, Keep, flat, gradients, relative, restored, transformer
from torch import Tensor, nn

import fastgrad
from fastgrad import activations
from fastgrad.activations import SAVED_FORMATS, compress_saved_tensors
from fastgrad.cifar import models


@pytest.mark.parametrize("format", SAVED_FORMATS)
def test_weight_gradients_are_unbiased(format):
    """Of a linear layer, a convolution and a ReLU: the mean over many steps approaches the exact gradient as the
    measured variance says."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
    x, direction = torch.randn(16, 2, 8, 8), torch.randn(16, 10)
    exact = flat(gradients(model, lambda: (model(x) * direction).sum()))
    steps = 200
    total, squares = torch.zeros_like(exact), torch.zeros_like(exact)
    for step in range(steps):
        context = compress_saved_tensors(format, step=step, min_elements=0, exact=[direction])
        error = flat(gradients(model, lambda: (model(x) * direction).sum(), context)) - exact
        total += error
        squares += error * error
    variance = squares / steps
    noisy = variance > 1e-9 * exact.square().mean()
    assert noisy.sum() > 0.9 * (exact.numel() - 14)  # the biases' gradients need no activation
    z = (total / steps)[noisy] / (variance[noisy] / steps).sqrt()
    assert 0.8 < z.square().mean() < 1.2  # 1 without bias
    assert z.abs().max() < 5.5
    single = variance.sum().sqrt() / exact.norm()
    assert STEPS[format] / 50 < single < 1.5 * STEPS[format]


@pytest.mark.parametrize("format", SAVED_FORMATS)
def test_mask_of_relu_is_exact(format):
    """Positive elements that are rounded to zero stay positive; without that int4 would lose one in ten here."""
    x, weights = torch.randn(64, 129, requires_grad=True), torch.randn(64, 129)
    (exact,) = torch.autograd.grad((x.relu() * weights).sum(), x)
    with compress_saved_tensors(format, exact=[weights], step=0) as saved:
        loss = (x.relu() * weights).sum()
    (got,) = torch.autograd.grad(loss, x)
    assert_same_bits([got], [exact], format)
    assert len(saved.measure().tensors) == 1
    codes = fastgrad.dequantize(fastgrad.quantize(x.detach().relu(), format, scale="block", purpose="activation")[0])
    lost = float(((codes == 0) & (x > 0)).sum() / (x > 0).sum())
    assert lost > {"int8": 0.003, "fp8_e4m3": 0.0, "int4": 0.08}[format] or format == "fp8_e4m3"


@pytest.mark.parametrize("format", SAVED_FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:])
def test_error_of_an_element_is_less_than_a_step(format, dtype):
    x = torch.randn(5000).to(dtype)
    x[:256] = 0
    (got,), report = restored(x, format=format, pow2=dtype != torch.float32)
    largest = F.pad(x.float().abs(), (0, 120)).view(-1, 128).amax(1).repeat_interleave(128)[:5000]
    assert got.dtype == dtype
    # A power of two as scale is at most twice the scale, and its multiples need no rounding to the dtype.
    steps = STEPS[format] * (1.0001 if dtype == torch.float32 else 2)
    assert ((got.float() - x.float()).abs() <= largest * steps).all()
    assert got[:256].count_nonzero() == 0 and not torch.equal(got, x)
    assert abs(report.tensors[0].q_k - 1) < STEPS[format] / 4
    assert 0 < report.tensors[0].relative_noise < 2 * 1.4 * STEPS[format]


@pytest.mark.parametrize("format", SAVED_FORMATS)
def test_whole_networks(format):
    """One step's error is that of the format, and a mean over 16 steps has a third of it or less: what bias the
    nonlinear backwards have is small beside the noise."""
    net, x = transformer()
    resnet, images = models.build("resnet20", 10, 3, None), torch.randn(4, 3, 32, 32)
    for model, inputs in ((net, x), (resnet, images)):
        exact = gradients(model, lambda m=model, i=inputs: m(i).square().mean())
        mean, single = 0.0, []
        for step in range(16):
            context = compress_saved_tensors(format, step=step)
            got = gradients(model, lambda m=model, i=inputs: m(i).square().mean(), context)
            single.append(relative(got, exact))
            mean = mean + flat(got) / 16
        error = float((mean - flat(exact)).norm() / flat(exact).norm())
        assert STEPS[format] / 100 < single[0] < 2 * STEPS[format], single[0]
        assert error < single[0] / 3, (error, single[0])


def test_same_seed_and_step_same_bits():
    net, x = transformer()

    def run(**options):
        return gradients(net, lambda: net(x).square().mean(), compress_saved_tensors("int4", **options))

    first = run(step=7)
    assert_same_bits(run(step=7), first, "again")
    for changed in (dict(step=8), dict(step=7, slot=1), dict(step=7, seed=5)):
        assert relative(run(**changed), first) > 0.01, changed


def test_no_entry_repeats_the_noise_of_another():
    x = torch.randn(5000)
    automatic = [restored(x, step=None)[0][0] for _ in range(3)]
    assert not torch.equal(automatic[0], automatic[1]) and not torch.equal(automatic[1], automatic[2])
    context, found = compress_saved_tensors("int8", step=4), []
    for step in (4, 5):
        got: list[Tensor] = []
        with context as saved:
            y = Keep.apply(x, torch.zeros((), requires_grad=True), got)
        y.backward()
        assert saved.step == step
        found += got
    assert_same_bits(found, [restored(x, step=step)[0][0] for step in (4, 5)], "entered again")


def test_tensors_of_one_context_have_noise_of_their_own():
    x = torch.rand(1, 5000) + 0.5
    first, second = restored(x, x.clone())[0]
    a, b = (t.double() - x for t in (first, second))
    assert abs(float((a * b).sum() / (a.norm() * b.norm()))) < 5 / 5000**0.5


def test_numbers_of_tensors_run_out_into_the_next_step():
    """A context that stays open over many steps: 2^18 tensors, then noise of another step."""
    x = torch.randn(5000)
    got: list[Tensor] = []
    with compress_saved_tensors("int8", step=9, min_elements=0) as saved:
        saved._ordinal = activations.PARAMETER_RANGE
        y = Keep.apply(x, torch.zeros((), requires_grad=True), got)
    y.backward()
    assert saved.step == 10
    assert_same_bits(got, restored(x, step=10)[0], "step 10")


def test_around_a_compiled_network():
    net, x = transformer(layers=1)
    exact = gradients(net, lambda: net(x).square().mean())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # it counts what other tests compiled, too
    compiled = torch.compile(net, backend="aot_eager")
    for _ in range(2):
        context = compress_saved_tensors("int8")
        got = gradients(net, lambda: compiled(x).square().mean(), context)
        assert 0 < relative(got, exact) < 0.02
        report = context.measure()
        assert report.bytes_before > 3 * report.bytes_kept and report.left["parameter"] >= 6
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def test_within_a_compiled_function():
    """It breaks the graph; where that is forbidden the compiler says so."""
    net, x = transformer(layers=1)
    exact = gradients(net, lambda: net(x).square().mean())

    def run(x):
        with compress_saved_tensors("int8"):
            return net(x).square().mean()

    torch._dynamo.reset()
    compiled = torch.compile(run, backend="aot_eager")
    assert 0 < relative(gradients(net, lambda: compiled(x)), exact) < 0.02
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"torch\.compiler\.disable"):
        torch.compile(run, backend="aot_eager", fullgraph=True)(x)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(format="fp16"), "format: expected one of int8, fp8_e4m3, int4; got 'fp16'"),
        (dict(block=100), "block"),
        (dict(min_elements=-1), "min_elements"),
        (dict(seed=1 << 64), "seed"),
        (dict(step=1 << 31), "step"),
        (dict(slot=4096), "slot"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        compress_saved_tensors(**options)
