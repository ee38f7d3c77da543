"""The loss of a language model's head without its logits: they are made and used a piece at a time."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter

from fastgrad import library
from fastgrad.ops import checks

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx
    from typing_extensions import Unpack

    class _Context(FunctionCtx):
        saved_tensors: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]
        needs_input_grad: tuple[bool, ...]
        in_python: bool
        options: _Values

        def save_for_backward(self, *tensors: Tensor | None) -> None: ...


CHUNK_BYTES = 64 << 20
BACKENDS = ("auto", "chunked", "liger")
REDUCTIONS = ("mean", "sum", "none")
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_NARROWEST = 256  # columns of a piece of the logits: fewer would leave the matrix products waiting for memory


def linear_cross_entropy(
    hidden: Tensor,  # [..., H]
    weight: Tensor,  # [V, H]
    targets: Tensor,  # [...], int64
    *,
    bias: Tensor | None = None,  # [V]
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    backend: str = "auto",
) -> Tensor:  # [], or [...] for reduction "none"; float32 (float64 for float64)
    """``F.cross_entropy(softcap * tanh(logit_scale * F.linear(hidden, weight, bias) / softcap), targets)``, in pieces.

        z = logit_scale * (h W^T + b);   z <- c tanh(z / c)  with c = softcap, where given
        loss_n = logsumexp(z_n) - (1 - eps) z_n,t - eps/V sum_j z_n,j        eps = label_smoothing
        mean: sum of loss_n / number of targets that are not ignore_index;   sum;   none: one loss per target

    Semantics are those of ``F.cross_entropy``: ignored targets count 0 and get no gradient, a mean over none is NaN
    (its gradients are 0), a target outside [0, V) is an IndexError.

    The [N, V] logits never exist at once. Forward: the logits of a few hundred to some thousand words, for all
    tokens, enter a running log-sum-exp. Backward: the same pieces are made again, become softmax minus one-hot, and
    give their rows of the weight's gradient and their part of hidden's: a fourth matrix product where plain autograd
    makes three. Ignored tokens take part in none (this reads their number, so a CUDA graph cannot capture it).

    chunk_bytes: upper limit of the work space of both directions, in bytes. Beside it exist the weight's gradient
        [V, H], once, in the weight's dtype; and up to three [N, H] tensors in float32.

    Precision: bfloat16 and float16 operands with float32 products, sums and statistics (on the CPU they are widened
    piece by piece; ``torch.set_float32_matmul_precision("medium")`` lets oneDNN use its bfloat16 units for that).
    Under autocast the operands are rounded to its dtype, as ``F.linear`` does. float64 stays float64.

    weight: a tensor, or a subclass for which :func:`rows` gives slices: no more of it is asked for at a time.
    backend: ``chunked`` is this module's plain PyTorch; ``liger`` is Liger-Kernel's fused kernel (Triton; it holds the
        weight's gradient in float32), for plain CUDA tensors of one dtype with logit_scale 1 and no autocast;
        ``auto`` takes liger where those hold and it is installed, else chunked.

    Differentiable once in hidden, weight and bias. Works under ``torch.compile(fullgraph=True)``.

    Errors: TypeError, ValueError naming the argument.
    """
    checks.one_of("reduction", reduction, REDUCTIONS)
    checks.one_of("backend", backend, BACKENDS)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing: expected a number in [0, 1], got {label_smoothing}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap: expected a number > 0 or None, got {softcap}")
    checks.in_range("chunk_bytes", chunk_bytes, 1, 1 << 62)
    compute = _check(hidden, weight, targets, bias)
    flat, labels = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    why_not = "not asked for" if backend == "chunked" else _liger_unusable(hidden, weight, bias, logit_scale)
    if backend == "liger" and why_not:
        raise ValueError(f"backend: 'liger' cannot be used here: {why_not}")
    if not why_not and (hidden.is_cuda or backend == "liger"):
        loss = _liger(flat, weight, labels, bias, ignore_index, label_smoothing, softcap, reduction)
        return loss.view(targets.shape) if reduction == "none" else loss
    options: _Values = astuple(_Options(ignore_index, label_smoothing, logit_scale, softcap, compute, chunk_bytes))
    if _specialised(weight):
        losses = _in_python(flat, weight, bias, labels, options)
    else:
        losses = _LinearCrossEntropy.apply(flat, weight, bias, labels, False, options)
    if reduction == "none":
        return losses.view(targets.shape)
    total = losses.sum()
    return total / (labels != ignore_index).sum() if reduction == "mean" else total


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> torch.dtype:
    """The dtype that operands are rounded to before they are multiplied."""
    named = {"hidden": hidden, "weight": weight} | ({} if bias is None else {"bias": bias})
    for name, t in (named | {"targets": targets}).items():
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(t).__name__}")
        if t.device != hidden.device:
            raise ValueError(f"{name}: expected device {hidden.device}, got {t.device}")
    if hidden.dim() < 1 or weight.dim() != 2 or weight.shape[1] != hidden.shape[-1]:
        got = f"{list(weight.shape)} with hidden {list(hidden.shape)}"
        raise ValueError(f"weight: expected shape [V, H] with the H of hidden [..., H], got {got}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape {list(weight.shape[:1])}, got {list(bias.shape)}")
    if targets.dtype != torch.int64:
        raise TypeError(f"targets: expected int64 (class numbers), got {targets.dtype}")
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(f"targets: expected shape {list(hidden.shape[:-1])}, got {list(targets.shape)}")
    autocast = torch.is_autocast_enabled(hidden.device.type)
    for name, t in named.items():
        if t.dtype not in _FLOATS:
            raise TypeError(f"{name}: expected a floating-point tensor, got {t.dtype}")
        if not autocast and t.dtype != hidden.dtype:
            raise TypeError(f"{name}: expected the dtype of hidden, {hidden.dtype}, got {t.dtype}")
    if autocast and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(hidden.device.type)
    return hidden.dtype


# Pieces -----------------------------------------------------------------------------------------------------------


@functools.singledispatch
def rows(weight: Tensor, begin: int, end: int) -> Tensor:  # [end - begin, H]
    """Rows of the head's weight as a plain floating-point tensor.

    What a weight stored in another form registers for its class, so that never all of it is unpacked:
    ``rows.register(MyWeight)(lambda weight, begin, end: ...)``.
    """
    return weight[begin:end]


def _specialised(weight: Tensor) -> bool:
    return rows.dispatch(type(weight)) is not rows.dispatch(Tensor)


@dataclass(frozen=True)
class _Options:
    ignore_index: int
    label_smoothing: float
    logit_scale: float
    softcap: float | None
    compute: torch.dtype
    chunk_bytes: int


_Values = tuple[int, float, float, float | None, torch.dtype, int]  # of _Options, as an op takes them


def piece_sizes(tokens: int, words: int, features: int, itemsize: int, chunk_bytes: int) -> tuple[int, int]:
    """(tokens, words) of a piece, so that its work space fits:

        itemsize * (4 n c + 2 c H) <= chunk_bytes

    Four [n, c]: logits, a copy inside a function, the softcap's slope, operands in a narrower dtype. Two [c, H]: rows
    of the weight, their gradient. All tokens at once if that leaves pieces of 256 words.
    """
    room = max(chunk_bytes // itemsize, 1)
    n = max(tokens, 1)
    narrow = min(_NARROWEST, words)
    if narrow * (4 * n + 2 * features) > room:
        n = max(min(n, (room // narrow - 2 * features) // 4), 1)
    c = max(min(room // (4 * n + 2 * features), words), 1)
    return n, c - c % 64 if 64 < c < words else c


class _Head:
    """The logits of pieces, and products with them, in the accumulation dtype."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, options: _Options) -> None:
        self.weight, self.bias, self.options = weight, bias, options
        self.sums = torch.float64 if options.compute == torch.float64 else torch.float32
        # CUDA multiplies narrow operands into float32; elsewhere they are widened first, which gives the same products.
        native = hidden.is_cuda and hasattr(torch.ops.aten.mm, "dtype")
        self.operand = options.compute if native else self.sums
        self.hidden = hidden.to(options.compute).to(self.operand)
        self.tokens, self.words = hidden.shape[0], weight.shape[0]
        self.piece = piece_sizes(self.tokens, self.words, hidden.shape[1], self.sums.itemsize, options.chunk_bytes)

    def word_pieces(self) -> Iterator[tuple[int, int, Tensor, Tensor | None]]:
        """(begin, end, weight rows [c, H], bias [c])"""
        for begin in range(0, self.words, self.piece[1]):
            end = min(begin + self.piece[1], self.words)
            part = rows(self.weight, begin, end).to(self.options.compute).to(self.operand)
            some = None if self.bias is None else self.bias[begin:end].to(self.options.compute).to(self.sums)
            yield begin, end, part, some

    def token_pieces(self) -> Iterator[slice]:
        for begin in range(0, self.tokens, self.piece[0]):
            yield slice(begin, min(begin + self.piece[0], self.tokens))

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a @ b with sums in the accumulation dtype."""
        a, b = a.to(self.operand), b.to(self.operand)
        return a @ b if self.operand == self.sums else torch.mm(a, b, out_dtype=self.sums)

    def add_product(self, to: Tensor, a: Tensor, b: Tensor) -> None:
        """to += a @ b"""
        if self.operand == self.sums:
            to.addmm_(a, b)
        else:
            to += self.product(a, b)

    def room_for(self, gradient: Tensor | None, begin: int, end: int) -> Tensor | None:
        """Zeros for a gradient's rows [begin, end): those rows themselves if they are of the accumulation dtype."""
        if gradient is None:
            return None
        part = gradient[begin:end]
        return (part if part.dtype == self.sums else torch.empty_like(part, dtype=self.sums)).zero_()

    def logits(self, tokens: slice, part: Tensor, bias: Tensor | None) -> Tensor:  # [n, c], new memory
        z = self.product(self.hidden[tokens], part.t())
        if bias is not None:
            z += bias
        if self.options.logit_scale != 1.0:
            z *= self.options.logit_scale
        if self.options.softcap is not None:
            z = z.div_(self.options.softcap).tanh_().mul_(self.options.softcap)
        return z


def _places(targets: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Column of each target in words [begin, end) as [n, 1], and whether it is there."""
    inside = (targets >= begin) & (targets < end)
    return (targets - begin).clamp_(0, end - begin - 1).unsqueeze(1), inside.unsqueeze(1)


def _counted(targets: Tensor, ignore_index: int, words: int) -> Tensor | None:
    """Places of the targets that are not ignored; None where all count."""
    kept = targets != ignore_index
    wrong = kept & ((targets < 0) | (targets >= words))
    if bool(wrong.any()):
        raise IndexError(f"targets: expected class numbers in [0, {words}), got {int(targets[wrong][0])}")
    return None if bool(kept.all()) else kept.nonzero().flatten()


def _forward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, options: _Options
) -> tuple[Tensor, Tensor]:
    """Losses and log-sum-exps (float64) of all tokens, [N] each; 0 where ignored."""
    kept = _counted(targets, options.ignore_index, weight.shape[0])
    head = _Head(hidden if kept is None else hidden[kept], weight, bias, options)
    labels = targets if kept is None else targets[kept]
    # float64: these sums run over hundreds of pieces, the logits of one are summed inside logsumexp.
    total = torch.full((head.tokens,), -torch.inf, dtype=torch.float64, device=hidden.device)
    own, all_ = torch.zeros_like(total), torch.zeros_like(total)
    for begin, end, part, some in head.word_pieces():
        for tokens in head.token_pieces():
            z = head.logits(tokens, part, some)
            column, inside = _places(labels[tokens], begin, end)
            own[tokens] += torch.where(inside, z.gather(1, column), 0).squeeze(1)
            if options.label_smoothing:
                all_[tokens] += z.sum(1)
            total[tokens] = torch.logaddexp(total[tokens], torch.logsumexp(z, 1).double())
    eps = options.label_smoothing
    loss = total - (1 - eps) * own - (eps / head.words) * all_ if eps else total - own
    if kept is None:
        return loss.to(head.sums), total
    losses = torch.zeros(targets.shape, dtype=head.sums, device=hidden.device)
    log_sums = torch.zeros(targets.shape, dtype=torch.float64, device=hidden.device)
    losses[kept], log_sums[kept] = loss.to(head.sums), total
    return losses, log_sums


def _backward(
    gradient: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, log_sums: Tensor,
    options: _Options, needed: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of hidden, weight and bias where needed, from that of every token's loss [N]."""
    kept = _counted(targets, options.ignore_index, weight.shape[0])
    if kept is not None:
        gradient, targets, log_sums = gradient[kept], targets[kept], log_sums[kept]
    head = _Head(hidden if kept is None else hidden[kept], weight, bias, options)
    gradient = gradient.to(head.sums).unsqueeze(1) * options.logit_scale
    shift = log_sums.to(head.sums).unsqueeze(1)
    # softmax = exp(z - shift) * exp(shift - log_sums): what rounding the shift costs is given back.
    of_softmax = gradient * (shift - log_sums.unsqueeze(1)).exp_().to(head.sums)
    of_hidden = torch.zeros(head.hidden.shape, dtype=head.sums, device=hidden.device) if needed[0] else None
    of_weight = torch.empty(weight.shape, dtype=weight.dtype, device=hidden.device) if needed[1] else None
    of_bias = None
    if bias is not None and needed[2]:
        of_bias = torch.empty(bias.shape, dtype=bias.dtype, device=hidden.device)
    eps, cap = options.label_smoothing, options.softcap
    for begin, end, part, some in head.word_pieces():
        of_rows, of_some = head.room_for(of_weight, begin, end), head.room_for(of_bias, begin, end)
        for tokens in head.token_pieces():
            z = head.logits(tokens, part, some)
            slope = None if cap is None else (z / cap).square_().neg_().add_(1)
            z.sub_(shift[tokens]).exp_().mul_(of_softmax[tokens])
            if eps:
                z -= gradient[tokens] * (eps / head.words)
            column, inside = _places(targets[tokens], begin, end)
            z.scatter_add_(1, column, inside * (gradient[tokens] * (eps - 1.0)))
            if slope is not None:
                z *= slope
            if of_some is not None:
                of_some += z.sum(0)
            if of_hidden is not None:
                head.add_product(of_hidden[tokens], z, part)
            if of_rows is not None:
                head.add_product(of_rows, z.t(), head.hidden[tokens])
            del z, slope
        for gradient_of, some_of in ((of_weight, of_rows), (of_bias, of_some)):
            if gradient_of is not None and some_of is not None and gradient_of.dtype != head.sums:
                gradient_of[begin:end] = some_of
    if of_hidden is not None:
        of_hidden = of_hidden.to(hidden.dtype)
        if kept is not None:
            everywhere = torch.zeros(hidden.shape, dtype=hidden.dtype, device=hidden.device)
            of_hidden = everywhere.index_copy_(0, kept, of_hidden)
    return of_hidden, of_weight, of_bias


# Ops and their derivative -------------------------------------------------------------------------------------------


def _op_forward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *options: Unpack[_Values]
) -> tuple[Tensor, Tensor]:
    with torch.autocast(hidden.device.type, enabled=False):
        return _forward(hidden, weight, bias, targets, _Options(*options))


def _op_backward(
    gradient: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, log_sums: Tensor,
    needed: Sequence[bool], *options: Unpack[_Values],
) -> tuple[Tensor, ...]:  # fmt: skip
    with torch.autocast(hidden.device.type, enabled=False):
        made = _backward(gradient, hidden, weight, bias, targets, log_sums, _Options(*options), needed)
    return tuple(hidden.new_zeros(0) if t is None else t for t in made)


def _fake_forward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *options: Unpack[_Values]
) -> tuple[Tensor, ...]:
    sums = torch.float64 if options[4] == torch.float64 else torch.float32
    return tuple(torch.empty(targets.shape, dtype=dtype, device=hidden.device) for dtype in (sums, torch.float64))


