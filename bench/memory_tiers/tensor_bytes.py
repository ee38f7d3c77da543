"""Bytes of tensors, counted from their storages: every storage once, those inside tensor subclasses included."""

from __future__ import annotations

import contextlib
import gc
import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor


def plain(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors with storage of their own that make up ``tensor``: itself, or what a subclass holds."""
    if type(tensor) is not nn.Parameter and hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from plain(getattr(tensor, name))
    else:
        yield tensor


def tensors_in(held: object) -> Iterator[Tensor]:
    """All tensors in nested dicts, lists and tuples, an optimizer's state for one."""
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, dict):
        for value in held.values():
            yield from tensors_in(value)
    elif isinstance(held, list | tuple | set):
        for value in held:
            yield from tensors_in(value)


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Address -> bytes of every storage of the tensors."""
    found = {}
    for tensor in tensors:
        for part in plain(tensor):
            if not part.is_meta:
                storage = part.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    found.pop(0, None)
    return found


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes that the tensors occupy, shared storages once."""
    return sum(storages(tensors).values())


def elsewhere(known: Iterable[dict[int, int]]) -> int:
    """Bytes of the tensors alive in this process that are in none of ``known``."""
    everything: dict[int, int] = {}
    for held in gc.get_objects():
        if issubclass(type(held), Tensor) and not isinstance(held, FakeTensor):
            with contextlib.suppress(RuntimeError):  # a compiler's stand-ins have no memory to point at
                everything |= storages([held])
    for part in known:
        for address in part:
            everything.pop(address, None)
    return sum(everything.values())


def digest(held: object) -> str:
    """SHA-256 of the bits of all tensors in ``held``, in their order."""
    state = hashlib.sha256()
    for tensor in tensors_in(held):
        for part in plain(tensor):
            state.update(str((part.dtype, tuple(part.shape))).encode())
            state.update(part.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()
