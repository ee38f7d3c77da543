"""fastgrad: fused, bit-reproducible gradient normalization and stochastic rounding for PyTorch.

Training     optim.SGD, optim.AdamW; attach (to any optimizer), release_gradients (inside backward), Monitor
Memory       quantize_weights_, compress_saved_tensors, linear_cross_entropy
Ops on lists of tensors
             gradient_moments, normalize_, quantize, dequantize (Quantized), normalize_quantize_, sgd_step_, adamw_step_
In autograd  normalize_grad, quantize_grad, fake_quantize, nn.TreatGradient
Measures     shrinkage: q_k and its kin, of the table that an op returns
Modules      distributed, integrations, theory; weights (of int8)
For C++      get_include, numerics_version
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastgrad import nn, optim, shrinkage
from fastgrad.activations import compress_saved_tensors
from fastgrad.attach import attach
from fastgrad.cross_entropy import linear_cross_entropy
from fastgrad.headers import get_include
from fastgrad.library import NUMERICS_VERSION as numerics_version
from fastgrad.ops import (
    Quantized,
    adamw_step_,
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
from fastgrad.release import release_gradients
from fastgrad.weights import quantize_weights_

if TYPE_CHECKING:
    from fastgrad import distributed as distributed
    from fastgrad import theory as theory
    from fastgrad.monitor import Monitor

__all__ = [
    "Monitor",
    "Quantized",
    "adamw_step_",
    "attach",
    "compress_saved_tensors",
    "dequantize",
    "fake_quantize",
    "get_include",
    "gradient_moments",
    "linear_cross_entropy",
    "nn",
    "normalize_",
    "normalize_grad",
    "normalize_quantize_",
    "numerics_version",
    "optim",
    "quantize",
    "quantize_grad",
    "quantize_weights_",
    "release_gradients",
    "sgd_step_",
    "shrinkage",
]

_MODULES = ("distributed", "integrations", "theory", "weights")  # public, beside those in __all__


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    # Loaded when it is asked for: it is the only part that needs numpy.
    if name == "Monitor":
        from fastgrad.monitor import Monitor

        return Monitor
    if name in _MODULES:
        return import_module(f"fastgrad.{name}")
    raise AttributeError(f"module 'fastgrad' has no attribute '{name}'")