def _fake_backward(
    gradient: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, log_sums: Tensor,
    needed: Sequence[bool], *options: Unpack[_Values],
) -> tuple[Tensor, ...]:  # fmt: skip
    return tuple(
        torch.empty(t.shape, dtype=t.dtype, device=t.device) if need and t is not None else hidden.new_empty(0)
        for t, need in zip((hidden, weight, bias), needed, strict=True)
    )


_OPTIONS = (
    "int ignore_index, float label_smoothing, float logit_scale, float? softcap, ScalarType compute, int chunk_bytes"
)
library.define(
    f"linear_cross_entropy(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, {_OPTIONS})"
    " -> (Tensor losses, Tensor log_sums)",
    reference=_op_forward,
    fake=_fake_forward,
)
library.define(
    "linear_cross_entropy_backward(Tensor gradient, Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, "
    f"Tensor log_sums, bool[] needed, {_OPTIONS}) -> (Tensor hidden, Tensor weight, Tensor bias)",
    reference=_op_backward,
    fake=_fake_backward,
)


class _LinearCrossEntropy(torch.autograd.Function):
    """One loss per token."""

    @staticmethod
    def forward(
        ctx: _Context,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        in_python: bool,
        options: _Values,
    ) -> Tensor:
        op = _op_forward if in_python else torch.ops.fastgrad.linear_cross_entropy
        losses, log_sums = op(hidden, weight, bias, targets, *options)
        ctx.save_for_backward(hidden, weight, bias, targets, log_sums)
        ctx.in_python, ctx.options = in_python, options
        return losses

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("linear_cross_entropy can be differentiated once; create_graph=True needs it twice")
        hidden, weight, bias, targets, log_sums = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[:3])
        op = _op_backward if ctx.in_python else torch.ops.fastgrad.linear_cross_entropy_backward
        made = op(gradient, hidden, weight, bias, targets, log_sums, needed, *ctx.options)
        return (*(t if need else None for t, need in zip(made, needed, strict=True)), None, None, None)


