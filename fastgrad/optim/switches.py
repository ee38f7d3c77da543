"""Switches of torch's optimizers that ours do not have."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")
_SWITCHES = {
    **dict.fromkeys(("fused", "foreach"), "the step is always one fused call"),
    "differentiable": "the step is not differentiable",
    "amsgrad": "no largest second moment is kept",
}


def refuse_switches(init: Callable[P, None]) -> Callable[P, None]:
    """Says more than "unexpected keyword" where such a switch is given."""

    @wraps(init)  # help() goes on showing the options
    def checked(*args: P.args, **options: P.kwargs) -> None:
        for name in _SWITCHES.keys() & options.keys():
            raise TypeError(f"{name}: {_SWITCHES[name]}; expected it to be left out")
        init(*args, **options)

    return checked
