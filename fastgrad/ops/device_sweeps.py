"""The sweep on a GPU: by the CUDA part of the native module, else by the Triton twins, else by the reference.

Nothing here waits for the device. A native sweep is one copy of the list to the device and one launch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgrad import library
from fastgrad.ops import sweeps

# Lists that a captured graph copies at every replay: they have to outlive it.
_captured: list[Tensor] = []


def sweep(grads: Sequence[Tensor], **keywords: Any) -> Tensor:
    """The sweep on the device of ``grads``."""
    kernel = library.cuda_kernel(grads[0].device.index)
    if kernel == "CUDA":
        return cuda_sweep(library.native, grads, **keywords)
    if kernel == "Triton":
        from fastgrad.triton_kernels import sweep as triton_sweep

        return triton_sweep(grads, **keywords)
    return sweeps.reference_sweep(grads, **keywords)


def dequantize(codes: list[Tensor], scales: list[Tensor], format: str, block: int, values: list[Tensor]) -> None:
    """values = decode(codes) * scale, on their device."""
    kernel = library.cuda_kernel(values[0].device.index)
    if kernel == "CUDA":
        cuda_dequantize(library.native, codes, scales, format, block, values)
    elif kernel == "Triton":
        from fastgrad.triton_kernels import dequantize as triton_dequantize

        triton_dequantize(codes, scales, format, block, values)
    else:
        sweeps.reference_dequantize(codes, scales, format, block, values)


def cuda_sweep(
    module: Any,
    grads: Sequence[Tensor],
    *,
    hyper: Tensor | None = None,
    factors: Tensor | None = None,
    lagged: Tensor | None = None,
    **keywords: Any,
) -> Tensor:
    """The sweep by ``module.CudaSweep``: that of the native module, or its emulation on the CPU.

    hyper, factors and lagged may be on the CPU: they are copied. What a captured graph is to read anew at every replay
    (hyper, state, a step) has to be on the device.
    """
    device = grads[0].device
    here = [None if t is None else t.to(device, non_blocking=True) for t in (hyper, factors, lagged)]
    columns, options = sweeps.native_arguments(grads, hyper=here[0], factors=here[1], lagged=here[2], **keywords)
    with _current(device):
        plan = module.CudaSweep(columns, options, device.index or 0)
        upload = _upload(plan, device)
        workspace = torch.empty(plan.workspace_bytes, dtype=torch.uint8, device=device)
        table = sweeps.empty_table(len(grads), device)
        plan.launch(upload.data_ptr(), workspace.data_ptr(), table.data_ptr(), _stream(device))
    return table


def cuda_dequantize(
    module: Any, codes: list[Tensor], scales: list[Tensor], format: str, block: int, values: list[Tensor]
) -> None:
    """values = decode(codes) * scale by ``module.CudaDequantize``, in one launch."""
    device = values[0].device
    columns = sweeps.dequantize_columns(codes, scales, values)
    with _current(device):
        plan = module.CudaDequantize(
            columns,
            len(codes),
            sweeps.FORMATS.index(format),
            block,
            sweeps.DTYPES[values[0].dtype],
            device.index or 0,
        )
        if plan.upload_bytes:
            upload = _upload(plan, device)
            plan.launch(upload.data_ptr(), _stream(device))


def _upload(plan: Any, device: torch.device) -> Tensor:
    """The plan's list on the device. torch keeps the pinned side until the copy is done."""
    host = torch.empty(plan.upload_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda", device="cpu")
    plan.write_upload(host.data_ptr())
    if device.type == "cpu":
        return host
    if torch.cuda.is_current_stream_capturing():
        _captured.append(host)
    return host.to(device, non_blocking=True)


def _current(device: torch.device) -> contextlib.AbstractContextManager:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
