"""Activations that autograd keeps for the backward, stored in a low-precision format."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Parameter

from fastgrad import shrinkage
from fastgrad.ops import checks
from fastgrad.ops.quantize import Quantized, dequantize, quantize
from fastgrad.ops.sweeps import DTYPES
from fastgrad.reference.philox import DEFAULT_SEED, PARAMETER_RANGE, SLOT_RANGE, STEP_RANGE

SAVED_FORMATS = ("int8", "fp8_e4m3", "int4")
STATISTIC = 16  # a saved tensor this many times smaller than one of the last few is a statistic of it
_LAST_FEW = 4

# Nodes whose output is their input in another shape, layout or floating-point type.
_SAME_VALUES = {
    "Alias", "AsStrided", "Clone", "Detach", "Expand", "Permute", "ReshapeAlias", "Select", "Slice", "Split", "Squeeze",
    "T", "ToCopy", "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip

_UNCOUNTED = ("parameter", "tensor subclass", "layout")  # are there anyway, or have no storage to measure

_entries = itertools.count()


@dataclass(frozen=True)
class CompressedTensor:
    """One tensor that is stored in a format."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    kept_bytes: int  # codes and scales
    q_k: float  # sum(x * q) / sum(x * x): the part of x that is left in q
    relative_noise: float  # |q - x| / |x|


@dataclass(frozen=True)
class SavedMemory:
    """What a context found and what it keeps.

    bytes_before: bytes of all distinct memory blocks (storages) that autograd would hold, parameters apart.
    bytes_kept: codes and scales, and the blocks of the tensors that were left alone, parameters apart.
    saved: how often autograd saved a tensor; of these ``compressed`` went into a format (``tensors`` lists them, a
        tensor that is saved more than once stands there once) and ``left`` counts the others by reason.
    """

    bytes_before: int
    bytes_kept: int
    saved: int
    compressed: int
    left: dict[str, int]
    tensors: list[CompressedTensor]

    def __str__(self) -> str:
        ratio = f", {self.bytes_before / self.bytes_kept:.2f} times less" if self.bytes_kept else ""
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left.items()))
        return (
            f"{self.bytes_before:,} -> {self.bytes_kept:,} bytes{ratio}; {self.compressed} of {self.saved} saved "
            f"tensors compressed into {len(self.tensors)}; left alone: {left or 'none'}"
        )


class _Storages:
    """A set of living storages. Its weak references keep their addresses from being given to others."""

    def __init__(self, storages: Iterable[torch.UntypedStorage] = ()) -> None:
        self._references: dict[int, StorageWeakRef] = {}
        self._purge_at = 4096
        for storage in storages:
            self.add(storage)

    def __contains__(self, storage: torch.UntypedStorage) -> bool:
        return storage._cdata in self._references

    def add(self, storage: torch.UntypedStorage) -> bool:
        """Whether it is new."""
        if storage in self:
            return False
        if len(self._references) >= self._purge_at:
            self._references = {a: ref for a, ref in self._references.items() if not ref.expired()}
            self._purge_at = max(4096, 2 * len(self._references))
        self._references[storage._cdata] = StorageWeakRef(storage)
        return True


@dataclass(eq=False)
class _Exact:
    """A tensor as it is."""

    tensor: Tensor
    version: int
    name: str

    def restore(self) -> Tensor:
        if self.tensor._version != self.version:
            raise RuntimeError(
                f"one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"{self.name} of shape {list(self.tensor.shape)} is at version {self.tensor._version}; expected "
                f"version {self.version} instead"
            )
        return self.tensor


@dataclass(eq=False)
class _Stored:
    """Codes of the elements of one piece of memory, shared by all that saved it."""

    quantized: Quantized
    rectified: bool  # no element was negative: a negative code says "positive, rounded to zero"

    def values(self) -> Tensor:  # [n]
        x = dequantize(self.quantized)
        if self.rectified:
            x.masked_fill_(x < 0, 2.0**-24 if x.dtype == torch.float16 else 2.0**-126)
        return x


@dataclass(eq=False)
class _View:
    """One saved tensor: which codes, in which shape."""

    stored: _Stored
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dense: bool  # the codes are in the order of memory; else in that of the indices

    def restore(self) -> Tensor:
        values = self.stored.values()
        if not self.dense:
            once = _once(self.shape, self.stride)
            memory = torch.empty_strided(once, self.stride, dtype=values.dtype, device=values.device)
            values = memory.copy_(values.view(once))
        return values.as_strided(self.shape, self.stride)


