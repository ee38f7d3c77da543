#pragma once

#include <pybind11/pybind11.h>

namespace fastgrad {

// Adds what fastgrad/ops/device_sweeps.py calls: the same functions for CUDA and for its emulation on the CPU.
void bind_cuda(pybind11::module_& m);

}  // namespace fastgrad
