"""The op pages: schema, documentation, reference and registration of every op, one file per op."""

from fastgrad.ops.adamw_step import adamw_step_
from fastgrad.ops.backward import fake_quantize, normalize_grad, quantize_grad
from fastgrad.ops.gradient_moments import gradient_moments
from fastgrad.ops.normalize_quantize import normalize_, normalize_quantize_
from fastgrad.ops.quantize import Quantized, dequantize, quantize
from fastgrad.ops.sgd_step import sgd_step_

__all__ = [
    "Quantized",
    "adamw_step_",
    "dequantize",
    "fake_quantize",
    "gradient_moments",
    "normalize_",
    "normalize_grad",
    "normalize_quantize_",
    "quantize",
    "quantize_grad",
    "sgd_step_",
]