@torch.compiler.disable
def _in_python(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, options: _Values) -> Tensor:
    """For weights that only :func:`rows` understands: an op of the dispatcher would hand all of them to their class."""
    return _LinearCrossEntropy.apply(hidden, weight, bias, targets, True, options)


# Liger-Kernel -------------------------------------------------------------------------------------------------------


def _liger_unusable(hidden: Tensor, weight: Tensor, bias: Tensor | None, logit_scale: float) -> str:
    """Why Liger-Kernel's fused kernel cannot serve this call; empty if it can."""
    if _specialised(weight) or type(weight) not in (Tensor, Parameter):
        return f"the weight is a {type(weight).__name__}"
    if hidden.dtype == torch.float64:
        return "float64"
    if torch.is_autocast_enabled(hidden.device.type):
        return "autocast is on"
    if logit_scale != 1.0:
        return f"logit_scale is {logit_scale}"
    if not hidden.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"hidden is on {hidden.device}"
    if importlib.util.find_spec("liger_kernel") is None:
        return "liger-kernel is not installed"
    return ""


def _liger(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    softcap: float | None,
    reduction: str,
) -> Tensor:
    """[] or [N], float32."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    kept = _counted(targets, ignore_index, weight.shape[0])
    loss = liger_fused_linear_cross_entropy(
        hidden, weight, targets, bias=bias, ignore_index=ignore_index, label_smoothing=label_smoothing,
        softcap=softcap, reduction=reduction, accum_dtype=torch.float32,
    )  # fmt: skip
    if reduction == "mean" and (targets.numel() if kept is None else kept.numel()) == 0:
        return loss + torch.nan  # its mean over nothing is 0
    return loss
