"""Optimizers on the fused ops."""

from fastgrad.optim.adamw import AdamW
from fastgrad.optim.flat_state import flatten_state_dict, unflatten_state_dict
from fastgrad.optim.sgd import SGD
from fastgrad.optim.treatment import Treatment

__all__ = ["SGD", "AdamW", "Treatment", "flatten_state_dict", "unflatten_state_dict"]
