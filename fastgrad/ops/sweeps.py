"""One sweep over a list of tensors, on the CPU or by the reference: the seam below every op.

All sweeps take the tensors of an op as they are, dense in memory but of any layout, and the keywords of
:func:`fastgrad.reference.sweep.sweep`, with noise given as ``seed, step, slot, purpose, ids``. The table is on the
device of the tensors. :mod:`fastgrad.ops.device_sweeps` has those of a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from fastgrad import library
from fastgrad.reference import formats, normalizers, philox
from fastgrad.reference import sweep as reference
from fastgrad.reference.adamw import States
from fastgrad.reference.scales import spread

Integers = list[int] | bytes  # one for every tensor; bytes: of 64-bit integers
Columns = dict[str, Integers | list[float]]  # name -> one number per tensor, as csrc/arguments.h reads them

NORMALIZE, QUANTIZE, FIRST = reference.NORMALIZE, reference.QUANTIZE, reference.FIRST
COLUMNS = reference.COLUMNS

# The orders of the enumerations in csrc/.
METHODS = normalizers.METHODS
ALPHAS = normalizers.ALPHAS
FORMATS = tuple(formats.FORMATS)
ROUNDINGS = formats.ROUNDINGS
WEIGHT_ROUNDINGS = ("nearest", "stochastic")
SCALES = reference.SCALES
UPDATES = ("sgd", "adamw")
PHASES = ("all", "sums", "update")
SECOND_MOMENTS = ("fp32", "bf16", "fp16", "codes8", "codes4", "factored")
PURPOSES = tuple(philox.PURPOSES)
BLOCKS = (16, 32, 64, 128, 256)
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

_FORMAT_NUMBERS = {name: number for number, name in enumerate(FORMATS)}
_SECOND_NUMBERS = {name: number for number, name in enumerate(SECOND_MOMENTS)}
_dtype = attrgetter("dtype")


class Numbers(NamedTuple):
    """Of every tensor of a list."""

    addresses: Integers  # 0 for a tensor without elements
    sizes: Integers
    types: Integers  # those of DTYPES


def numbers_of(
    tensors: Sequence[Tensor], model: Numbers | None = None, name: str = "", codes: bool = False
) -> Numbers:
    """What the kernels need to know of a list. Where a model is given, tensors must have as many elements as its.

    codes: tensors may be of other types than DTYPES, which stand as 0; else these are a KeyError.
    """
    read = library.read_list(tensors)
    if read is not None and (codes or read.floats):
        numbers = Numbers(read.addresses, read.sizes, read.types)
    else:  # map of functions in C: with lists of small tensors, a loop in Python costs more than the sweep
        dtypes = map(_dtype, tensors)
        types = list(map(DTYPES.get, dtypes, repeat(0)) if codes else map(DTYPES.__getitem__, dtypes))
        numbers = Numbers(list(map(Tensor.data_ptr, tensors)), list(map(Tensor.numel, tensors)), types)
        if 0 in numbers.addresses:
            _have_memory(name or "tensors", tensors)
    if model is not None and not _same(numbers.sizes, model.sizes):
        count = len(_integers(model.sizes))
        raise ValueError(f"{name}: expected {count} tensors with as many elements as the gradients")
    return numbers


def _have_memory(name: str, tensors: Sequence[Tensor]) -> None:
    for i, t in enumerate(tensors):
        if t.numel() and not t.data_ptr():
            raise ValueError(f"{name}[{i}]: has no memory (its storage was freed, or it is a zero of autograd's)")


def _same(a: Integers, b: Integers) -> bool:
    """Lists that were read in different ways may be of one length."""
    if type(a) is type(b):
        return a == b
    return list(_integers(a)) == list(_integers(b))


def _integers(column: Integers) -> Sequence[int]:
    return memoryview(column).cast("q") if isinstance(column, bytes) else column


def addresses(tensors: Sequence[Tensor]) -> Integers:
    return numbers_of(tensors, codes=True).addresses


def _float64_address(name: str, tensor: Tensor, device: torch.device) -> int:
    if tensor.dtype != torch.float64 or tensor.device != device or not tensor.is_contiguous():
        got = f"{tensor.dtype} on {tensor.device}"
        raise ValueError(f"{name}: expected a contiguous float64 tensor on {device}, got {got}")
    return tensor.data_ptr()


def native_arguments(
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
    states: States | None = None,
    offsets: Sequence[int] | None = None,
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
    step: int | Tensor = 0,
    purpose: str = "gradient",
    weight_rounding: str = "nearest",
    **options: Any,
) -> tuple[Columns, dict[str, Any]]:
    """Columns, one entry per tensor, and options as csrc/arguments.h reads them.

    Addresses are read anew for every call: a cached one would dangle.
    """
    count, device = len(grads), grads[0].device
    of_grads = numbers_of(grads)
    columns: Columns = {
        "n": of_grads.sizes,
        "flags": list(flags),
        "grad": of_grads.addresses,
        "grad_type": of_grads.types,
    }
    if rows is not None and (method == "centralize" or states is not None):
        columns["rows"] = list(rows)
    if ids is not None:
        columns["ids"] = list(ids)
    if outs is not None:
        of_outs = of_grads if outs is grads else numbers_of(outs, of_grads, "outs")
        columns["out"], columns["out_type"] = of_outs.addresses, of_outs.types
    if codes is not None:
        columns["codes"] = addresses(codes)
    if scales is not None:
        columns["scales"] = addresses(scales)
    if given_scales is not None:
        columns["given_scales"] = addresses(given_scales)
    if params is not None:
        of_params = numbers_of(params, of_grads, "params", codes=True)
        columns["param"], columns["param_type"] = of_params.addresses, of_params.types
        assert hyper is not None, "an update needs hyper"
        options["hyper"], options["hyper_rows"] = _float64_address("hyper", hyper, device), hyper.shape[0]
        if momenta:
            of_momenta = numbers_of(momenta, of_grads, "momenta")
            columns["momentum"], columns["momentum_type"] = of_momenta.addresses, of_momenta.types
        if groups is not None:
            columns["group"] = list(groups)
        if factors is not None and device.type == "cuda":
            options["factors_address"] = _float64_address("factors", factors, device)
        elif factors is not None:
            columns["factor"] = factors.tolist()
    if states is not None:
        assert params is not None, "states belong to parameters"
        options["update"], options["phase"] = UPDATES.index("adamw"), PHASES.index(states.phase)
        on_host = isinstance(step, Tensor) and step.device.type == "cpu"  # a GPU adds a clock of its own memory itself
        columns.update(_state_columns(params, states, int(step) if on_host else 0))
    if offsets is not None:
        columns["offset"] = list(offsets)
    if state is not None:
        options["state"] = _float64_address("state", state, device)
    if lagged is not None:
        options["lagged"] = _float64_address("lagged", lagged, device)
    if isinstance(step, Tensor) and step.device.type == "cuda":
        options["step_address"] = step.data_ptr()
    else:
        options["step"] = int(step)
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
    )
    return columns, options


def _state_columns(params: Sequence[Tensor], states: States, clock: int) -> Columns:
    """What AdamW keeps of every tensor, as csrc/arguments.h reads it; the clock is added to the ages. Scales that no
    tensor has are left out."""
    columns: Columns = {
        "first": addresses(states.exp_avgs),
        "first_format": list(map(_FORMAT_NUMBERS.__getitem__, states.first_formats())),
        "second": addresses(states.exp_avg_sqs),
        "second_kind": list(map(_SECOND_NUMBERS.__getitem__, states.second_kinds(params))),
        "age": [age + clock for age in states.ages],
    }
    for name, scales in (
        ("param", states.param_scales), ("first", states.exp_avg_scales), ("second", states.exp_avg_sq_scales),
    ):  # fmt: skip
        counts = list(map(Tensor.numel, scales))
        if any(counts):
            columns[f"{name}_scales"] = addresses(scales)
            columns[f"{name}_block"] = [
                n // count if count else 0 for n, count in zip(map(Tensor.numel, params), counts, strict=True)
            ]
    if states.phase != "all":
        columns["row_sums"] = addresses(states.row_sums)
        columns["column_sums"] = addresses(states.column_sums)
    if states.bounds is not None:
        columns["bound"] = list(states.bounds)
    if states.whole_rows is not None:
        columns["whole_rows"] = list(states.whole_rows)
    return columns


def empty_table(count: int, device: torch.device) -> Tensor:
    return torch.empty(count + 1, COLUMNS, dtype=torch.float64, device=device)


def native_sweep(grads: Sequence[Tensor], **keywords: Any) -> Tensor:
    """The sweep in one call of the C++ for the CPU."""
    columns, options = native_arguments(grads, **keywords)
    table = empty_table(len(grads), grads[0].device)
    options.update(threads=torch.get_num_threads(), instruction_set=library.instruction_set())
    library.native.sweep(columns, options, table.data_ptr())
    return table


def dequantize_columns(codes: list[Tensor], scales: list[Tensor], values: list[Tensor]) -> Columns:
    of_values = numbers_of(values, codes=True)
    return {
        "n": of_values.sizes,
        "codes": addresses(codes),
        "scales": addresses(scales),
        "out": of_values.addresses,
    }


def native_dequantize(
    codes: list[Tensor], scales: list[Tensor], format: str, block: int, values: list[Tensor]
) -> None:
    """values = decode(codes) * scale, on the CPU; all values have one dtype."""
    library.native.dequantize(
        dequantize_columns(codes, scales, values),
        len(codes),
        FORMATS.index(format),
        block,
        DTYPES[values[0].dtype],
        torch.get_num_threads(),
        library.instruction_set(),
    )


@overload
def _flat(tensors: Sequence[Tensor]) -> list[Tensor]: ...
@overload
def _flat(tensors: None) -> None: ...
def _flat(tensors: Sequence[Tensor] | None) -> list[Tensor] | None:
    """Dense tensors as the flat vectors of their storage order."""
    return None if tensors is None else [t.as_strided((t.numel(),), (1,)) for t in tensors]


def reference_sweep(
    grads: Sequence[Tensor],
    *,
    ids: Sequence[int] | None = None,
    step: int | Tensor = 0,
    slot: int = 0,
    purpose: str = "gradient",
    factors: Tensor | None = None,
    lagged: Tensor | None = None,
    two_reads: bool = False,  # an order of work, which the reference does not have
    states: States | None = None,
    **arguments: Any,
) -> Tensor:
    """The sweep in plain PyTorch, on any device."""
    ids = range(len(grads)) if ids is None else ids
    if states is not None:
        arguments["states"] = states.flat(int(step) if isinstance(step, Tensor) else 0)
    for name in ("outs", "codes", "params", "momenta"):
        arguments[name] = _flat(arguments.get(name)) or None
    table = reference.sweep(
        _flat(grads),
        streams=[philox.pack_stream(purpose, i, int(step), slot) for i in ids],
        weight_streams=[philox.pack_stream("weight", i, int(step), slot) for i in ids],
        state_streams=[
            (philox.pack_stream("state", i, int(step), 0), philox.pack_stream("state", i, int(step), 1)) for i in ids
        ],
        factors=None if factors is None else factors.tolist(),
        lagged=None if lagged is None else lagged.cpu(),
        **arguments,
    )
    return table.to(grads[0].device) if grads else table


def reference_dequantize(
    codes: list[Tensor], scales: list[Tensor], format: str, block: int, values: list[Tensor]
) -> None:
    """values = decode(codes) * scale, in plain PyTorch."""
    spec = formats.FORMATS[format]
    for c, s, v in zip(codes, scales, values, strict=True):
        n = v.numel()
        numbers = formats.load_codes(c.as_strided((c.numel(),), (1,)), spec, n)
        decoded = formats.decode(numbers, spread(s, block, n) if block else s, spec)
        v.as_strided((n,), (1,)).copy_(formats.store_float(decoded, v.dtype))
