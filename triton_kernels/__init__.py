"""The Triton kernels: twins of the C++ in csrc/, bit for bit, for GPUs (docs/numerics.md is what both follow).

- `launch`: sweep and dequantize, what is launched and in which order
- `jobs`, `tables`: what the kernels are told of a list of tensors, on the device and on the host
- `measure`, `normalizers`, `process`, `table`, `decode`: the kernels
- `tiles`, `bits`, `philox`, `formats`, `rounding`, `memory`, `moments`, `scales`, `sgd`: the formulas
- `ahead`: compiles the kernels without a device
"""

from .launch import dequantize, sweep

__all__ = ["dequantize", "sweep"]
