"""Tensors of any layout as the dense ones the sweep works on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgrad import library
from fastgrad.ops.checks import is_dense, rows_are_outermost

_LARGE = 8 << 20  # bytes from which pages of 2 MB are worth a call of the system


def readable(tensors: list[Tensor], by_rows: bool = False) -> list[Tensor]:
    """The tensors, or contiguous copies of those that are not dense (or, by rows, whose dim 0 is not outermost). The
    list itself, if nothing has to be copied for sure."""
    if all_contiguous(tensors):
        return tensors
    return [
        t if t.is_contiguous() or (is_dense(t) and not (by_rows and not rows_are_outermost(t))) else t.contiguous()
        for t in tensors
    ]


def written(tensors: Sequence[Tensor], dense: Sequence[Tensor]) -> None:
    """Copies back what :func:`readable` had to copy, and tells autograd that the tensors changed."""
    if tensors is not dense:
        for t, d in zip(tensors, dense, strict=True):
            if t is not d:
                t.copy_(d)
    changed(tensors)


def changed(tensors: Sequence[Tensor]) -> None:
    """Bumps version counters: without it a backward through the old values would be silently wrong."""
    if not torch.is_inference_mode_enabled():
        torch.autograd.graph.increment_version(tensors)


def all_contiguous(*lists: Sequence[Tensor]) -> bool:
    return all(map(_contiguous, lists))


def _contiguous(tensors: Sequence[Tensor]) -> bool:
    read = library.read_list(tensors)
    return all(map(Tensor.is_contiguous, tensors)) if read is None else read.contiguous


def same_layout(t: Tensor, model: Tensor) -> Tensor:
    """``t`` with the strides of ``model``, copied if need be, so that both have one storage order."""
    if t.stride() == model.stride() or (t.is_contiguous() and model.is_contiguous()):
        return t
    return torch.empty_like(model, dtype=t.dtype).copy_(t)


def fresh(tensors: Sequence[Tensor]) -> None:
    """Prepares memory that was allocated but not touched yet: on the CPU its first touch costs more than what is
    written there, less so in large pages."""
    if library.native is None:
        return
    for t in tensors:
        if t.is_cpu and t.nbytes >= _LARGE:
            library.native.prefer_large_pages(t.data_ptr(), t.nbytes)
