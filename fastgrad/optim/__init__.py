"""Optimizers on the fused ops."""

from fastgrad.optim.sgd import SGD
from fastgrad.optim.treatment import Treatment

__all__ = ["SGD", "Treatment"]
