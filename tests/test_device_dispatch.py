"""On a device the best kernels there compute every sweep, whatever it does: none is left to the references."""

from __future__ import annotations

import pytest
import torch

from fastgrad import library
from fastgrad.ops import device_sweeps, sweeps
from fastgrad.reference.adamw import States

EVERY = ({}, {"offsets": [1024]}, {"states": object.__new__(States)})


@pytest.mark.parametrize("keywords", EVERY, ids=("sgd", "shards", "adamw"))
@pytest.mark.parametrize("kernel", ("CUDA", "Triton", "PyTorch reference"))
def test_sweeps_go_to_the_kernels_of_the_device(kernel, keywords, monkeypatch):
    called = []
    monkeypatch.setattr(library, "cuda_kernel", lambda device: kernel)
    monkeypatch.setattr(device_sweeps, "cuda_sweep", lambda module, grads, **rest: called.append(("CUDA", rest)))
    monkeypatch.setattr(
        sweeps, "reference_sweep", lambda grads, **rest: called.append(("PyTorch reference", rest))
    )
    pytest.importorskip("triton", reason="triton is not installed: its kernels cannot be asked for")
    if not library.has_recent_triton():
        pytest.skip("triton is older than 3.6: its kernels cannot be asked for")
    from fastgrad import triton_kernels

    monkeypatch.setattr(triton_kernels, "sweep", lambda grads, **rest: called.append(("Triton", rest)))
    device_sweeps.sweep([torch.zeros(4)], flags=[3], **keywords)
    assert called == [(kernel, {"flags": [3], **keywords})]
