"""quantize and dequantize: real low-precision storage, with the shrinkage measured in the same pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, overload

import torch
from torch import Tensor

from fastgrad.ops import checks
from fastgrad.ops.engines import Engine, declare, launch
from fastgrad.ops.layout import all_contiguous, changed, fresh, readable
from fastgrad.ops.normalize_quantize import default_scale
from fastgrad.ops.sweeps import DTYPES, FORMATS, PURPOSES, QUANTIZE, empty_table, reference_sweep
from fastgrad.reference.formats import FORMATS as SPECS
from fastgrad.reference.philox import DEFAULT_SEED, signed64
from fastgrad.reference.scales import block_count

_Stored = tuple[list[Tensor], list[Tensor], Tensor]  # codes, scales, table

_dtype, _device, _shape = attrgetter("dtype"), attrgetter("device"), attrgetter("shape")


@dataclass(frozen=True, eq=False, repr=False)  # equal where it is the same; compare codes and scale for their bits
class Quantized:
    """A tensor stored in a low-precision format.

    codes: the stored numbers, in the format's dtype and the layout of the tensor; two to a byte and flat, in
        storage order, for fp4_e2m1 and int4.
    scale: float32, [1] or one per block of ``block`` consecutive elements in storage order; what a code of 1.0
        (or integer 1) stands for.
    """

    codes: Tensor
    scale: Tensor
    format: str
    block: int  # elements per scale; 0: one scale for the tensor
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype  # of the tensor it was made of

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes

    def __repr__(self) -> str:
        scale = f"{self.scale.numel()} scales, each of {self.block} elements" if self.block else "one scale"
        return f"Quantized({list(self.shape)} in {self.format}, {scale}, {self.nbytes:,} bytes, from {self.dtype})"


# A tensor gives a Quantized, a list of them a list.
@overload
def quantize(
    tensors: Tensor, format: str, *, rounding: str = ..., scale: str | Tensor | Sequence[Tensor] | None = ...,
    block: int = ..., pow2: bool = ..., seed: int = ..., step: int = ..., slot: int = ..., purpose: str = ...,
    ids: Sequence[int] | None = ..., moments: bool = ..., out: Quantized | None = ...,
) -> tuple[Quantized, Tensor]: ...  # fmt: skip
@overload
def quantize(
    tensors: Sequence[Tensor], format: str, *, rounding: str = ..., scale: str | Tensor | Sequence[Tensor] | None = ...,
    block: int = ..., pow2: bool = ..., seed: int = ..., step: int = ..., slot: int = ..., purpose: str = ...,
    ids: Sequence[int] | None = ..., moments: bool = ..., out: Sequence[Quantized] | None = ...,
) -> tuple[list[Quantized], Tensor]: ...  # fmt: skip
@torch.no_grad()
def quantize(
    tensors: Tensor | Sequence[Tensor],  # each [...], float32, bfloat16 or float16
    format: str,
    *,
    rounding: str = "stochastic",
    scale: str | Tensor | Sequence[Tensor] | None = None,
    block: int = 128,
    pow2: bool = False,
    seed: int = DEFAULT_SEED,
    step: int = 0,
    slot: int = 0,
    purpose: str = "gradient",
    ids: Sequence[int] | None = None,
    moments: bool = False,
    out: Quantized | Sequence[Quantized] | None = None,
) -> tuple[Quantized | list[Quantized], Tensor]:
    """Rounds tensors to a format and measures what that did to them, in one pass; gives (quantized, table).

        v = x / s;   code = SR(v);   E[code] = v   for |v| within the format's range

    format: fp32, bf16, fp16, fp8_e4m3, fp8_e5m2, fp4_e2m1 (OCP values), int8 (-127..127), int4 (-7..7).
    rounding: ``stochastic`` rounds up for exactly floor(fraction * 2^16) of the 65,536 noises (unbiased to 2^-16 of
        a gap), ``nearest`` (ties to even), or ``truncate`` (towards zero). Target subnormals are rounded too. Values
        beyond the largest saturate and are counted; infinity is kept where the format has one, NaN becomes the one
        canonical NaN, or 0 in formats without it.
    scale: ``none``, ``tensor`` or ``block`` (s = absmax / largest, over ``block`` elements: 16, 32, 64, 128 or 256);
        default: none for fp32, bf16, fp16, else tensor. A float32 tensor of shape [1] (or a list, one each) is used
        as it is: delayed scales, made from an earlier table's absmax; at least 2^-126.
    pow2: scales are powers of two, rounded up (MX).
    seed, step, slot, purpose, ids: name the noise. Tensor i has parameter id ids[i] (default i); slot is the
        micro-batch. Use each combination once: equal names give equal noise, which adds up instead of averaging.

    moments: also measure mean, std and extremes of x (they are measured anyway where a scale is made per tensor).
    out: what an earlier call with the same arguments gave; its memory is written again instead of new memory, whose
        first touch costs more than the rounding.

    The table (float64 [T+1, 16], docs/numerics.md section 10) holds the sums of x*x, x*q and q*q, the counts of
    zeroed and saturated elements, scale and absmax; :mod:`fastgrad.shrinkage` turns it into
    q_k = sum(x*q)/sum(x*x), norm ratio, cosine and noise variance (arXiv 2508.07142).

    Same bits for the same arguments on every backend and thread count.

    Errors: TypeError, ValueError naming the argument (unknown format, block that does not fit, dtypes, devices).
    """
    single = isinstance(tensors, Tensor)
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    checks.one_of("format", format, FORMATS)
    given: list[Tensor] | None = None
    if isinstance(scale, (Tensor, list, tuple)):
        given = [scale] if isinstance(scale, Tensor) else list(scale)
        kind = "tensor"
    else:
        kind = default_scale(format) if scale is None else str(scale)
    checks.quantizer(format, rounding, kind, block)
    checks.float_tensors("tensors", tensors)
    checks.one_of("purpose", purpose, PURPOSES)
    checks.noise(seed, step, slot, ids, len(tensors))
    if given is not None:
        _check_scales(given, tensors)
    if not tensors:
        return [], reference_sweep([], flags=[])
    options = (format, rounding, kind, block, pow2, given, signed64(seed), step, slot, purpose, ids, moments)
    if out is not None:
        stored = [out] if isinstance(out, Quantized) else list(out)
        _check_out(stored, tensors, format, block if kind == "block" else 0)
        codes, scales = [q.codes for q in stored], [q.scale for q in stored]
        table = launch("quantize_", [*tensors, *codes, *scales], tensors, codes, scales, *options)
        return (stored[0] if single else stored), table
    codes, scales, table = launch("quantize", tensors, tensors, *options)
    stored = [
        Quantized(c, s, format, block if kind == "block" else 0, tuple(t.shape), _dense_stride(t), t.dtype)
        for c, s, t in zip(codes, scales, tensors, strict=True)
    ]
    return (stored[0] if single else stored), table


def _check_out(out: list[Quantized], tensors: list[Tensor], format: str, block: int) -> None:
    if len(out) != len(tensors):
        raise ValueError(f"out: expected {len(tensors)} Quantized, one per tensor, got {len(out)}")
    if torch.compiler.is_compiling() or not _surely_fits(out, tensors, format, block):
        for i, (q, t) in enumerate(zip(out, tensors, strict=True)):
            got, expected = (q.format, q.block, q.shape, q.stride), (format, block, tuple(t.shape), _dense_stride(t))
            if got != expected:
                raise ValueError(f"out[{i}]: expected (format, block, shape, stride) {expected}, got {got}")
            _check_stored(f"out[{i}]", q, t.device)
    checks.no_overlap({"out.codes": [q.codes for q in out], "out.scale": [q.scale for q in out]}, {"tensors": tensors})


def _surely_fits(out: list[Quantized], tensors: list[Tensor], format: str, block: int) -> bool:
    """Whether contiguous tensors can be written into ``out``, a whole list at a time: on lists of small tensors the
    check of one after another, which knows what to say, takes longer than the rounding."""
    codes, scales = [q.codes for q in out], [q.scale for q in out]
    everything = [*tensors, *codes, *scales]
    return (
        all_contiguous(everything)
        and len(set(map(_device, everything))) == 1
        and set(map(_dtype, codes)) == {SPECS[format].dtype}
        and set(map(_dtype, scales)) == {torch.float32}
        and {(q.format, q.block) for q in out} == {(format, block)}
        and [q.shape for q in out] == list(map(_shape, tensors))
        and [q.stride for q in out] == list(map(Tensor.stride, tensors))
        and list(map(Tensor.numel, codes)) == _stored_sizes(tensors, format)
        and list(map(Tensor.numel, scales)) == _scale_counts(tensors, block)
    )


def _check_stored(name: str, q: Quantized, device: torch.device) -> None:
    """Memory of a Quantized that is about to be written by address."""
    spec, n = SPECS[q.format], math.prod(q.shape)
    codes = (spec.dtype, _stored_size(n, q.format))
    scales = (torch.float32, block_count(n, q.block) if q.block else 1)
    for part, t, expected in (("codes", q.codes, codes), ("scale", q.scale, scales)):
        if (t.dtype, t.numel()) != expected or t.device != device or not checks.is_dense(t):
            got = f"{t.numel()} of {t.dtype} on {t.device}, strides {tuple(t.stride())}"
            wanted = f"{expected[1]} dense elements of {expected[0]} on {device}"
            raise ValueError(f"{name}.{part}: expected {wanted}, got {got}")


def _check_scales(given: list[Tensor], tensors: list[Tensor]) -> None:
    if len(given) != len(tensors):
        raise ValueError(f"scale: expected {len(tensors)} tensors, one per tensor, got {len(given)}")
    for i, s in enumerate(given):
        checks.given_scale(f"scale[{i}]", s, tensors[i])


def _dense_stride(t: Tensor) -> tuple[int, ...]:
    return t.stride() if checks.is_dense(t) else tuple(torch.empty(t.shape, device="meta").stride())


def _stored_size(n: int, format: str) -> int:
    """Stored codes of n elements."""
    return (n + 1) // 2 if SPECS[format].packed else n


def _stored_sizes(tensors: list[Tensor], format: str) -> list[int]:
    return [_stored_size(n, format) for n in map(Tensor.numel, tensors)]


def _scale_counts(tensors: list[Tensor], block: int) -> list[int]:
    """Scales of every tensor; block is 0 where it has one."""
    return [block_count(n, block) for n in map(Tensor.numel, tensors)] if block else [1] * len(tensors)


def _outputs(tensors: list[Tensor], format: str, scale: str, block: int) -> tuple[list[Tensor], list[Tensor]]:
    spec, device = SPECS[format], tensors[0].device
    if spec.packed:
        codes = [torch.empty(n, dtype=torch.uint8, device=device) for n in _stored_sizes(tensors, format)]
    else:
        codes = [torch.empty_like(t, dtype=spec.dtype) for t in tensors]
    counts = _scale_counts(tensors, block if scale == "block" else 0)
    return codes, [torch.empty(count, dtype=torch.float32, device=device) for count in counts]


def _write(
    engine: Engine,
    tensors: list[Tensor],
    codes: list[Tensor],
    scales: list[Tensor],
    format: str,
    rounding: str,
    scale: str,
    block: int,
    pow2: bool,
    given: list[Tensor] | None,
    seed: int,
    step: int,
    slot: int,
    purpose: str,
    ids: list[int] | None,
    moments: bool,
) -> Tensor:
    dense = readable(tensors)
    expected = _stored_sizes(dense, format), _scale_counts(dense, block if scale == "block" else 0)
    if (list(map(Tensor.numel, codes)), list(map(Tensor.numel, scales))) != expected:
        raise ValueError("codes, scales: expected the sizes that quantize gives for these tensors")
    if scale == "none":
        torch._foreach_copy_(scales, [torch.ones_like(scales[0])] * len(scales))  # a fifth of the time of adding
    return engine.sweep(
        dense,
        flags=[QUANTIZE] * len(tensors),
        format=format,
        rounding=rounding,
        scale=scale,
        block=block,
        pow2=pow2,
        given_scales=given,
        seed=seed,
        step=step,
        slot=slot,
        purpose=purpose,
        ids=ids,
        measure=moments,
        codes=codes,
        scales=scales if scale != "none" else None,
    )


def _new(
    engine: Engine, tensors: list[Tensor], format: str, rounding: str, scale: str, block: int, *rest: Any
) -> _Stored:
    codes, scales = _outputs(readable(tensors), format, scale, block)
    fresh(codes)
    table = _write(engine, tensors, codes, scales, format, rounding, scale, block, *rest)
    return codes, scales, table


def _existing(
    engine: Engine, tensors: list[Tensor], codes: list[Tensor], scales: list[Tensor], *rest: Any
) -> Tensor:
    table = _write(engine, tensors, codes, scales, *rest)
    changed(codes)
    changed(scales)
    return table


def _fake(tensors: list[Tensor], format: str, rounding: str, scale: str, block: int, *rest: Any) -> _Stored:
    codes, scales = _outputs(readable(tensors), format, scale, block)
    return codes, scales, empty_table(len(tensors), tensors[0].device)


def _fake_existing(tensors: list[Tensor], *rest: Any) -> Tensor:
    return empty_table(len(tensors), tensors[0].device)


_OPTIONS = (
    "str format, str rounding, str scale, int block, bool pow2, Tensor[]? given_scales, SymInt seed, SymInt step, "
    "SymInt slot, str purpose, int[]? ids, bool moments"
)
declare(
    f"quantize(Tensor[] tensors, {_OPTIONS}) -> (Tensor[] codes, Tensor[] scales, Tensor table)",
    _new,
    _fake,
)
declare(
    f"quantize_(Tensor[] tensors, Tensor(a!)[] codes, Tensor(b!)[] scales, {_OPTIONS}) -> Tensor",
    _existing,
    _fake_existing,
)


@overload
def dequantize(quantized: Quantized, dtype: torch.dtype | None = None, *, out: Tensor | None = None) -> Tensor: ...
@overload
def dequantize(
    quantized: Sequence[Quantized], dtype: torch.dtype | None = None, *, out: Sequence[Tensor] | None = None
) -> list[Tensor]: ...
@torch.no_grad()
def dequantize(
    quantized: Quantized | Sequence[Quantized],
    dtype: torch.dtype | None = None,
    *,
    out: Tensor | Sequence[Tensor] | None = None,
) -> Tensor | list[Tensor]:
    """The tensors that codes stand for: ``x = decode(code) * s``, in the shape and layout they were made of.

    dtype: float32, bfloat16 or float16 (rounded to nearest); default: that of the tensor that was quantized. All of
    a list in one native call per dtype and format.
    out: tensors of the quantized shapes and strides, written instead of new memory, in their own dtypes (``dtype`` is
        not given then).
    """
    single = isinstance(quantized, Quantized)
    items = [quantized] if isinstance(quantized, Quantized) else list(quantized)
    given = None if out is None else [out] if isinstance(out, Tensor) else list(out)
    if given is not None and dtype is not None:
        raise ValueError(f"dtype: out has dtypes of its own, expected None, got {dtype}")
    if given is not None and len(given) != len(items):
        raise ValueError(f"out: expected {len(items)} tensors, one per Quantized, got {len(given)}")
    results: dict[int, Tensor] = {}
    kinds: dict[tuple, list[int]] = {}
    for i, q in enumerate(items):
        if not isinstance(q, Quantized):
            raise TypeError(f"quantized[{i}]: expected a Quantized, got {type(q).__name__}")
        checks.one_of("format", q.format, FORMATS)
        _check_layout(f"quantized[{i}]", q)
        wanted = dtype or q.dtype
        if given is not None:
            _check_values(f"out[{i}]", given[i], q)
            wanted = given[i].dtype
        if wanted not in DTYPES:
            raise TypeError(f"{'dtype' if given is None else f'out[{i}]'}: expected {checks.DTYPE_NAMES}, got {wanted}")
        kinds.setdefault((q.format, q.block, wanted), []).append(i)
    if given is not None:
        checks.no_overlap({"out": given}, {"codes": [q.codes for q in items], "scale": [q.scale for q in items]})
    for (format, block, wanted), places in kinds.items():
        some = [items[i] for i in places]
        codes, scales = [q.codes for q in some], [q.scale for q in some]
        if given is not None:
            values = [given[i] for i in places]
            launch("dequantize_", [*codes, *scales, *values], codes, scales, format, block, values)
        else:
            values = launch(
                "dequantize",
                [*codes, *scales],
                codes,
                scales,
                format,
                block,
                [size for q in some for size in q.shape],
                [stride for q in some for stride in q.stride],
                [len(q.shape) for q in some],
                wanted,
            )
        results.update(zip(places, values, strict=True))
    return results[0] if single else [results[i] for i in range(len(items))]


def _check_values(name: str, value: Tensor, q: Quantized) -> None:
    """Memory that codes are about to be decoded into."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    got = (tuple(value.shape), tuple(value.stride()), value.device)
    if got != (q.shape, q.stride, q.codes.device):
        raise ValueError(f"{name}: expected (shape, stride, device) {(q.shape, q.stride, q.codes.device)}, got {got}")


