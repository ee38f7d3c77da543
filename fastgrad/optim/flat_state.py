"""State dicts as tensors by name and text, for formats that hold nothing else (safetensors)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastgrad.optim.payload import is_sharded

_KEY = "fastgrad.state_dict"


def flatten_state_dict(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Takes a state_dict apart: its tensors by the path to them ("state.0.exp_avg"), and all else as text.

        tensors, metadata = fastgrad.optim.flatten_state_dict(optimizer.state_dict())
        safetensors.torch.save_file(tensors, "optimizer.safetensors", metadata)

    Gives tensors of any type and shape, contiguous (views where they can be), and a dict of strings, from which
    :func:`unflatten_state_dict` makes an equal state_dict. TypeError for what is neither a tensor, a number, text,
    None, nor a dict, list or tuple of such; and for DTensors (torch.distributed.checkpoint takes those).
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_taken_apart(state, "", tensors))
    return tensors, {"format": "pt", _KEY: text}


def unflatten_state_dict(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """The state_dict that :func:`flatten_state_dict` took apart; its tensors are those given.

        with safetensors.safe_open("optimizer.safetensors", "pt") as file:
            tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
        optimizer.load_state_dict(fastgrad.optim.unflatten_state_dict(tensors, metadata))

    ValueError where the text or a tensor that it names is missing.
    """
    if metadata is None or _KEY not in metadata:
        raise ValueError(f"metadata: expected {_KEY!r}, as of fastgrad.optim.flatten_state_dict, got {metadata}")
    return _put_together(json.loads(metadata[_KEY]), tensors)


def _taken_apart(value: object, path: str, tensors: dict[str, Tensor]) -> object:
    if isinstance(value, Tensor):
        if is_sharded(value):
            raise TypeError(f"{path}: expected a plain tensor, got a DTensor; torch.distributed.checkpoint saves those")
        if path in tensors:
            raise ValueError(f"{path}: two tensors have this path; expected keys without dots")
        tensors[path] = value.detach().contiguous()
        return {"tensor": path}
    inner = f"{path}." if path else ""
    if isinstance(value, Mapping):
        # Keys of any type: torch's are numbers.
        return {"dict": [[_plain(key, path), _taken_apart(v, f"{inner}{key}", tensors)] for key, v in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_taken_apart(v, f"{inner}{i}", tensors) for i, v in enumerate(value)]}
    return _plain(value, path)


def _plain(value: object, path: str) -> object:
    if value is not None and type(value) not in (bool, int, float, str):
        got = type(value).__name__
        raise TypeError(f"{path}: expected a tensor, number, text, None, dict, list or tuple, got {got}")
    return value


def _put_together(value: object, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        if content not in tensors:
            raise ValueError(f"tensors: lack {content!r}, which the metadata names")
        return tensors[content]
    if kind == "dict":
        return {key: _put_together(v, tensors) for key, v in content}
    return (tuple if kind == "tuple" else list)(_put_together(v, tensors) for v in content)
