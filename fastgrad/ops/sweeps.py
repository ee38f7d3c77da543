"""One sweep over a list of tensors, by the native module or by the reference: the seam below every op.

Both take the tensors of an op as they are, dense in memory but of any layout, and the keywords of
:func:`fastgrad.reference.sweep.sweep`, with noise given as ``seed, step, slot, purpose, ids``.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastgrad import library
from fastgrad.reference import formats, normalizers, philox
from fastgrad.reference import sweep as reference

NORMALIZE, QUANTIZE, FIRST = reference.NORMALIZE, reference.QUANTIZE, reference.FIRST
COLUMNS = reference.COLUMNS

# The orders of the enumerations in csrc/.
METHODS = normalizers.METHODS
ALPHAS = normalizers.ALPHAS
FORMATS = tuple(formats.FORMATS)
ROUNDINGS = formats.ROUNDINGS
SCALES = reference.SCALES
PURPOSES = tuple(philox.PURPOSES)
BLOCKS = (16, 32, 64, 128, 256)
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

Sweep = Callable[..., Tensor]


def _addresses(tensors: Sequence[Tensor]) -> array:
    return array("q", map(Tensor.data_ptr, tensors))


def _types(tensors: Sequence[Tensor]) -> array:
    return array("q", [DTYPES[t.dtype] for t in tensors])


def _sizes(grads: Sequence[Tensor], **others: Sequence[Tensor] | None) -> array:
    """Elements of every tensor; what is read and written beside it must have as many."""
    sizes = array("q", map(Tensor.numel, grads))
    for name, tensors in others.items():
        if tensors is not None and array("q", map(Tensor.numel, tensors)) != sizes:
            raise ValueError(f"{name}: expected {len(sizes)} tensors with as many elements as the gradients")
    return sizes


def _float64_address(name: str, tensor: Tensor) -> int:
    if tensor.dtype != torch.float64 or tensor.device.type != "cpu" or not tensor.is_contiguous():
        got = f"{tensor.dtype} on {tensor.device}"
        raise ValueError(f"{name}: expected a contiguous float64 tensor on the CPU, got {got}")
    return tensor.data_ptr()


def native_sweep(
    grads: Sequence[Tensor],
    *,
    flags: Sequence[int],
    rows: Sequence[int] | None = None,
    outs: Sequence[Tensor] | None = None,
    codes: Sequence[Tensor] | None = None,
    scales: Sequence[Tensor] | None = None,
    given_scales: Sequence[Tensor] | None = None,
    params: Sequence[Tensor] | None = None,
    momenta: Sequence[Tensor] | None = None,
    groups: Sequence[int] | None = None,
    factors: Tensor | None = None,
    ids: Sequence[int] | None = None,
    method: str = "none",
    alpha: str = "ratio_first",
    state: Tensor | None = None,
    format: str = "fp32",
    rounding: str = "stochastic",
    scale: str = "none",
    lagged: Tensor | None = None,
    hyper: Tensor | None = None,
    seed: int = philox.DEFAULT_SEED,
    purpose: str = "gradient",
    weight_rounding: str = "nearest",
    **options: object,
) -> Tensor:
    """The sweep in one native call. Addresses are read anew every time: a cached one would dangle."""
    count = len(grads)
    columns = {
        "n": _sizes(grads, outs=outs, params=params, momenta=momenta),
        "flags": array("q", flags),
        "grad": _addresses(grads),
        "grad_type": _types(grads),
    }
    if method == "centralize" and rows is not None:
        columns["rows"] = array("q", rows)
    if ids is not None:
        columns["ids"] = array("q", ids)
    if outs is not None:
        columns["out"], columns["out_type"] = _addresses(outs), _types(outs)
    if codes is not None:
        columns["codes"] = _addresses(codes)
    if scales is not None:
        columns["scales"] = _addresses(scales)
    if given_scales is not None:
        columns["given_scales"] = _addresses(given_scales)
    if params is not None:
        columns["param"], columns["param_type"] = _addresses(params), _types(params)
        options["hyper"], options["hyper_rows"] = _float64_address("hyper", hyper), hyper.shape[0]
        if momenta:
            columns["momentum"], columns["momentum_type"] = _addresses(momenta), _types(momenta)
        if groups is not None:
            columns["group"] = array("q", groups)
        if factors is not None:
            columns["factor"] = array("d", factors.tolist())
    if state is not None:
        options["state"] = _float64_address("state", state)
    if lagged is not None:
        options["lagged"] = _float64_address("lagged", lagged)
    table = torch.empty(count + 1, COLUMNS, dtype=torch.float64)
    options.update(
        count=count,
        method=METHODS.index(method),
        alpha=ALPHAS.index(alpha),
        format=FORMATS.index(format),
        rounding=ROUNDINGS.index(rounding),
        scale_kind=SCALES.index(scale),
        weight_rounding=ROUNDINGS.index(weight_rounding),
        purpose=PURPOSES.index(purpose),
        seed=seed & (2**64 - 1),
        threads=torch.get_num_threads(),
        instruction_set=library.instruction_set(),
    )
    library.native.sweep(columns, options, table.data_ptr())
    return table


def _flat(tensors: Sequence[Tensor] | None) -> list[Tensor] | None:
    """Dense tensors as the flat vectors of their storage order."""
    return None if tensors is None else [t.as_strided((t.numel(),), (1,)) for t in tensors]


def reference_sweep(
    grads: Sequence[Tensor],
    *,
    ids: Sequence[int] | None = None,
    step: int = 0,
    slot: int = 0,
    purpose: str = "gradient",
    factors: Tensor | None = None,
    two_reads: bool = False,  # an order of work, which the reference does not have
    **arguments,
) -> Tensor:
    """The sweep in plain PyTorch, on any device."""
    ids = range(len(grads)) if ids is None else ids
    for name in ("outs", "codes", "params", "momenta"):
        arguments[name] = _flat(arguments.get(name)) or None
    return reference.sweep(
        _flat(grads),
        streams=[philox.pack_stream(purpose, i, step, slot) for i in ids],
        weight_streams=[philox.pack_stream("weight", i, step, slot) for i in ids],
        factors=None if factors is None else factors.tolist(),
        **arguments,
    )
