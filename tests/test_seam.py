"""The seam to torch: versions, modes, floating-point state, NaN bits, and noise as training code meets it."""

from __future__ import annotations

import importlib
import math

import emulated_cuda
import pytest
import torch
from contract_backends import EmulatedCuda
from contract_bits import assert_nans_canonical, assert_same_bits, bits
from contract_data import NAN_PAYLOADS, from_bits, tensor

import fastgrad
from fastgrad import library, shrinkage
from fastgrad.ops import sweeps

HYPER = torch.tensor([[0.1, 0.9, 0.0, 0.01, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
QUANTIZED = [name for name in sweeps.FORMATS if name != "fp32"]


def step(p: torch.Tensor, g: torch.Tensor, m: torch.Tensor, **options) -> torch.Tensor:
    return fastgrad.sgd_step_([p], [g], [m], HYPER, **options)


WRITERS = {
    "normalize_": lambda t: fastgrad.normalize_([t], "centre"),
    "normalize_quantize_": lambda t: fastgrad.normalize_quantize_([t], "none", "int8"),
    "sgd_step_ params": lambda t: step(t, torch.ones(t.shape), torch.ones(t.shape)),
    "sgd_step_ momenta": lambda t: step(torch.ones(t.shape), torch.ones(t.shape), t),
}
LAYOUTS = {"dense": lambda t: t, "sliced": lambda t: t[:, ::2], "transposed": lambda t: t.t()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_backward_after_the_write_raises(writer, layout, backend):
    """The gradient of v*v needs v; after an in-place op it would silently be that of the new values."""
    x = torch.randn(6, 8, requires_grad=True)
    v = LAYOUTS[layout](x * 1)
    loss = (v * v).sum()
    with torch.no_grad():
        WRITERS[writer](v)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_readers_do_not_bump_versions(backend):
    x = torch.randn(100)
    fastgrad.gradient_moments([x])
    fastgrad.quantize([x], "int8")
    g = torch.randn(100)
    step(torch.ones(100), g, torch.ones(100))
    assert x._version == 0 and g._version == 0


@pytest.mark.parametrize("writer", WRITERS)
def test_inference_mode(writer, backend):
    """On inference tensors, and on ordinary tensors inside the mode: the bits of outside."""
    torch.manual_seed(0)
    expected = torch.randn(6, 8)
    ordinary = expected.clone()
    WRITERS[writer](expected)
    with torch.inference_mode():
        torch.manual_seed(0)
        inferred = torch.randn(6, 8)
        WRITERS[writer](inferred)
        WRITERS[writer](ordinary)
        codes, _ = fastgrad.quantize(inferred, "int8")
        assert fastgrad.dequantize(codes).is_inference()
    assert_same_bits([inferred.clone(), ordinary], [expected, expected], writer)


@pytest.fixture
def flushing():
    """Subnormals flushed in this thread, as torch.set_flush_denormal leaves it."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush subnormals")
    torch.set_flush_denormal(False)
    yield lambda on: torch.set_flush_denormal(on)
    torch.set_flush_denormal(False)


def flushes() -> bool:
    return (torch.tensor([1e-40]) * 1.0).item() == 0.0


def subnormal_work() -> list[torch.Tensor]:
    x = [tensor("normal", n, seed=n) * 1e-36 for n in (70_000, 999)]
    codes, table = fastgrad.quantize(x, "fp16", scale="block", pow2=True)
    p, m = [t.clone() for t in x], [t * 0.5 for t in x]
    stepped = fastgrad.sgd_step_(p, x, m, HYPER.expand(1, 8), method="centre", format="bf16")
    plain = [from_bits([1, 0x80000001, 0x007FFFFF] * 400)]
    normalized = fastgrad.normalize_(plain, "clip")
    return [table, stepped, normalized, *plain, *p, *m, *(c.codes for c in codes), *(c.scale for c in codes)]


def flushed_plans(flushed):
    """CudaSweep: made on the host and launched, both with the flag set."""
    genuine = emulated_cuda.load()[0].CudaSweep

    class Plan:
        def __init__(self, *arguments):
            self.plan = flushed(genuine)(*arguments)
            self.launch = flushed(self.plan.launch)

        def __getattr__(self, name):
            return getattr(self.plan, name)

    return Plan


def test_flush_denormal_changes_nothing(flushing, backend):
    """Same bits with FTZ and DAZ set by the caller, who finds them as they were."""
    expected = subnormal_work()
    # Inputs are made before, in a thread that keeps subnormals: subnormal_work makes its own, so it is run as
    # a whole with the flag set only around the calls.
    seen = []

    def flushed(genuine):
        def call(*arguments):
            flushing(True)
            try:
                return genuine(*arguments)
            finally:
                seen.append(flushes())
                flushing(False)

        return call

    with pytest.MonkeyPatch.context() as patch:
        if isinstance(backend, EmulatedCuda):
            patch.setattr(emulated_cuda.load()[0], "CudaSweep", flushed_plans(flushed))
        else:
            patch.setattr(fastgrad.library.native, "sweep", flushed(fastgrad.library.native.sweep))
        got = subnormal_work()
    assert seen and all(seen), "the caller's setting was not restored"
    assert not flushes()
    assert_same_bits(got, expected, "with FTZ and DAZ")


def test_flush_denormal_stays_off(backend):
    subnormal_work()
    assert not flushes()


@pytest.mark.parametrize("what", ("learning rate", "inverse loss scale"))
def test_flush_denormal_of_scalars(what, flushing, backend):
    """A factor that is subnormal in float32 counts too."""
    lr, g, inv = (1e-40, 1e10, 1.0) if what == "learning rate" else (1.0, 1e35, 1e-40)
    hyper = torch.tensor([[lr, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    results = []
    for on in (False, True):
        p, grad = torch.zeros(8), torch.full((8,), g)
        flushing(on)
        fastgrad.sgd_step_([p], [grad], [], hyper, inv_scale=inv)
        flushing(False)
        results.append(p)
    assert results[0][0] < 0
    assert_same_bits([results[1]], [results[0]], what)


@pytest.mark.parametrize("magnitude", (1e-23, 1e-30, 1e18, 1e30))
@pytest.mark.parametrize("format", QUANTIZED)
def test_extreme_ranges(magnitude, format, backend):
    """Squares of these leave float32; statistics and q_k are still those of float64."""
    x = torch.randn(5000) * magnitude
    scale = "block"
    quantized, table = fastgrad.quantize(x, format, scale=scale, block=64, moments=True)
    x64, q64 = x.double(), fastgrad.dequantize(quantized, torch.float32).double()
    n, mean, m2 = table[0, :3].tolist()
    assert n == 5000
    assert mean == pytest.approx(x64.mean().item(), rel=1e-5, abs=1e-6 * magnitude)
    assert math.sqrt(m2 / n) == pytest.approx(x64.std(correction=0).item(), rel=1e-6)
    q_k = shrinkage.projection(table[0, 8], table[0, 9]).item()
    assert q_k == pytest.approx(((x64 * q64).sum() / (x64 * x64).sum()).item(), rel=1e-6)
    assert 0.9 < q_k < 1.1


def nans(dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.float32:
        return from_bits(NAN_PAYLOADS).repeat(200)
    quiet, top = (0x7FC0, 0x7F81) if dtype == torch.bfloat16 else (0x7E00, 0x7C01)
    patterns = [quiet, 0x7FFF, top, quiet - 0x8000, -1, top - 0x8000]
    return torch.tensor(patterns, dtype=torch.int16).view(dtype).repeat(200)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_nan_is_canonical_in_values(dtype, backend):
    """Payloads, signs and signalling bits of inputs, and the hardware's own NaN, never reach memory."""
    for method in sweeps.METHODS:
        for format in sweeps.FORMATS:
            x = nans(dtype)
            x[::5] = 1.0
            fastgrad.normalize_quantize_([x], method, format)
            found = assert_nans_canonical(x, f"{method} {format}")
            assert found == (
                0
                if format in ("fp4_e2m1", "int8", "int4")
                else int(torch.isnan(nans(dtype)[: x.numel()]).sum() * 4 / 5)
            )
    p, g = torch.randn(nans(dtype).numel()).to(dtype), nans(dtype)
    g[::3], p[::3] = torch.inf, torch.inf  # inf - inf makes the hardware's NaN
    m = nans(torch.float32)[: p.numel()].clone()
    m = torch.cat([m, torch.zeros(p.numel() - m.numel())])
    step(p, g, m)
    assert assert_nans_canonical(p, "params") == p.numel() and assert_nans_canonical(m, "momenta") > 0


CODES_OF_NAN = {"fp32": 0x7FC00000, "bf16": 0x7FC0, "fp16": 0x7E00, "fp8_e4m3": 0x7F, "fp8_e5m2": 0x7F}


@pytest.mark.parametrize("rounding", sweeps.ROUNDINGS)
@pytest.mark.parametrize("format", sweeps.FORMATS)
def test_nan_is_canonical_in_codes(format, rounding, backend):
    """The code of NaN; 0 where the format has none. And every NaN code decodes to the one NaN."""
    quantized, table = fastgrad.quantize(nans(torch.float32), format, rounding=rounding, moments=True)
    assert set(bits(quantized.codes).tolist()) == {CODES_OF_NAN.get(format, 0)}
    assert table[0, 5] == 1600
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert_nans_canonical(fastgrad.dequantize(quantized, dtype), format)
    if format.startswith("fp8"):
        codes = torch.arange(256, dtype=torch.uint8).view(quantized.codes.dtype)
        every = fastgrad.Quantized(codes, torch.ones(1), format, 0, (256,), (1,), torch.float32)
        assert assert_nans_canonical(fastgrad.dequantize(every), format) == (2 if format == "fp8_e4m3" else 6)
    if format == "bf16":
        codes = quantized.codes.new_tensor([0.0]).view(torch.int16).repeat(4)
        codes.copy_(torch.tensor([-1, 0x7F81, -64, 0x7FFF], dtype=torch.int16))
        wild = fastgrad.Quantized(codes.view(torch.bfloat16), torch.ones(1), format, 0, (4,), (1,), torch.float32)
        assert assert_nans_canonical(fastgrad.dequantize(wild), format) == 4


def test_which_triton_is_recent():
    """Where it is, the tests of its kernels run."""
    triton = pytest.importorskip("triton")
    assert library.has_recent_triton() == (tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 6))


@pytest.mark.parametrize("place, name", (("triton", "constexpr_function"), ("triton.language", "mul")))
def test_an_old_triton_leaves_the_references(monkeypatch, place, name):
    """Those of torch 2.6 and 2.9 lack what the kernels are written with: said, not met as an error of a launch."""
    pytest.importorskip("triton")
    monkeypatch.setattr(library, "native", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    if library.has_recent_triton():
        assert library._probe_cuda.__wrapped__(0)[0] == "Triton"
        monkeypatch.delattr(importlib.import_module(place), name)
    kernel, reason = library._probe_cuda.__wrapped__(0)
    assert kernel == "PyTorch reference" and "is too old" in reason
