"""A saved state_dict is looked through before anything of it is taken: an error changes nothing."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import Parameter

from fastgrad.optim.payload import is_sharded, payload_of
from fastgrad.optim.treatment import Progress, parameter_names

if TYPE_CHECKING:
    from fastgrad.optim.fused import FusedOptimizer


def checked_states(optimizer: FusedOptimizer, saved: dict, groups: list[dict], extra: dict | None) -> dict:
    """Copies of the saved states on the parameters' devices, by parameter, each found to be what the optimizer keeps.

    saved: the ``state`` of a state_dict; groups: its ``param_groups``, ``extra`` what their first had of ours.
    """
    _check_groups(optimizer, groups)
    if extra is not None:
        Progress.check(extra)
        _check_format(optimizer, extra)
    own = [p for group in optimizer.param_groups for p in group["params"]]
    keys = [key for group in groups for key in group["params"]]
    foreign = [key for key in saved if key not in keys]
    if foreign:
        raise ValueError(f"state_dict: has a state {foreign[0]!r}, which is in none of its groups")
    loaded = [
        {**group, **new} for group, new in zip(optimizer.param_groups, groups, strict=True) for _ in group["params"]
    ]
    states: dict[Parameter, dict] = {}
    for name, p, key, group in zip(parameter_names(optimizer.param_groups), own, keys, loaded, strict=True):
        if key not in saved:
            continue
        state = optimizer._accepted_state(name, p, {k: v for k, v in saved[key].items() if v is not None}, group)
        expected = optimizer._new_state(p, payload_of(p), group)
        _check_state(name, state, expected)
        states[p] = {k: _copied(v, expected.get(k)) for k, v in state.items()}
    return states


def _check_groups(optimizer: FusedOptimizer, groups: list[dict]) -> None:
    sizes, expected = ([len(group["params"]) for group in some] for some in (groups, optimizer.param_groups))
    if sum(sizes) != sum(expected):
        raise ValueError(f"state_dict: expected {sum(expected)} parameters, got {sum(sizes)}")
    if sizes != expected:
        raise ValueError(f"state_dict: expected groups of {expected} parameters, got {sizes}")
    for g, group in enumerate(groups):
        missing = [name for name in optimizer.group_options if name not in group]
        if missing:
            raise ValueError(f"state_dict: param_groups[{g}] lacks {', '.join(missing)}")
        optimizer._check_group(f"state_dict: param_groups[{g}]", group)


def _check_format(optimizer: FusedOptimizer, extra: dict) -> None:
    for name, value in optimizer._format().items():
        if extra.get(name, value) != value:
            raise ValueError(f"state_dict: expected {name} {value!r}, as this optimizer's, got {extra[name]!r}")


def _check_state(name: str, state: dict[str, Any], expected: dict[str, Tensor]) -> None:
    for key, value in expected.items():
        if key not in state:
            raise ValueError(f"state_dict: {name} lacks {key!r}; expected {', '.join(expected)}")
        got = state[key]
        if not isinstance(got, Tensor):
            raise TypeError(f"state_dict: {key} of {name}: expected a tensor, got {type(got).__name__}")
        if tuple(got.shape) != tuple(value.shape) or got.dtype != value.dtype:
            raise ValueError(
                f"state_dict: {key} of {name}: expected {value.dtype} {list(value.shape)}, got {got.dtype} "
                f"{list(got.shape)}"
            )
    unknown = [key for key, value in state.items() if key not in expected and isinstance(value, Tensor)]
    if unknown:
        raise ValueError(f"state_dict: {name} has {', '.join(unknown)}; expected {', '.join(expected) or 'nothing'}")


def _copied(value: Any, into: Tensor | None) -> Any:
    """A value of a state in the memory, of the layout, and on the ranks that the optimizer's own would have."""
    if into is None:
        return deepcopy(value)
    if is_sharded(into) and not is_sharded(value):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(into.device), into.device_mesh, into.placements)
    return into.copy_(value.detach())