def _check_layout(name: str, q: Quantized) -> None:
    expected = 1
    if len(q.shape) == len(q.stride):
        for stride, size in sorted((st, si) for st, si in zip(q.stride, q.shape, strict=True) if si != 1):
            expected = expected * size if stride == expected else -1
    if len(q.shape) != len(q.stride) or (expected < 0 and 0 not in q.shape):
        raise ValueError(f"{name}: expected a dense shape and stride, got shape {q.shape} and stride {q.stride}")
    if q.codes.device != q.scale.device:
        raise ValueError(f"{name}: scale: expected device {q.codes.device}, got {q.scale.device}")


def _empty_values(
    codes: list[Tensor], sizes: list[int], strides: list[int], dims: list[int], dtype: torch.dtype
) -> list[Tensor]:
    values, at = [], 0
    for c, d in zip(codes, dims, strict=True):
        values.append(torch.empty_strided(sizes[at : at + d], strides[at : at + d], dtype=dtype, device=c.device))
        at += d
    return values


def _check_codes(codes: list[Tensor], scales: list[Tensor], format: str, block: int, values: list[Tensor]) -> None:
    spec = SPECS[format]
    for i, (c, s, v) in enumerate(zip(codes, scales, values, strict=True)):
        n = v.numel()
        expected = _stored_size(n, format)
        if c.dtype != spec.dtype or c.numel() != expected:
            raise ValueError(f"codes[{i}]: expected {expected} of {spec.dtype}, got {c.numel()} of {c.dtype}")
        blocks = block_count(n, block) if block else 1
        if s.dtype != torch.float32 or s.numel() != blocks:
            raise ValueError(f"scales[{i}]: expected {blocks} of float32, got {s.numel()} of {s.dtype}")
        if not checks.is_dense(c) or not checks.is_dense(s):
            raise ValueError(f"codes[{i}], scales[{i}]: expected dense tensors")


