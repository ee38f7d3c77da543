"""Checks of arguments shared by the ops. Every message names the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import add, attrgetter, le

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter

from fastgrad import library
from fastgrad.ops.sweeps import ALPHAS, BLOCKS, DTYPES, FORMATS, METHODS, ROUNDINGS, SCALES
from fastgrad.reference.philox import PARAMETER_RANGE, SLOT_RANGE, STEP_RANGE

RULES = tuple(rule for rule in ALPHAS if rule != "given")  # of autoscale's factor, where no state brings it
DTYPE_NAMES = "float32, bfloat16 or float16"
_PLAIN = {Tensor, Parameter}
_dtype, _layout, _device = attrgetter("dtype"), attrgetter("layout"), attrgetter("device")
_nbytes = attrgetter("nbytes")


def one_of(name: str, value: object, valid: Sequence[object]) -> None:
    if value not in valid:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, valid))}; got {value!r}")


def type_name(value: object) -> str:
    """With the module, unless it is a type of Python's own: several packages have an AdamW."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def in_range(name: str, value: int, low: int, high: int) -> None:
    if torch.compiler.is_compiling():
        return
    if not isinstance(value, (int, torch.SymInt)) or not low <= value < high:
        raise ValueError(f"{name}: expected an integer in [{low}, {high}), got {value!r}")


def not_negative(name: str, value: float) -> None:
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name}: expected a finite number >= 0, got {value}")


def noise(seed: int, step: int, slot: int, ids: Sequence[int] | None, count: int) -> None:
    """What names the noise of ``count`` tensors."""
    in_range("seed", seed, -(2**63), 2**64)
    in_range("step", step, 0, STEP_RANGE)
    in_range("slot", slot, 0, SLOT_RANGE)
    per_tensor("ids", ids, count, PARAMETER_RANGE)


def per_tensor(name: str, values: Sequence[int] | None, count: int, end: int) -> None:
    """One integer in [0, end) for every tensor, or None."""
    if values is None:
        return
    if len(values) != count:
        raise ValueError(f"{name}: expected {count} numbers, one per tensor, got {len(values)}")
    for i, value in enumerate(values):
        in_range(f"{name}[{i}]", value, 0, end)


