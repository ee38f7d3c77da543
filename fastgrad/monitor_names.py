"""Which layer a Parameter is, for ``fastgrad.Monitor``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch.nn import Parameter
from torch.utils.weak import WeakTensorKeyDictionary

from fastgrad.ops import checks

ALL = "(all)"  # the layer name of the list row


class LayerNames:
    """Names of Parameters by identity, and their order in the model.

    First ``named_parameters``; a tied parameter keeps its first name. Then what ``source.param_groups`` (if
    it has them) holds besides: under the group's ``param_names``, or "param<i>" with i the count of names
    before it. Parameters that appear later get the next "param<i>". Parameters are held weakly.
    """

    def __init__(
        self,
        source: Any,
        named_parameters: Iterable[tuple[str, Parameter]] | Mapping[str, Parameter] | None,
    ):
        self._place: dict[str, int] = {}  # name -> place in the model
        self._name: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        for name, param in _pairs(named_parameters):
            if param in self._name:
                continue
            if name in self._place or name == ALL:
                raise ValueError(
                    f"Monitor: named_parameters must have distinct names, none of them {ALL}, got {name!r}"
                )
            self._add(name, param)
        for group in getattr(source, "param_groups", ()):
            names = group.get("param_names") or [None] * len(group["params"])
            for name, param in zip(names, group["params"], strict=True):
                self.of(param, name)
        self.trainable = sum(param.requires_grad for param in self._name)  # layers to expect

    def of(self, param: Parameter, wish: str | None = None) -> str:
        """The name of ``param``; a new one gets ``wish`` or "param<i>", made distinct by primes."""
        name = self._name.get(param)
        if name is None:
            name = wish or f"param{len(self._place)}"
            while name in self._place or name == ALL:
                name += "'"
            self._add(name, param)
        return name

    def sort(self, names: Iterable[str]) -> list[str]:
        """In the order of the model; unknown names (of a loaded state) last, in the order given."""
        return sorted(names, key=lambda name: self._place.get(name, len(self._place)))

    def _add(self, name: str, param: Parameter) -> None:
        self._place[name] = len(self._place)
        self._name[param] = name


def _pairs(named_parameters: Any) -> list[tuple[str, Parameter]]:
    if named_parameters is None:
        return []
    items = named_parameters.items() if isinstance(named_parameters, Mapping) else named_parameters
    try:
        return [(name, param) for name, param in items]
    except (TypeError, ValueError) as error:
        raise TypeError(
            "Monitor: named_parameters must be pairs (name, Parameter), as model.named_parameters() gives, "
            f"got {checks.type_name(named_parameters)}"
        ) from error
