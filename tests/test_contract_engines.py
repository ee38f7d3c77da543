"""The comparisons of the contract tests are with what they name: no backend stands in for another."""

from __future__ import annotations

import emulated_cuda
import pytest
import torch
from contract_backends import BACKENDS, CPU_BACKENDS, TRITON_BACKENDS, EmulatedCuda, needs_native, reference_running

import fastgrad
from fastgrad import library
from fastgrad.ops import sweeps

EMULATED = [backend for backend in BACKENDS if isinstance(backend, EmulatedCuda)]
CALLS = {
    "quantize": lambda g: fastgrad.quantize(g, "int8"),
    "quantize into kept memory": lambda g: fastgrad.quantize(g, "int8", out=fastgrad.quantize(g, "int8")[0]),
    "dequantize": lambda g: fastgrad.dequantize(fastgrad.quantize(g, "bf16")[0]),
    "gradient_moments": fastgrad.gradient_moments,
    "normalize_": lambda g: fastgrad.normalize_(g, "znorm"),
    "SGD": lambda g: stepped(fastgrad.optim.SGD, g),
    "AdamW": lambda g: stepped(fastgrad.optim.AdamW, g),
}


def stepped(kind, gradients):
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g
    kind(parameters, lr=0.1).step()


def gradients():
    return [torch.randn(5, 3), torch.randn(130)]


def runs_alone(engine, call):
    """A call of an op while an engine runs, and that a call of the C++ would have been an error."""
    native = library.native
    with engine:
        CALLS[call](gradients())
        with pytest.raises(AssertionError, match=r"C\+\+ for the CPU was called"):
            native.sweep({}, {}, 0)


@needs_native
@pytest.mark.parametrize("call", CALLS)
def test_the_reference_runs_without_the_native_module(call):
    runs_alone(reference_running(), call)


@needs_native
@pytest.mark.parametrize("call", CALLS)
def test_the_native_module_runs_without_the_reference(call):
    with CPU_BACKENDS[-1].running():
        CALLS[call](gradients())
        with pytest.raises(AssertionError, match="reference was called"):
            sweeps.reference_sweep([torch.ones(3)], flags=[0])


@needs_native
@pytest.mark.skipif(not EMULATED, reason=f"the CUDA kernels are not emulated: {emulated_cuda.missing()}")
@pytest.mark.parametrize("call", CALLS)
def test_the_emulated_kernels_run_alone(call):
    runs_alone(EMULATED[0].running(), call)


@needs_native
@pytest.mark.skipif(not TRITON_BACKENDS, reason="no triton that takes the kernels is installed")
@pytest.mark.parametrize("call", CALLS)
def test_the_triton_kernels_run_alone(call):
    runs_alone(TRITON_BACKENDS[0].running(), call)