def _dequantize(
    engine: Engine, codes: list[Tensor], scales: list[Tensor], format: str, block: int, *layout: Any
) -> list[Tensor]:
    values = _empty_values(codes, *layout)
    fresh(values)
    _check_codes(codes, scales, format, block, values)
    if values:
        engine.dequantize(codes, scales, format, block, values)
    return values


def _dequantize_fake(
    codes: list[Tensor], scales: list[Tensor], format: str, block: int, *layout: Any
) -> list[Tensor]:
    return _empty_values(codes, *layout)


def _dequantize_existing(
    engine: Engine, codes: list[Tensor], scales: list[Tensor], format: str, block: int, values: list[Tensor]
) -> None:
    _check_codes(codes, scales, format, block, values)
    if values:
        engine.dequantize(codes, scales, format, block, values)
        changed(values)


def _dequantize_existing_fake(*arguments: object) -> None:
    return None


declare(
    "dequantize(Tensor[] codes, Tensor[] scales, str format, int block, SymInt[] sizes, SymInt[] strides, int[] dims, "
    "ScalarType dtype) -> Tensor[]",
    _dequantize,
    _dequantize_fake,
)
declare(
    "dequantize_(Tensor[] codes, Tensor[] scales, str format, int block, Tensor(a!)[] values) -> ()",
    _dequantize_existing,
    _dequantize_existing_fake,
)
