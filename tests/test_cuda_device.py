"""On a CUDA device: every op has the bits of the CPU, a step does not wait for the device, a graph can hold it."""

from __future__ import annotations

import pytest
import torch
from contract_bits import assert_same_bits
from contract_data import KINDS, channels_last, shaped, tensor

import fastgrad
from fastgrad import library
from fastgrad.ops import sweeps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
SIZES = (1, 17, 1025, 3000, 70_003)
METHODS = ("centre", "znorm", "clip", "autoscale", "centralize")


def lists(kind: str, device: str, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """The same numbers on every device."""
    return [shaped(tensor(kind, n, dtype, seed=n)).to(device) for n in SIZES]


def on_both(run) -> None:
    """Compares what `run` gives for the CPU and for the device, bit for bit."""
    got = [t.cpu() for t in run("cuda")]
    assert_same_bits(got, run("cpu"), "CUDA")


def test_cuda_device_runs_our_kernels():
    kernel, reason = library._probe_cuda(torch.cuda.current_device())
    assert kernel in ("CUDA", "Triton"), reason
    if hasattr(library.native, "cuda_unavailable"):
        assert kernel == "CUDA", reason


@pytest.mark.parametrize("kind", KINDS)
def test_cuda_device_gradient_moments(kind):
    on_both(lambda device: [fastgrad.gradient_moments(lists(kind, device))])


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("method", METHODS)
def test_cuda_device_normalize(method, dtype):
    def run(device):
        state = torch.zeros(2, dtype=torch.float64, device=device)
        x = lists("normal", device, dtype)
        return [fastgrad.normalize_(x, method, state=state), state, *x]

    on_both(run)


@pytest.mark.parametrize("kind", ("normal", "sprinkled", "wild"))
@pytest.mark.parametrize("rounding", ("stochastic", "nearest", "truncate"))
@pytest.mark.parametrize("scale", ("none", "tensor", "block"))
@pytest.mark.parametrize("format", sweeps.FORMATS)
def test_cuda_device_quantize(format, scale, rounding, kind):
    if format == "fp32" and scale != "none":
        pytest.skip("fp32 takes no scale")

    def run(device):
        stored, table = fastgrad.quantize(lists(kind, device), format, scale=scale, rounding=rounding, block=32)
        return [table, *(q.codes for q in stored), *(q.scale for q in stored), *fastgrad.dequantize(stored)]

    on_both(run)


@pytest.mark.parametrize("stats", ("auto", "two_reads", "lagged"))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_cuda_device_training(method, stats, dtype):
    def run(device):
        torch.manual_seed(2)
        params = [torch.randn(s).to(dtype) for s in ((300, 40), (300,), (64, 3, 3, 3))]
        params = [p.to(device).requires_grad_() for p in params]
        optimizer = fastgrad.optim.SGD(
            params, 0.1, 0.9, normalize=method, stats=stats, grad_format="fp8_e4m3", weight_rounding="stochastic"
        )
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape).to(device, dtype)
            optimizer.step()
        return [optimizer.table, *(p.detach() for p in params)]

    on_both(run)


def test_cuda_device_layouts():
    on_both(lambda device: [fastgrad.normalize_([x := channels_last(3, 8, 9, 7).to(device)], "centralize"), x])
    on_both(lambda device: [fastgrad.normalize_([x := tensor("normal", 9001).to(device)[1:]], "znorm"), x])


def test_cuda_device_more_elements_than_an_int_counts():
    n = 2**31 + 4097
    if torch.cuda.mem_get_info()[0] < 6 * n:
        pytest.skip("less than 13 GB of device memory are free")
    x = torch.zeros(n, dtype=torch.bfloat16, device="cuda")
    x[-1], x[n // 2] = 3.0, -1.0
    table = fastgrad.gradient_moments([x])[0].tolist()
    assert (table[0], table[1] * n, table[3], table[4]) == (float(n), pytest.approx(2.0), -1.0, 3.0)
    stored, _ = fastgrad.quantize(x, "int8")
    assert float(fastgrad.dequantize(stored)[-1]) == 3.0


def test_cuda_device_step_does_not_wait():
    params = [torch.randn(1000, 100, device="cuda", requires_grad=True) for _ in range(5)]
    optimizer = fastgrad.optim.SGD(params, 0.1, 0.9, normalize="autoscale", grad_format="fp8_e4m3", capturable=True)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_cuda_device_graph():
    """A captured step, replayed, is the ordinary step: new noise and a new learning rate every time."""

    def train(captured: bool) -> list[torch.Tensor]:
        torch.manual_seed(3)
        params = [torch.randn(300, 40, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
        lr = torch.tensor(0.1, device="cuda")
        optimizer = fastgrad.optim.SGD(
            params,
            lr,
            0.9,
            normalize="autoscale",
            grad_format="fp8_e4m3",
            weight_rounding="stochastic",
            capturable=True,
        )
        for p in params:
            p.grad = torch.zeros_like(p)

        def feed(step: int) -> None:
            generator = torch.Generator().manual_seed(step)
            for p in params:
                p.grad.copy_(torch.randn(p.shape, generator=generator))
            lr.fill_(0.1 / (1 + step))

        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for step in range(3):  # the warm-up that graphs need
                feed(step)
                optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
        for step in range(3, 6):
            feed(step)
            graph.replay() if captured else optimizer.step()
        return [p.detach() for p in params]

    assert_same_bits(train(True), train(False), "captured")


def test_cuda_device_streams():
    """On a stream of one's own, beside other work."""
    x = torch.randn(1 << 20, device="cuda")
    expected = fastgrad.gradient_moments([x]).cpu()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(20):
            got = fastgrad.gradient_moments([x])
    stream.synchronize()
    assert_same_bits([got.cpu()], [expected], "another stream")


def test_cuda_device_mixed_with_cpu():
    with pytest.raises(ValueError, match=r"tensors\[1\]: expected device cuda:0, got cpu"):
        fastgrad.normalize_([torch.randn(4, device="cuda"), torch.randn(4)], "znorm")
    with pytest.raises(ValueError, match="state: expected device"):
        fastgrad.normalize_([torch.randn(4, device="cuda")], "znorm", state=torch.zeros(2, dtype=torch.float64))
