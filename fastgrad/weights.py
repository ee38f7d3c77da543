"""Weights that are kept as int8 codes with scales of blocks, and computed with layer by layer."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fastgrad.ops import quantize as _  # noqa: F401  (declares the op)
from fastgrad.ops.sweeps import BLOCKS, DTYPES

__all__ = ["Int8Weight", "dense_state_dict", "quantize_weights_"]

_CUTS = {torch.chunk, torch.split, torch.tensor_split, Tensor.chunk, Tensor.split, Tensor.narrow, torch.narrow}
_NOT_SHARDED = (
    "int8 weights cannot be sharded over ranks: their codes and scales are not gathered with them. Expected "
    "fully_shard without quantize_weights_ (bfloat16 weights and optim.AdamW states of few bits are sharded), or int8 "
    "weights whole on every rank"
)
_NOT_WRITTEN = "an int8 weight is written by fastgrad.optim.AdamW and, whole, by copy_ only"
HEADROOM = 120.0  # of 127 codes: a weight may grow a little before its block's scale has to follow


class Int8Weight(Tensor):
    """A weight ``codes * scale``: int8 codes [R, C] and float32 scales [R, C / block], of a float type to the outside.

    It is what :func:`fastgrad.quantize_weights_` puts in the place of a weight. Linear layers and embeddings multiply
    with it; other ops see a dense copy. Gradients are those of the dense weight; :class:`fastgrad.optim.AdamW` updates
    codes and scales in place (docs/numerics.md, section 12).
    """

    codes: Tensor
    scales: Tensor

    @staticmethod
    def __new__(cls, codes: Tensor, scales: Tensor, dtype: torch.dtype, requires_grad: bool = False) -> Int8Weight:
        return Tensor._make_wrapper_subclass(
            cls, codes.shape, dtype=dtype, device=codes.device, requires_grad=requires_grad
        )

    def __init__(self, codes: Tensor, scales: Tensor, dtype: torch.dtype, requires_grad: bool = False) -> None:
        if codes.dtype != torch.int8 or codes.dim() != 2:
            raise TypeError(f"codes: expected int8 of two dimensions, got {codes.dtype} {list(codes.shape)}")
        if scales.dtype != torch.float32 or scales.dim() != 2 or scales.shape[0] != codes.shape[0]:
            raise TypeError(
                f"scales: expected float32 [{codes.shape[0]}, blocks], got {scales.dtype} {list(scales.shape)}"
            )
        self.codes, self.scales = codes, scales

    @property
    def block(self) -> int:
        """Elements of one scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    @classmethod
    def from_dense(cls, weight: Tensor, block: int = 128) -> Int8Weight:
        """Rounds to nearest, with the largest block up to ``block`` that divides the rows."""
        if weight.dtype not in DTYPES:
            raise TypeError(f"weight: expected float32, bfloat16 or float16, got {weight.dtype}")
        size = block_for(weight, block)
        if not size:
            raise ValueError(
                f"weight: expected two dimensions and rows of whole multiples of 16 elements, got {list(weight.shape)}"
            )
        dense = weight.detach().contiguous()
        low, high = torch.aminmax(dense.view(dense.shape[0], -1, size), dim=2)
        absmax = torch.maximum(high, -low).to(torch.float32)
        if not bool(torch.isfinite(absmax).all()):
            raise ValueError("weight: expected finite numbers, int8 codes have no NaN")
        s = torch.where(absmax == 0, torch.ones_like(absmax), (absmax / HEADROOM).clamp(min=2.0**-126))
        nearest = ("int8", "nearest", "block", size, False, [s], 0, 0, 0, "weight", None, False)
        codes = torch.ops.fastgrad.quantize([dense], *nearest)[0][0]
        return cls(codes.view(weight.shape), s, weight.dtype)

    def dense(self, rows: slice | None = None) -> Tensor:
        """The numbers, rounded to nearest in the outer type; of some rows only."""
        codes, s = (self.codes, self.scales) if rows is None else (self.codes[rows], self.scales[rows])
        return _dense(codes, s, self.dtype)

    def __repr__(self) -> str:  # type: ignore[override]  # tensor_contents is between torch and itself
        return f"Int8Weight({list(self.shape)}, dtype={self.dtype}, block={self.block})"

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # torch's own way for such tensors refuses a map_location that is a function.
        made_of = (self.codes, self.scales, self.dtype, self.requires_grad, isinstance(self, nn.Parameter))
        return _rebuild, made_of

    def __tensor_flatten__(self) -> tuple[list[str], torch.dtype]:
        return ["codes", "scales"], self.dtype

    @classmethod
    def __tensor_unflatten__(cls, inner: dict, dtype: torch.dtype, size: object, stride: object) -> Int8Weight:
        return cls(inner["codes"], inner["scales"], dtype)

    @classmethod
    def __torch_function__(
        cls, function: Callable, types: Iterable, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # fully_shard and distribute_tensor cut a weight so, and would silently go on with a dense copy of it.
        if function in _CUTS and sys._getframe(1).f_globals.get("__name__", "").startswith("torch.distributed"):
            raise NotImplementedError(_NOT_SHARDED)
        handler = _FUNCTIONS.get(function)
        if handler is not None:
            result = handler(*args, **kwargs)
            if result is not NotImplemented:
                return result
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares its stub as a static method
        cls, function: Any, types: Iterable, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        handler = _DISPATCHED.get(function)
        if handler is not None:
            return handler(function, *args, **kwargs)
        if function._schema.is_mutable:
            raise NotImplementedError(f"{function}: {_NOT_WRITTEN}")
        dense = torch.utils._pytree.tree_map_only(Int8Weight, Int8Weight.dense, (args, kwargs))
        return function(*dense[0], **dense[1])


def _dense(codes: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
    """codes * scale of contiguous rows."""
    if codes.numel() == 0:
        return codes.to(dtype)
    block = codes.numel() // s.numel()
    return torch.ops.fastgrad.dequantize([codes], [s], "int8", block, codes.shape, codes.stride(), [2], dtype)[0]


def _rebuild(codes: Tensor, s: Tensor, dtype: torch.dtype, requires_grad: bool, parameter: bool) -> Tensor:
    """From a file."""
    if parameter:
        return nn.Parameter(Int8Weight(codes, s, dtype), requires_grad)
    return Int8Weight(codes, s, dtype, requires_grad)


class _Linear(torch.autograd.Function):
    """y = x W^T + b. The dense weight lives during the product, in forward and in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Int8Weight, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.with_bias = bias is not None
        return F.linear(x, weight.dense(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight.dense().to(dy.dtype)
        flat = dy.reshape(-1, dy.shape[-1])
        if ctx.needs_input_grad[1]:
            dw = (flat.t() @ x.reshape(-1, x.shape[-1])).to(weight.dtype)
        if ctx.with_bias and ctx.needs_input_grad[2]:
            db = flat.sum(0)
        return dx, dw, db


class _Embedding(torch.autograd.Function):
    """Rows of the weight; only those that are looked up become dense."""

    @staticmethod
    def forward(ctx: Any, indices: Tensor, weight: Int8Weight, padding_index: int) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.shape, ctx.padding_index = weight.shape, padding_index
        flat = indices.reshape(-1)
        codes, s = weight.codes.index_select(0, flat), weight.scales.index_select(0, flat)
        return _dense(codes, s, weight.dtype).view(*indices.shape, weight.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple:
        (indices,) = ctx.saved_tensors
        dw = torch.ops.aten.embedding_dense_backward(dy, indices, ctx.shape[0], ctx.padding_index, False)
        return None, dw, None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if not isinstance(weight, Int8Weight):
        return NotImplemented
    if torch.is_autocast_enabled(input.device.type):
        input = input.to(torch.get_autocast_dtype(input.device.type))
    return _Linear.apply(input, weight, bias)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    if not isinstance(weight, Int8Weight):
        return NotImplemented
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise NotImplementedError("embedding: an int8 weight takes no max_norm, scale_grad_by_freq or sparse gradients")
    padding = -1 if padding_idx is None else padding_idx % weight.shape[0]
    return _Embedding.apply(input, weight, padding)


def _no_storage(weight: Tensor, *args: object) -> None:
    """What safetensors asks for."""
    raise RuntimeError(
        f"{weight!r} has no storage of its own, it is codes and scales, so safetensors cannot hold it. Export with "
        "fastgrad.weights.dense_state_dict(model), as in model.save_pretrained(folder, state_dict=...); torch.save "
        "keeps it exactly (accelerate: save_state(folder, safe_serialization=False))"
    )


def _refuse_item(weight: Tensor, *arguments: object) -> None:
    raise NotImplementedError(f"an element or slice of {_NOT_WRITTEN}")


def _set_data(weight: Int8Weight, value: Tensor) -> None:
    """``weight.data = value``."""
    if not isinstance(value, Int8Weight) or value.shape != weight.shape or value.dtype != weight.dtype:
        raise NotImplementedError(f".data of {_NOT_WRITTEN}; its type can be float32, bfloat16 or float16")
    weight.codes, weight.scales = value.codes, value.scales


def _share_memory(weight: Int8Weight) -> Int8Weight:
    weight.codes.share_memory_()
    weight.scales.share_memory_()
    return weight


_FUNCTIONS: dict[Callable, Callable] = {
    F.linear: _linear,
    F.embedding: _embedding,
    Tensor.storage: _no_storage,
    Tensor.__setitem__: _refuse_item,
    Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]  # a property to Python, a Tensor to type checkers
    Tensor.share_memory_: _share_memory,
    Tensor.is_shared: lambda weight: weight.codes.is_shared(),
}

aten = torch.ops.aten


def _each(function: Callable, weight: Int8Weight, *args: Any, **kwargs: Any) -> Tensor:
    """The same of codes and scales; a type only concerns the outside."""
    dtype = kwargs.get("dtype") or weight.dtype
    if dtype not in DTYPES:
        return function(weight.dense(), *args, **kwargs)
    kwargs.pop("dtype", None)
    codes, s = function(weight.codes, *args, **kwargs), function(weight.scales, *args, **kwargs)
    return Int8Weight(codes, s, dtype)


def _copy(function: Callable, target: Tensor, source: Any, non_blocking: bool = False) -> Tensor:
    if isinstance(target, Int8Weight) and isinstance(source, Int8Weight) and target.block == source.block:
        target.codes.copy_(source.codes)
        target.scales.copy_(source.scales)
        return target
    if isinstance(target, Int8Weight):
        return _copy(function, target, Int8Weight.from_dense(source.to(target.dtype), target.block))
    return function(target, source.dense(), non_blocking)


def _dense_like(function: Callable, weight: Int8Weight, *args: Any, **kwargs: Any) -> Tensor:
    """zeros_like and its kin: gradients of the weight are dense."""
    kwargs.setdefault("dtype", weight.dtype)
    return function(weight.codes, *args, **kwargs)


def _slice(
    function: Callable,
    weight: Int8Weight,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Tensor:
    """Of rows only those become dense."""
    if dim % 2 == 0 and step == 1:
        return weight.dense(slice(start, None if end is None or end >= weight.shape[0] else end))
    return function(weight.dense(), dim, start, end, step)


def _alias(function: Callable, weight: Int8Weight) -> Int8Weight:
    return Int8Weight(weight.codes, weight.scales, weight.dtype)


_DISPATCHED: dict[Callable, Callable] = {
    aten.detach.default: _alias,
    aten.alias.default: _alias,
    aten.clone.default: _each,
    aten._to_copy.default: _each,
    aten.copy_.default: _copy,
    aten.slice.Tensor: _slice,
    aten.empty_like.default: _dense_like,
    aten.zeros_like.default: _dense_like,
    aten.ones_like.default: _dense_like,
    aten.new_zeros.default: _dense_like,
}


def block_for(weight: Tensor, block: int) -> int:
    """The largest block up to `block` of which the rows of a matrix are whole multiples; 0 if there is none."""
    if block not in BLOCKS:
        raise ValueError(f"block: expected one of {', '.join(map(str, BLOCKS))}; got {block}")
    if weight.dim() != 2:
        return 0
    return next((b for b in sorted(BLOCKS, reverse=True) if b <= block and weight.shape[1] % b == 0), 0)


def quantize_weights_(
    model: nn.Module,
    format: str = "int8",
    *,
    block: int = 128,
    eligible: Callable[[str, nn.Module], bool] | None = None,
) -> list[str]:
    """Keeps the weights of linear layers and embeddings as int8 codes, in place; gives their names.

        w = codes * scale,  one float32 scale for up to ``block`` elements of a row: 1 + 4/block bytes per weight

    model: its ``nn.Linear`` and ``nn.Embedding`` layers are treated, of them those for which ``eligible(name, module)``
        holds. Rows must be whole multiples of 16 elements; layers with others stay as they are. Tied weights stay tied.
        The dense weight of one layer at a time exists, in forward and backward. A warning says why, if there is none
        to treat.
    format: ``"int8"``.

    Train with :class:`fastgrad.optim.AdamW`: the update is rounded stochastically into the codes, no float copy exists.
    """
    if format != "int8":
        raise ValueError(f"format: expected 'int8', got {format!r}")
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Embedding))]
    chosen = [
        (f"{name}.weight" if name else "weight", module)
        for name, module in layers
        if eligible is None or eligible(name, module)
    ]
    for name, module in chosen:
        if hasattr(module.weight, "to_local"):  # a DTensor
            raise NotImplementedError(f"{name}: {_NOT_SHARDED}")
    made: dict[int, nn.Parameter] = {}
    dense: list[Tensor] = []  # of tied weights none may be freed in between: its id would be used again
    names = []
    for name, module in chosen:
        weight = module.weight
        if isinstance(weight, Int8Weight) or not block_for(weight, block):
            continue
        if id(weight) not in made:
            quantized = Int8Weight.from_dense(weight, block)
            made[id(weight)] = nn.Parameter(quantized, requires_grad=weight.requires_grad)
            dense.append(weight)
        module.weight = made[id(weight)]
        names.append(name)
    # A model that is converted once more or module by module, its norms too, has nothing to be told.
    converted = any(isinstance(module.weight, Int8Weight) for name, module in layers)
    if not converted and (layers or any(model.children())):
        why = f"eligible chose none of its {len(layers)} linear layers and embeddings"
        if not layers:
            why = "it has no nn.Linear and no nn.Embedding"
        elif chosen:
            name, module = chosen[0]
            why = f"expected rows of whole multiples of 16 elements, got {name} {list(module.weight.shape)}"
        warnings.warn(f"quantize_weights_: the model has no weight in int8: {why}", stacklevel=2)
    return names


def dense_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """``model.state_dict()`` with plain tensors in the place of int8 weights, for safetensors and ``save_pretrained``.

        w = codes * scale, rounded to nearest in the outer type

    Tied weights share their dense copy, too. The copies take the memory of the model before
    :func:`fastgrad.quantize_weights_`. Loaded into quantized weights they are rounded again: what resumes a training
    bit for bit is ``torch.save(model.state_dict())``.
    """
    dense: dict[tuple, Tensor] = {}
    state = model.state_dict()
    for name, value in state.items():
        if isinstance(value, Int8Weight):
            key = (value.codes.data_ptr(), value.shape)
            if key not in dense:
                dense[key] = value.dense()
            state[name] = dense[key]
    return state


torch.serialization.add_safe_globals([Int8Weight, _rebuild])