class compress_saved_tensors:
    """Within this context autograd saves activations in a low-precision format, rounded stochastically.

        saved = dequantize(quantize(x)),   E[saved] = x

    (to 2^-16 of a step; bfloat16 and float16 tensors are restored to the nearest number of their dtype, whose rounding
    has no such mean: with ``pow2`` there is none to do for int8 and int4).

    Gradients that are linear in what was saved stay unbiased: those of the weights of linear layers and convolutions,
    of products, of ReLU (whose mask stays exact: a positive element that is rounded to zero is restored as the
    smallest positive number). Where a backward is not linear in it (GELU, softmax, normalization) the bias is of the
    second order of the rounding error; ``python -m bench.activations`` measures both.

    ::

        with fastgrad.compress_saved_tensors("int8") as saved:
            loss = model(x)
        loss.backward()
        print(saved.measure())

    format: int8 or fp8_e4m3 (a byte and 4 / block per element) or int4 (half a byte and 4 / block).
    block: elements per scale: 16, 32, 64, 128 or 256, in storage order.
    pow2: scales are powers of two, rounded up: up to twice the noise, no second rounding in bfloat16.
    min_elements: smaller tensors stay as they are.
    seed, step, slot: name the noise. step: default the number of contexts entered in this process; give the training
        step to repeat a run exactly after a resume. Entering the same instance again takes the next step. slot: the
        micro-batch or the rank, whose activations need noise of their own. Same inputs, seed, step, slot: same bits.
    exact: tensors that are left alone, and all views of their memory (``model.buffers()``).

    Left alone, by reason in :meth:`measure`:

    - ``parameter``: leaf tensors that require grad and nn.Parameters, their views and their copies in another dtype.
      (Autocast's copy of a *frozen* weight cannot be told from an activation.)
    - ``tensor subclass``; ``layout``; ``dtype`` (integers, booleans, float64); ``overlapping``; ``exact``
    - ``small``: fewer than min_elements. ``statistic``: 16 times smaller than one of the four activations saved before:
      log-sum-exps of attention, means and deviations of normalization layers, which enter exponents and divisors.
    - ``non-finite``: NaN and infinity have no code in these formats.
    - ``logarithms``: no element is positive: log-probabilities, which enter an exponent. They are as large as the
      logits; :func:`fastgrad.linear_cross_entropy` has neither.
    - ``checkpoint``: the inputs of ``torch.utils.checkpoint``, both kinds, from which the forward is run again.

    A tensor that several nodes save (the input of three projections, a ReLU's output and the next layer's input) is
    stored once while it lives; after an in-place change it is another tensor. An in-place change *after* the tensor was
    saved is no error if it was compressed (the gradient is that of the value that was saved); if it was left alone it
    is the usual RuntimeError. Strides are restored. Unpacking twice (``retain_graph``) gives the same bits.

    ``torch.compile``: what a compiled region saves is compressed if the context is entered outside of it; entered
    inside it breaks the graph. Functions of torch.func do not work with saved-tensor hooks (torch says so). On an
    accelerator the host waits once per compressed tensor, to know about non-finite elements.

    Errors: ValueError naming the argument; RuntimeError if it is entered while it is active.
    """

    def __init__(
        self,
        format: str = "int8",
        *,
        block: int = 128,
        pow2: bool = False,
        min_elements: int = 4096,
        seed: int = DEFAULT_SEED,
        step: int | None = None,
        slot: int = 0,
        exact: Iterable[Tensor] = (),
    ) -> None:
        checks.one_of("format", format, SAVED_FORMATS)
        checks.quantizer(format, "stochastic", "block", block)
        checks.in_range("min_elements", min_elements, 0, 1 << 62)
        checks.in_range("seed", seed, -(2**63), 2**64)
        checks.in_range("slot", slot, 0, SLOT_RANGE)
        if step is not None:
            checks.in_range("step", step, 0, STEP_RANGE)
        self.format, self.block, self.pow2, self.min_elements = format, block, pow2, min_elements
        self.seed, self.slot = seed, slot
        self.step: int | None = None  # of the noise, once entered
        self._next_step = step
        self._exact = _Storages(t.untyped_storage() for t in exact)
        self._hooks: torch.autograd.graph.saved_tensors_hooks | None = None
        self._reset()

    def __repr__(self) -> str:
        kept = f", {self._compressed} of {self._saved} saved tensors compressed" if self._saved else ""
        return f"compress_saved_tensors({self.format!r}, block={self.block}, min_elements={self.min_elements}{kept})"

    def _reset(self) -> None:
        self._ordinal = 0  # of a compressed tensor: the parameter id of its noise
        self._known: dict[tuple, tuple[StorageWeakRef, weakref.ref]] = {}
        self._parameters, self._found, self._held = _Storages(), _Storages(), _Storages()
        self._bytes_before = self._bytes_kept = self._saved = self._compressed = 0
        self._recent: deque[int] = deque(maxlen=_LAST_FEW)
        self._left: Counter[str] = Counter()
        self._tensors: list[tuple[tuple[int, ...], torch.dtype, int, list[float]]] = []

    @torch.compiler.disable
    def __enter__(self) -> compress_saved_tensors:
        if self._hooks is not None:
            raise RuntimeError("compress_saved_tensors: this instance is active already; make another one")
        self._reset()
        self._take_step()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _restore)
        self._hooks.__enter__()
        return self

    @torch.compiler.disable
    def __exit__(self, *error: object) -> None:
        hooks, self._hooks = self._hooks, None
        if hooks is not None:
            hooks.__exit__(*error)
        self._known.clear()
        self._parameters, self._found, self._held = _Storages(), _Storages(), _Storages()

    def _take_step(self) -> None:
        if self._next_step is None:
            self.step = next(_entries) % STEP_RANGE
        else:
            self.step = self._next_step
            self._next_step = (self._next_step + 1) % STEP_RANGE
        self._ordinal = 0

    def measure(self) -> SavedMemory:
        """Memory and rounding error of what was saved since the context was entered last."""
        rows = torch.tensor([row for *_, row in self._tensors], dtype=torch.float64, device="cpu").reshape(-1, 16)
        yy, yq, qq = rows[:, 8], rows[:, 9], rows[:, 10]
        q_k = shrinkage.projection(yy, yq).tolist()
        noise = torch.where(yy > 0, ((qq - 2 * yq + yy).clamp(min=0) / yy).sqrt(), 0.0).tolist()
        return SavedMemory(
            self._bytes_before,
            self._bytes_kept,
            self._saved,
            self._compressed,
            dict(self._left),
            [
                CompressedTensor(shape, dtype, kept, q, relative)
                for (shape, dtype, kept, _), q, relative in zip(self._tensors, q_k, noise, strict=True)
            ],
        )

    # Packing ---------------------------------------------------------------------------------------------------------

    @torch.compiler.disable
    @torch.no_grad()
    def _pack(self, t: Tensor) -> _Exact | _View:
        self._saved += 1
        reason = self._reason(t)
        if not reason:
            packed = self._compress(t.detach())
            if isinstance(packed, _View):
                self._compressed += 1
                return packed
            reason = packed
        self._left[reason] += 1
        if reason not in _UNCOUNTED:
            storage = t.untyped_storage()
            if self._held.add(storage):
                self._bytes_kept += storage.nbytes()
        if t.grad_fn is None:
            return _Exact(t, t._version, f"a {type(t).__name__}")
        # Detached: an output that its own node holds would never be freed.
        return _Exact(t.detach(), t._version, f"an output of {t.grad_fn.name()}")

    def _reason(self, t: Tensor) -> str:
        """Why a tensor is left alone; empty if nothing says so before its values are looked at."""
        if type(t) not in (Tensor, Parameter):
            return "tensor subclass"
        if t.layout is not torch.strided or t.is_meta:
            return "layout"
        storage = t.untyped_storage()
        if self._is_parameter(t, storage):
            return "parameter"
        if self._found.add(storage):
            self._bytes_before += storage.nbytes()
        if t.dtype not in DTYPES:
            return "dtype"
        if storage in self._exact:
            return "exact"
        elements = 1
        for size in _once(t.shape, t.stride()):
            elements *= size
        largest = max(self._recent, default=0)
        self._recent.append(elements)
        if elements < max(self.min_elements, 1):
            return "small"
        if elements * STATISTIC <= largest:
            return "statistic"
        if _is_checkpoint_input():
            return "checkpoint"
        return ""

    def _is_parameter(self, t: Tensor, storage: torch.UntypedStorage) -> bool:
        source = t if t._base is None else t._base
        if isinstance(source, Parameter) or (source.is_leaf and source.requires_grad):
            self._parameters.add(storage)
            return True
        node = t.grad_fn
        while node is not None:
            name = node.name()
            if name.endswith("AccumulateGrad"):
                return True
            if name.rstrip("0123456789").removesuffix("Backward") not in _SAME_VALUES:
                break
            node = node.next_functions[0][0]
        return storage in self._parameters

    def _compress(self, t: Tensor) -> _View | str:
        shape, stride = tuple(t.shape), tuple(t.stride())
        once = t.as_strided(_once(shape, stride), stride)
        dense = checks.is_dense(once)
        if not dense and checks.overlaps_itself(once):
            return "overlapping"
        place = (once.numel(),) if dense else (tuple(once.shape), stride)
        storage = t.untyped_storage()
        key = (storage._cdata, t.storage_offset(), place, t.dtype, t._version)
        stored = self._known[key][1]() if key in self._known else None
        if stored is None:
            flat = once.as_strided((once.numel(),), (1,)) if dense else once.reshape(-1)
            stored = self._quantize(flat, shape)
            if isinstance(stored, str):
                return stored
            known = self._known
            reference = weakref.ref(stored, lambda gone: known.pop(key, None) if _is(known, key, gone) else None)
            known[key] = StorageWeakRef(storage), reference
        return _View(stored, shape, stride, dense)

    def _quantize(self, flat: Tensor, shape: tuple[int, ...]) -> _Stored | str:
        assert self.step is not None, "tensors are saved in the context only"
        if self._ordinal == PARAMETER_RANGE:
            self._take_step()
        quantized, table = quantize(
            flat, self.format, scale="block", block=self.block, pow2=self.pow2, seed=self.seed, step=self.step,
            slot=self.slot, purpose="activation", ids=[self._ordinal], moments=True,
        )  # fmt: skip
        row = table[0].tolist()
        least, largest, nonfinite, zeroed = row[3], row[4], row[5], row[11]
        if nonfinite:
            return "non-finite"
        if least < 0 and largest <= 0:
            return "logarithms"
        self._ordinal += 1
        rectified = least == 0 and zeroed > 0
        if rectified:
            _mark_positive(quantized, flat)
        self._bytes_kept += quantized.nbytes
        self._tensors.append((shape, flat.dtype, quantized.nbytes, row))
        return _Stored(quantized, rectified)


