"""The Triton kernels: twins of the C++ in csrc/, bit for bit, for GPUs (docs/numerics.md is what both follow).

- `launch`, `states`, `options`: sweep and dequantize, what is launched, in which order and how
- `jobs`, `tables`: what the kernels are told of a list of tensors, on the device and on the host
- `measure`, `normalizers`, `factored`, `process`, `table`, `decode`: the kernels
- `tiles`, `bits`, `philox`, `formats`, `rounding`, `memory`, `moments`, `scales`, `sgd`, `adamw`: the formulas
- `ahead`: compiles the kernels without a device
"""

from .launch import dequantize, sweep

__all__ = ["dequantize", "sweep"]
