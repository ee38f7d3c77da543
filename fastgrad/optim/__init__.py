"""Optimizers on the fused ops."""

from fastgrad.optim.adamw import AdamW
from fastgrad.optim.sgd import SGD
from fastgrad.optim.treatment import Treatment

__all__ = ["SGD", "AdamW", "Treatment"]
