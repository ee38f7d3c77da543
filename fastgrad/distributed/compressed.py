"""Gradients of DistributedDataParallel that travel in few bits: stochastically rounded, the shrinkage measured."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from fastgrad import shrinkage
from fastgrad.distributed.messages import UNSCALED, Layout
from fastgrad.ops import checks
from fastgrad.ops.quantize import Quantized, dequantize, quantize
from fastgrad.ops.sweeps import BLOCKS, FORMATS, ROUNDINGS
from fastgrad.reference.philox import DEFAULT_SEED, PARAMETER_RANGE, SLOT_RANGE, STEP_RANGE

_NONFINITE, _SUMS = 5, slice(8, 11)  # columns of the table


def compress_gradients(
    model: DistributedDataParallel,
    format: str = "int8",
    *,
    rounding: str = "stochastic",
    block: int = 128,
    error_feedback: bool = False,
    seed: int = DEFAULT_SEED,
) -> CompressedGradients:
    """From now on the ranks of a DistributedDataParallel model exchange their gradients in ``format``.

        model = DistributedDataParallel(model)
        compressed = fastgrad.distributed.compress_gradients(model, "int8")
        ...backward, optimizer.step()...
        compressed.latest()["q"]

    Every rank rounds its gradients and sends each other rank its part of them (all-to-all); that rank adds the parts up
    in float32, in the order of the ranks, rounds the mean and sends it to all (all-gather):

        sent_r = Q(g_r),   mean = Q(sum_r sent_r / R),   E[mean] = sum_r g_r / R

    All ranks decode the same codes: they have equal bits afterwards. The noise belongs to (seed, step, bucket, part,
    rank): a run repeats bit for bit, and the ranks' errors are independent of each other.

    Bytes that a rank sends for each parameter, times (R - 1)/R: 8 for float32 (ring all-reduce); 4 for bf16 and fp16;
    2 + 8/block for fp8 and int8; 1 + 8/block for int4 and fp4.

    rounding: of what the ranks send, ``stochastic`` (unbiased) or ``nearest``; means are rounded stochastically always.
    block: consecutive elements of a bucket that share a float32 scale (not with bf16 and fp16, which need none).
    error_feedback: each rank adds what it rounded away to its next gradient (Seide et al., Interspeech 2014), with
        ``nearest`` rounding above all: 4 more bytes for each parameter on each rank. With stochastic rounding the mean
        over steps is right without it.

    A NaN or infinity of a rank makes the part of the bucket that it lies in NaN on all ranks, so that a GradScaler or
    ``nonfinite="skip"`` sees it. Gradients are exchanged once a step; under ``no_sync()`` they are not, as usual.

    Errors: TypeError, ValueError naming the argument; when a rank dies the others end with the error of their process
    group.
    """
    return CompressedGradients(model, format, rounding, block, error_feedback, seed)


@dataclass
class _Bucket:
    """One bucket on its way."""

    index: int
    values: Tensor  # [n], the bucket's own memory
    layout: Layout
    future: Future
    sent: Tensor  # float64 [4]: n and sums of what this rank sends
    received: Tensor  # uint8 [ranks, length]
    works: list = field(default_factory=list)  # collectives under way
    kept: list = field(default_factory=list)  # memory that they read
    gathered: Tensor | None = None  # uint8 [ranks, length]


class CompressedGradients:
    """What :func:`compress_gradients` returns: the hook of a model, its measurements, and the state that resumes."""

    def __init__(
        self,
        model: DistributedDataParallel,
        format: str,
        rounding: str,
        block: int,
        error_feedback: bool,
        seed: int,
    ) -> None:
        if not isinstance(model, DistributedDataParallel):
            raise TypeError(f"model: expected a DistributedDataParallel, got {checks.type_name(model)}")
        checks.one_of("format", format, [f for f in FORMATS if f != "fp32"])
        checks.one_of("rounding", rounding, ROUNDINGS)
        checks.one_of("block", block, BLOCKS)
        checks.noise(seed, 0, 0, None, 0)
        self.format, self.rounding, self.seed = format, rounding, seed
        self.block = 0 if format in UNSCALED else block
        self.error_feedback = error_feedback
        self.group = model.process_group
        self.rank, self.ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
        if 2 * self.ranks > SLOT_RANGE:
            raise ValueError(f"model: expected at most {SLOT_RANGE // 2} ranks, got {self.ranks}")
        self.step = 0
        self._names = {id(p): name for name, p in model.module.named_parameters()}
        self._errors: dict[str, Tensor] = {}  # of each parameter, float32 [its elements]
        self._under_way: list[_Bucket] = []
        self._headers: list[Tensor] = []  # of this step
        self._bytes = 0
        self._latest: tuple[int, list[Tensor], int] | None = None
        # DDP compares annotations with types; those of a method are strings here.
        model.register_comm_hook(self, lambda self, bucket: self._hook(bucket))

    # Reading

    def latest(self) -> dict[str, float]:
        """Of the last exchange, over all buckets and ranks; {} before the first.

        step; q, norm_ratio, cosine, noise_variance (:mod:`fastgrad.shrinkage`) of what the ranks sent against their
        gradients; q_mean, the projection of the rounded mean on the mean; bytes_sent by this rank, and bytes_float32,
        what a ring all-reduce of float32 would have sent. The same numbers on all ranks.
        """
        if self._latest is None:
            return {}
        step, headers, sent = self._latest
        total = torch.stack([h.cpu() for h in headers]).sum(dim=(0, 1))
        n, yy, yq, qq, mean_n, mean_yy, mean_yq, _ = total
        return {
            "step": step,
            "q": float(shrinkage.projection(yy, yq)),
            "norm_ratio": float(shrinkage.norm_ratio(yy, qq)),
            "cosine": float(shrinkage.cosine(yy, yq, qq)),
            "noise_variance": float(shrinkage.noise_variance(n, yy, yq, qq)),
            "q_mean": float(shrinkage.projection(mean_yy, mean_yq)),
            "bytes_sent": sent,
            "bytes_float32": 8 * float(mean_n) * (self.ranks - 1) / self.ranks,
        }

    # State that resumes

    def state_dict(self) -> dict:
        """Of this rank: the step of the noise, and what was rounded away and is not sent yet."""
        return {
            "format": self.format,
            "rounding": self.rounding,
            "block": self.block,
            "ranks": self.ranks,
            "step": self.step,
            "errors": {name: error.clone() for name, error in self._errors.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Continues with the bits of the uninterrupted run, where the buckets are those that it had.

        Errors: ValueError where it was saved with other options or on another number of ranks; nothing changes then.
        """
        for name in ("format", "rounding", "block", "ranks"):
            if state[name] != getattr(self, name):
                raise ValueError(f"state_dict: expected {name} {getattr(self, name)}, got {state[name]}")
        unknown = state["errors"].keys() - set(self._names.values())
        if unknown:
            raise ValueError(f"state_dict: errors of {', '.join(sorted(unknown))}, which the model does not have")
        self.step = state["step"]
        self._errors = {name: error.clone() for name, error in state["errors"].items()}

    def __repr__(self) -> str:
        scale = f", scale per {self.block}" if self.block else ""
        feedback = ", error feedback" if self.error_feedback else ""
        return f"CompressedGradients({self.format}, {self.rounding}{scale}{feedback}, {self.ranks} ranks)"

    # The exchange

    @torch.no_grad()
    def _hook(self, bucket: dist.GradBucket) -> Future[Tensor]:
        """Called by DDP in the order of the buckets, on all ranks alike.

        While bucket i is being sent, bucket i - 1, which arrived meanwhile, is added up and sent on. All collectives
        are started here and not when others end: so their order is the same on all ranks, which gloo needs.
        """
        if bucket.index() == 0:  # what an error in the middle of a backward left
            self._under_way, self._headers = [], []
        sent = self._send(bucket)
        for earlier in self._under_way:
            self._send_mean(earlier)
        self._under_way.append(sent)
        if bucket.is_last():
            self._send_mean(sent)
            self._finish()
        return sent.future

    def _send(self, bucket: dist.GradBucket) -> _Bucket:
        values, index = bucket.buffer(), bucket.index()
        layout = Layout(values.numel(), self.ranks, self.format, self.block)
        if (index + 1) * self.ranks > PARAMETER_RANGE:
            raise RuntimeError(f"compress_gradients: expected at most {PARAMETER_RANGE // self.ranks} buckets")
        if self.error_feedback:
            self._add_errors(bucket)
        messages = layout.empty(values.device)
        stored = [layout.stored(messages[r], r) for r in range(self.ranks)]
        table = self._round(layout.parts(values), stored, self.rounding, index, list(range(self.ranks)), 2 * self.rank)
        if self.error_feedback:
            errors = torch.empty_like(values, dtype=torch.float32)
            dequantize(stored, out=layout.parts(errors))
            torch.sub(values, errors, out=errors)
            self._keep_errors(bucket, errors)
        self._mark_nonfinite(stored, table)
        received = torch.empty_like(messages)
        future: Future[Tensor] = Future(devices=[values.device] if values.is_cuda else None)
        made = _Bucket(index, values, layout, future, _measured(table), received, kept=[messages])
        made.works = [dist.all_to_all_single(received, messages, group=self.group, async_op=True)]
        return made

    def _send_mean(self, b: _Bucket) -> None:
        """Adds up this rank's part of a bucket and sends the mean to all; does nothing where that was done."""
        if b.gathered is not None:
            return
        self._wait(b)
        layout, device = b.layout, b.values.device
        first, end = layout.bounds(self.rank)
        total = torch.zeros(end - first, dtype=torch.float32, device=device)
        part = torch.empty_like(total)
        for message in b.received:
            self._decode([layout.stored(message, self.rank)], [part])
            total += part
        total /= self.ranks
        message = torch.empty_like(b.received[0])
        stored = layout.stored(message, self.rank)
        table = self._round([total], [stored], "stochastic", b.index, [self.rank], 2 * self.rank + 1)
        self._mark_nonfinite([stored], table)
        layout.header(message).copy_(torch.cat([b.sent, _measured(table)]))
        b.gathered = torch.empty_like(b.received)
        b.kept = [message]
        b.works = [dist.all_gather_into_tensor(b.gathered.view(-1), message, group=self.group, async_op=True)]

    def _finish(self) -> None:
        """The means of all buckets into their memory; the step is over."""
        self._bytes = 0
        for b in self._under_way:
            self._wait(b)
            assert b.gathered is not None, "means are sent before a step is over"
            stored = [b.layout.stored(message, r) for r, message in enumerate(b.gathered)]
            self._decode(stored, b.layout.parts(b.values))
            self._headers.append(b.layout.header(b.gathered).clone())
            self._bytes += 2 * (self.ranks - 1) * b.layout.length
            b.future.set_result(b.values)
        self._latest = self.step, self._headers, self._bytes
        self._under_way, self._headers = [], []
        self.step = (self.step + 1) % STEP_RANGE

    def _round(
        self, parts: list[Tensor], stored: list[Quantized], rounding: str, index: int, numbers: list[int], slot: int
    ) -> Tensor:
        """Rounds parts of a bucket into messages."""
        _, table = quantize(
            parts,
            self.format,
            rounding=rounding,
            scale="block" if self.block else "none",
            block=self.block or 128,
            seed=self.seed,
            step=self.step,
            slot=slot,
            purpose="communication",
            ids=[index * self.ranks + number for number in numbers],
            moments=True,
            out=stored,
        )
        return table

    def _mark_nonfinite(self, stored: list[Quantized], table: Tensor) -> None:
        """Parts with a NaN or infinity travel with a scale that is NaN; bf16 and fp16 have both themselves."""
        if self.block:
            for q, count in zip(stored, table[:-1, _NONFINITE], strict=True):
                q.scale[:1].mul_(torch.where(count > 0, torch.nan, 1.0))

    def _decode(self, stored: list[Quantized], out: list[Tensor]) -> None:
        dequantize(stored, out=out)
        for q, values in zip(stored, out, strict=True) if self.block else ():
            marked = q.scale[:1].isnan()
            if values.is_cuda:  # without asking the device
                values.mul_(torch.where(marked, torch.nan, 1.0))
            elif bool(marked.any()):
                values.fill_(torch.nan)

    @staticmethod
    def _wait(b: _Bucket) -> None:
        for work in b.works:
            work.wait()
        b.works = []

    # Error feedback

    def _add_errors(self, bucket: dist.GradBucket) -> None:
        """Adds to the bucket what earlier steps rounded away."""
        for p, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            error = self._errors.get(self._names[id(p)])
            if error is not None:
                gradient.add_(error.view_as(gradient))

    def _keep_errors(self, bucket: dist.GradBucket, errors: Tensor) -> None:
        # An error is not worth keeping where there is none to be added to, and a NaN would stay for ever.
        errors.nan_to_num_(0.0, 0.0, 0.0)
        begin = bucket.buffer().storage_offset()
        for p, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            at = gradient.storage_offset() - begin
            self._errors[self._names[id(p)]] = errors[at : at + gradient.numel()]


def _measured(table: Tensor) -> Tensor:  # [T + 1, 16] -> float64 [4]: n and the sums of the list
    return torch.cat([table[-1, :1], table[-1, _SUMS]])
