"""normalize_grad, quantize_grad, fake_quantize and fastgrad.nn.TreatGradient."""

import pytest
import torch
from torch import nn

import fastgrad
from fastgrad.nn import TreatGradient


def gradient_through(function, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(input gradient, output gradient, output) of a function of a [64, 33] tensor."""
    torch.manual_seed(seed)
    x = torch.randn(64, 33, requires_grad=True)
    y = function(x)
    cotangent = torch.randn(64, 33)
    y.backward(cotangent)
    return x.grad, cotangent, y


@pytest.mark.parametrize("method", ["centre", "znorm", "clip", "autoscale", "centralize"])
def test_normalize_grad_is_normalize_on_the_gradient(method):
    grad, cotangent, y = gradient_through(lambda x: fastgrad.normalize_grad(x, method))
    expected = cotangent.clone()
    fastgrad.normalize_([expected], method)
    assert torch.equal(grad, expected)
    torch.manual_seed(0)
    assert torch.equal(y, torch.randn(64, 33))


@pytest.mark.parametrize("format", ["bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "int8", "int4"])
def test_quantize_grad_is_quantize_on_the_gradient(format):
    grad, cotangent, _ = gradient_through(lambda x: fastgrad.quantize_grad(x, format, step=5, seed=9))
    stored, _ = fastgrad.quantize(cotangent, format, step=5, seed=9)
    assert torch.equal(grad, fastgrad.dequantize(stored))
    other, *_ = gradient_through(lambda x: fastgrad.quantize_grad(x, format, step=6, seed=9))
    assert not torch.equal(grad, other)


def test_quantize_grad_says_what_the_rounding_measured():
    tables = []
    grad, cotangent, _ = gradient_through(lambda x: fastgrad.quantize_grad(x, "int4", step=5, observe=tables.append))
    (table,) = tables
    y, q = cotangent.double(), grad.double()
    sums = torch.stack([(y * y).sum(), (y * q).sum(), (q * q).sum()])
    torch.testing.assert_close(table[0, 8:11], sums, rtol=1e-5, atol=0)
    assert table.shape == (2, 16) and sums[1] != sums[0]


def test_quantize_grad_is_unbiased():
    total = torch.zeros(64, 33)
    for step in range(400):
        grad, cotangent, _ = gradient_through(lambda x, s=step: fastgrad.quantize_grad(x, "fp8_e4m3", step=s))
        total += grad
    gap = cotangent.abs() / 8 + 1e-3
    assert ((total / 400 - cotangent).abs() < 5 * gap / 400**0.5).all()


def test_fake_quantize_rounds_forward_and_passes_straight_through():
    grad, cotangent, y = gradient_through(lambda x: fastgrad.fake_quantize(x, "int8", step=1))
    torch.manual_seed(0)
    x = torch.randn(64, 33)
    stored, _ = fastgrad.quantize(x, "int8", step=1, purpose="activation")
    assert torch.equal(y, fastgrad.dequantize(stored))
    assert torch.equal(grad, cotangent)


def test_module_counts_steps_and_resumes():
    module = TreatGradient(grad_format="fp8_e5m2", normalize="autoscale", seed=4)
    grads = [gradient_through(module)[0] for _ in range(3)]
    assert not torch.equal(grads[0], grads[1])
    assert int(module.step) == 3
    again = TreatGradient(grad_format="fp8_e5m2", normalize="autoscale", seed=4)
    gradient_through(again)
    saved = {k: v.clone() for k, v in again.state_dict().items()}
    resumed = TreatGradient(grad_format="fp8_e5m2", normalize="autoscale", seed=4)
    resumed.load_state_dict(saved)
    assert torch.equal(gradient_through(resumed)[0], grads[1])
    module.eval()
    grad, cotangent, _ = gradient_through(module)
    assert torch.equal(grad, cotangent)


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch 2.6 cannot trace strides in a backward")
def test_compiled_network_gives_eagers_bits_and_new_noise_every_step():
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), TreatGradient(grad_format="bf16"), nn.Linear(16, 4))

    eager, compiled = make(), make()
    fast = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    x = torch.randn(32, 8)
    seen = []
    for step in range(6):
        if step == 2:
            torch.compiler.set_stance("fail_on_recompile")
        for model, call in ((eager, eager), (compiled, fast)):
            model.zero_grad()
            call(x).square().mean().backward()
        assert torch.equal(eager[0].weight.grad, compiled[0].weight.grad)
        seen.append(compiled[0].weight.grad.clone())
    torch.compiler.set_stance("default")
    assert not torch.equal(seen[0], seen[1])


def test_bad_arguments_are_named():
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="format: expected one of fp32, bf16"):
        fastgrad.quantize_grad(x, "fp12", step=0)
    with pytest.raises(ValueError, match="method: expected one of none, centre"):
        fastgrad.normalize_grad(x, "batch")
    with pytest.raises(TypeError, match=r"x\[0\]: expected float32, bfloat16 or float16"):
        fastgrad.fake_quantize(torch.ones(3, dtype=torch.float64), "int8", step=0)
    with pytest.raises(ValueError, match="grad_format: expected one of"):
        TreatGradient(grad_format="int3")
