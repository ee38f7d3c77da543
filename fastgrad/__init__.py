"""fastgrad: fused, bit-reproducible gradient normalization and stochastic rounding for PyTorch."""

__version__ = "0.1.0"

from fastgrad.library import NUMERICS_VERSION as numerics_version
from fastgrad.ops import (
    Quantized,
    dequantize,
    gradient_moments,
    normalize_,
    normalize_quantize_,
    quantize,
    sgd_step_,
)

__all__ = [
    "Quantized",
    "dequantize",
    "gradient_moments",
    "normalize_",
    "normalize_quantize_",
    "numerics_version",
    "quantize",
    "sgd_step_",
]
