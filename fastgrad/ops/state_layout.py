"""How a state of AdamW is kept, read from its tensor: what the kernels are told and what is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastgrad.ops.sweeps import BLOCKS, DTYPES

CODE_FORMATS = {torch.int8: "int8", torch.float8_e4m3fn: "fp8_e4m3", torch.float8_e5m2: "fp8_e5m2"}
PACKED_FORMATS = ("int4", "fp4_e2m1")


def check_states(
    params: Sequence[Tensor],
    lists: Mapping[str, Sequence[Tensor]],
    hyper: Tensor,
    groups: Sequence[int] | None,
    phase: str,
) -> None:
    """Refuses what the kernels could not read. ``lists`` are the arguments of adamw_step_ by their names."""
    # Of a hyper on an accelerator beta1 is not looked at: that would wait for it.
    beta1 = hyper[:, 1].tolist() if hyper.device.type == "cpu" else None
    for i, p in enumerate(params):
        for name, tensors in lists.items():
            if tensors[i].device != p.device:
                raise ValueError(f"{name}[{i}]: expected device {p.device}, got {tensors[i].device}")
        if lists["grads"][i].shape != p.shape:
            got = list(lists["grads"][i].shape)
            raise ValueError(f"grads[{i}]: expected the shape of params[{i}], {list(p.shape)}; got {got}")
        _check_parameter(i, p, lists["param_scales"][i])
        has_first = beta1 is None or beta1[0 if groups is None else groups[i]] != 0
        _check_first(i, p, lists["exp_avgs"][i], lists["exp_avg_scales"][i], has_first)
        _check_second(i, p, lists, phase)


def _check_parameter(i: int, p: Tensor, scales: Tensor) -> None:
    if p.dtype == torch.int8:
        if not scales.numel() and p.numel():
            raise ValueError(f"param_scales[{i}]: expected the scales of int8 codes, got none")
        _check_blocks(f"param_scales[{i}]", p, scales)
    elif p.dtype not in DTYPES:
        raise TypeError(f"params[{i}]: expected float32, bfloat16, float16 or int8, got {p.dtype}")
    elif scales.numel():
        raise ValueError(f"param_scales[{i}]: expected none, as params[{i}] is {p.dtype}")


def _check_first(i: int, p: Tensor, state: Tensor, scales: Tensor, needed: bool) -> None:
    name = f"exp_avgs[{i}]"
    if p.numel() == 0 or (not needed and state.numel() == 0):
        return
    if state.dtype in DTYPES:
        _check_shape(name, state, p)
        if scales.numel():
            raise ValueError(f"exp_avg_scales[{i}]: expected none, as {name} is {state.dtype}")
        return
    expected = p.numel() // 2 if state.dtype == torch.uint8 else p.numel()
    if state.dtype != torch.uint8 and state.dtype not in CODE_FORMATS:
        raise TypeError(
            f"{name}: expected float32, bfloat16, float16, int8, float8_e4m3fn, float8_e5m2 or uint8, got {state.dtype}"
        )
    _check_codes(name, state, expected)
    _check_blocks(f"exp_avg_scales[{i}]", p, scales)


def _check_second(i: int, p: Tensor, lists: Mapping[str, Sequence[Tensor]], phase: str) -> None:
    state, scales = lists["exp_avg_sqs"][i], lists["exp_avg_sq_scales"][i]
    name = f"exp_avg_sqs[{i}]"
    if p.numel() == 0:
        return
    if state.dtype == torch.float32 and scales.numel():
        rows = p.shape[0] if p.dim() > 1 else 0
        if not rows or state.numel() != rows or scales.numel() != p.numel() // rows or not state.is_contiguous():
            raise ValueError(
                f"{name}: expected means of {rows} rows, and of their elements in exp_avg_sq_scales[{i}]; got "
                f"{list(state.shape)} and {list(scales.shape)} for a parameter of shape {list(p.shape)}"
            )
        _check_float32(f"exp_avg_sq_scales[{i}]", scales)
        for sums, wanted in (("row_sums", rows), ("column_sums", p.numel() // rows)):
            t = lists[sums][i]
            if phase != "all" and (t.numel() != wanted or t.dtype != torch.float64 or not t.is_contiguous()):
                got = f"{t.dtype} {list(t.shape)}"
                raise ValueError(f"{sums}[{i}]: expected float64 [{wanted}] for phase '{phase}', got {got}")
    elif state.dtype in DTYPES:
        _check_shape(name, state, p)
        if scales.numel():
            raise ValueError(f"exp_avg_sq_scales[{i}]: expected none, as {name} is {state.dtype}")
    elif state.dtype == torch.uint8:
        if state.numel() not in (p.numel(), p.numel() // 2):
            raise ValueError(f"{name}: expected {p.numel()} or {p.numel() // 2} bytes of codes, got {state.numel()}")
        _check_codes(name, state, state.numel())
        _check_blocks(f"exp_avg_sq_scales[{i}]", p, scales)
    else:
        raise TypeError(f"{name}: expected float32, bfloat16, float16 or uint8, got {state.dtype}")


def _check_shape(name: str, state: Tensor, p: Tensor) -> None:
    if state.shape != p.shape:
        raise ValueError(f"{name}: expected the shape of its parameter, {list(p.shape)}; got {list(state.shape)}")


def _check_codes(name: str, codes: Tensor, expected: int) -> None:
    if codes.numel() != expected:
        raise ValueError(f"{name}: expected {expected} stored codes, got {codes.numel()}")
    if not codes.is_contiguous():
        raise ValueError(f"{name}: expected a contiguous tensor of codes")


def _check_float32(name: str, t: Tensor) -> None:
    if t.dtype != torch.float32 or not t.is_contiguous():
        raise ValueError(f"{name}: expected a contiguous float32 tensor, got {t.dtype} with strides {t.stride()}")


def _check_blocks(name: str, p: Tensor, scales: Tensor) -> None:
    if p.numel() == 0:
        return
    _check_float32(name, scales)
    block = p.numel() // max(scales.numel(), 1)
    if block not in BLOCKS or block * scales.numel() != p.numel() or _row_length(p) % block:
        raise ValueError(
            f"{name}: expected one scale for every 16, 32, 64, 128 or 256 elements, whole blocks in a dim-0 row; got "
            f"{scales.numel()} scales for a parameter of shape {list(p.shape)}"
        )


def _row_length(p: Tensor) -> int:
    return p.numel() // p.shape[0] if p.dim() > 1 else p.numel()
