"""Several processes, started by torchrun: each takes batches of its own, gradients are averaged before the step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

BUCKET_BYTES = 64 << 20


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gathered(self, mine: list) -> list:
        """The lists of all ranks behind one another, the same on every rank."""
        if self.count == 1:
            return mine
        everyone: list = [None] * self.count
        dist.all_gather_object(everyone, mine)
        return [entry for theirs in everyone for entry in theirs]

    def barrier(self) -> None:
        if self.count > 1:
            dist.barrier()

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[Parameter]) -> None:
        """A rank on which a parameter got no gradient counts as zeros, if another has one."""
        if self.count == 1:
            return
        parameters = [p for p in parameters if p.requires_grad]
        there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        there = there.to(parameters[0].device)
        dist.all_reduce(there, dist.ReduceOp.MAX)
        used = [p for p, flag in zip(parameters, there.tolist(), strict=True) if flag]
        gradients = []
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            gradients.append(p.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([grad.flatten().float() for grad in bucket])
            dist.all_reduce(flat)
            flat /= self.count
            for grad, part in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
                grad.copy_(part.view_as(grad))

    @torch.no_grad()
    def share_weights(self, tensors: Iterable[Tensor]) -> None:
        """Those of the first rank for all."""
        if self.count > 1:
            for t in tensors:
                dist.broadcast(t.data, 0)


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for grad in gradients:
        bucket.append(grad)
        size += 4 * grad.numel()
        if size >= BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


@contextmanager
def joined() -> Iterator[Ranks]:
    """The group that torchrun's environment names; one rank without it."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
