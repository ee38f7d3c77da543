"""fastgrad: fused, bit-reproducible gradient normalization and stochastic rounding for PyTorch."""

__version__ = "0.1.0"

from fastgrad import nn, optim, shrinkage
from fastgrad.attach import attach
from fastgrad.library import NUMERICS_VERSION as numerics_version
from fastgrad.monitor import Monitor
from fastgrad.ops import (
    Quantized,
    dequantize,
    fake_quantize,
    gradient_moments,
    normalize_,
    normalize_grad,
    normalize_quantize_,
    quantize,
    quantize_grad,
    sgd_step_,
)

__all__ = [
    "Monitor",
    "Quantized",
    "attach",
    "dequantize",
    "fake_quantize",
    "gradient_moments",
    "nn",
    "normalize_",
    "normalize_grad",
    "normalize_quantize_",
    "numerics_version",
    "optim",
    "quantize",
    "quantize_grad",
    "sgd_step_",
    "shrinkage",
]