def tensor_list(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    if isinstance(tensors, Tensor):
        raise TypeError(f"{name}: expected a list of tensors, got one tensor")
    return list(tensors)


def alpha_state(state: Tensor | None, tensors: Sequence[Tensor]) -> Tensor:
    """The float64 [2] state of autoscale, on the device of the tensors; a new one if there is none."""
    device = tensors[0].device if tensors else torch.device("cpu")
    if state is None:
        return torch.zeros(2, dtype=torch.float64, device=device)
    if state.device != device:
        raise ValueError(f"state: expected device {device}, got {state.device}")
    if state.dtype != torch.float64 or tuple(state.shape) != (2,):
        raise ValueError(f"state: expected a float64 tensor of shape [2], got {state.dtype} {list(state.shape)}")
    return state


def hyper_rows(hyper: Tensor, groups: Sequence[int] | None, count: int) -> None:
    if hyper.dtype != torch.float64 or hyper.dim() != 2 or hyper.shape[1] != 8 or hyper.shape[0] == 0:
        raise ValueError(f"hyper: expected a float64 tensor of shape [G, 8], got {hyper.dtype} {list(hyper.shape)}")
    per_tensor("groups", groups, count, hyper.shape[0])


def given_scale(name: str, scale: Tensor, model: Tensor) -> None:
    """A scale made by the caller: one float32 >= 2^-126 on the device of the tensor it is for."""
    if not isinstance(scale, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(scale).__name__}")
    if scale.dtype != torch.float32 or scale.numel() != 1 or scale.device != model.device:
        got = f"{scale.dtype} {list(scale.shape)} on {scale.device}"
        raise ValueError(f"{name}: expected a float32 tensor of shape [1] on {model.device}, got {got}")
    # Not on an accelerator: reading the number would wait for it.
    if scale.device.type == "cpu" and not torch.compiler.is_compiling() and not 2.0**-126 <= float(scale) < math.inf:
        raise ValueError(f"{name}: expected a finite number >= 2^-126, got {float(scale)}")


def are_plain(tensors: Sequence[object]) -> bool:
    """Whether none is of a subclass, whose attributes and memory may be made up."""
    return set(map(type, tensors)) <= _PLAIN


def are_negated(tensors: Sequence[Tensor]) -> bool:
    """Whether the memory of any holds the negative of its values (``Tensor.is_neg``), as that of a gradient through a
    complex conjugate does. The dispatcher sees to it; who reads memory without it has to."""
    return any(map(Tensor.is_neg, tensors))


def _are_floats(tensors: Sequence[Tensor], device: torch.device | None) -> bool:
    read = library.read_list(tensors)
    if read is not None:  # all are on the CPU
        return read.floats and (device is None or device.type == "cpu")
    return (
        are_plain(tensors)
        and set(map(_dtype, tensors)) <= DTYPES.keys()
        and set(map(_layout, tensors)) <= {torch.strided}
        and len({*map(_device, tensors), *(() if device is None else (device,))}) <= 1
    )


def float_tensors(name: str, tensors: Sequence[Tensor], device: torch.device | None = None) -> None:
    """Strided tensors of a floating-point type that the kernels read, all on one device."""
    if not torch.compiler.is_compiling() and _are_floats(tensors, device):
        return  # a list at a time; else one after another, to say which
    for i, t in enumerate(tensors):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}[{i}]: expected a tensor, got {type(t).__name__}")
        if t.dtype not in DTYPES:
            raise TypeError(f"{name}[{i}]: expected {DTYPE_NAMES}, got {t.dtype}")
        if t.layout is not torch.strided:
            raise TypeError(f"{name}[{i}]: expected a dense (strided) tensor, got layout {t.layout}")
        device = t.device if device is None else device
        if t.device != device:
            raise ValueError(f"{name}[{i}]: expected device {device}, got {t.device}")


def not_differentiable(op: str, name: str, tensors: Sequence[Tensor]) -> None:
    """Refuses tensors whose gradient would silently be lost."""
    if torch.is_grad_enabled():
        for i, t in enumerate(tensors):
            if t.requires_grad:
                raise ValueError(
                    f"{op}: {name}[{i}] requires grad and {op} is not differentiable; call it under "
                    "torch.no_grad(), or use normalize_grad, quantize_grad or fake_quantize"
                )


def is_dense(t: Tensor) -> bool:
    """No holes and no overlap: the elements fill t.numel() consecutive places in memory."""
    if t.is_contiguous() or t.numel() == 0:
        return True
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(t.stride(), t.shape, strict=True) if si != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def overlaps_itself(t: Tensor) -> bool:
    """Whether two elements may share a place in memory (an expanded tensor, a hand-made stride)."""
    reach = 1
    for stride, size in sorted((st, si) for st, si in zip(t.stride(), t.shape, strict=True) if si != 1):
        if stride < reach:
            return True
        reach = stride * (size - 1) + reach
    return False


def _are_apart(tensors: list[Tensor]) -> bool:
    """Whether contiguous tensors surely have no byte in common. What is not so simple is left to who looks closer:
    tensors without memory, too, which all begin at 0."""
    if library.are_apart(tensors):
        return True
    if not all(map(Tensor.is_contiguous, tensors)) or not are_plain(tensors):
        return False
    # Spans are apart if each ends before the next begins, which two sorts of numbers tell sooner than one of pairs.
    starts = list(map(Tensor.data_ptr, tensors))
    ends = sorted(map(add, starts, map(_nbytes, tensors)))
    starts.sort()
    return all(map(le, ends, starts[1:]))


