"""fastgrad in training frameworks; each module needs the framework it is named after."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    # Not in __dir__: who walks over the attributes would import every framework.
    if name in ("accelerate", "causal_lm", "lightning", "transformers"):
        return import_module(f"fastgrad.integrations.{name}")
    raise AttributeError(f"module 'fastgrad.integrations' has no attribute '{name}'")
