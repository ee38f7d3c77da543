"""Optimizers on the fused ops."""

from fastgrad.optim.adamw import STATE_FORMATS, AdamW
from fastgrad.optim.flat_state import flatten_state_dict, unflatten_state_dict
from fastgrad.optim.sgd import SGD
from fastgrad.optim.treatment import Treatment

__all__ = ["SGD", "STATE_FORMATS", "AdamW", "Treatment", "flatten_state_dict", "unflatten_state_dict"]