def no_overlap(written: dict[str, Sequence[Tensor]], read: dict[str, Sequence[Tensor]] | None = None) -> None:
    """Refuses outputs that share memory with themselves, each other or an input: the result would depend on order."""
    if torch.compiler.is_compiling():
        return
    if _are_apart([t for tensors in (*written.values(), *(read or {}).values()) for t in tensors]):
        return
    spans = []
    lists = [(True, *item) for item in written.items()] + [(False, *item) for item in (read or {}).items()]
    for is_written, name, i, t in ((w, name, i, t) for w, name, tensors in lists for i, t in enumerate(tensors)):
        label = f"{name}[{i}]"
        if t.numel() == 0 or t.device.type == "meta":
            continue
        if is_written and not t.is_contiguous() and overlaps_itself(t):
            raise ValueError(f"{label}: its elements overlap in memory (an expanded tensor?)")
        reach = t.numel()
        if not t.is_contiguous():
            reach = 1 + sum(st * (si - 1) for st, si in zip(t.stride(), t.shape, strict=True))
        start = 0 if isinstance(t, FakeTensor) else t.data_ptr()
        if start:  # there is memory
            spans.append((start, start + reach * t.element_size(), label, is_written))
    # What was met so far and reaches furthest: of everything, and of what is written.
    furthest, furthest_written = (0, ""), (0, "")
    for start, end, label, is_written in sorted(spans):
        met, other = furthest if is_written else furthest_written
        if start < met:
            raise ValueError(f"{label} shares memory with {other}")
        furthest = max(furthest, (end, label))
        if is_written:
            furthest_written = max(furthest_written, (end, label))


def dim0_rows(tensors: Sequence[Tensor]) -> list[int]:
    """Rows of dim 0 that are contiguous in memory, for centralize; 0 for tensors with fewer than two dimensions."""
    rows = library.read_rows(tensors)
    if rows is not None:
        return rows
    return [t.shape[0] if dim > 1 else 0 for t, dim in zip(tensors, map(Tensor.dim, tensors), strict=True)]


def rows_are_outermost(t: Tensor) -> bool:
    """Whether dim 0 varies slowest in memory, so that its rows are runs of consecutive elements."""
    return t.dim() < 2 or t.numel() == 0 or t.is_contiguous() or t.stride(0) * t.shape[0] == t.numel()


def normalizer(method: str, alpha: str, state: Tensor | None = None, name: str = "method") -> None:
    """state: the caller's own. ``given`` takes its factor from there; the zeros of a new one would be that factor."""
    one_of(name, method, METHODS)
    one_of("alpha", alpha, RULES if state is None else ALPHAS)


def quantizer(format: str, rounding: str, scale: str, block: int) -> None:
    one_of("format", format, FORMATS)
    one_of("rounding", rounding, ROUNDINGS)
    one_of("scale", scale, SCALES)
    if scale == "block":
        one_of("block", block, BLOCKS)
    if format == "fp32" and scale != "none":
        raise ValueError(f"scale: format fp32 takes no scale, expected 'none', got {scale!r}")


def lagged_table(lagged: Tensor | None, count: int) -> None:
    if lagged is not None and (tuple(lagged.shape) != (count + 1, 16) or lagged.dtype != torch.float64):
        got = f"{lagged.dtype} {list(lagged.shape)}"
        raise ValueError(f"lagged: expected the previous table, float64 [{count + 1}, 16], got {got}")


def shards(
    offsets: Sequence[int] | None, method: str, scale: str, block: int, lagged: Tensor | None, skip_nonfinite: bool
) -> None:
    """What a call on shards cannot do, as it does not see the whole of a tensor."""
    if offsets is None:
        return
    if any(offset < 0 for offset in offsets):
        raise ValueError(f"offsets: expected numbers >= 0, got {min(offsets)}")
    if skip_nonfinite:
        raise ValueError("skip_nonfinite: shards do not see each other; decide it from the table of the whole")
    if lagged is None and (method not in ("none", "centralize") or scale == "tensor"):
        raise ValueError("lagged: expected the table of the whole tensors, which shards cannot measure")
    if scale == "block" and any(offset % block for offset in offsets):
        raise ValueError(f"offsets: expected multiples of the block, {block}, got {list(offsets)}")