@torch.compiler.disable
@torch.no_grad()
def _restore(packed: _Exact | _View) -> Tensor:
    return packed.restore()


def _once(shape: Iterable[int], stride: Iterable[int]) -> tuple[int, ...]:
    """The shape without the repetitions of an expanded tensor."""
    return tuple(1 if st == 0 else size for size, st in zip(shape, stride, strict=True))


def _is(known: dict, key: tuple, reference: weakref.ref) -> bool:
    return key in known and known[key][1] is reference


_OURS = (__name__, "torch.utils._contextlib", "torch._dynamo.eval_frame")  # the hook and its decorators


def _is_checkpoint_input() -> bool:
    """Whether torch.utils.checkpoint itself is saving: the frames under the hook are its own."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in _OURS:
        frame = frame.f_back
    for _ in range(2):
        if frame is None:
            return False
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return True
        frame = frame.f_back
    return False


def _mark_positive(quantized: Quantized, x: Tensor) -> None:  # x: [n], no element negative
    """Gives the positive elements whose code is zero a negative code, of which such a tensor has no other."""
    positive = x > 0
    if quantized.format != "int4":
        codes = quantized.codes.view(torch.uint8)
        codes.masked_fill_(positive & (codes == 0), 0x80 if quantized.format == "int8" else 0x81)
        return
    codes = quantized.codes  # two to a byte, the first one low
    pairs = torch.nn.functional.pad(positive, (0, x.numel() % 2)).view(-1, 2)
    low, high = pairs[:, 0] & ((codes & 0x0F) == 0), pairs[:, 1] & ((codes & 0xF0) == 0)
    codes |= low.to(torch.uint8) << 3 | high.to(torch.uint8) << 7
