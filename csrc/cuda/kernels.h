// The kernels by format, across files that are compiled side by side.
#pragma once

#include "device_sweep.h"
#include "numerics/formats.h"

FASTGRAD_NUMERICS_BEGIN

using SweepKernel = void (*)(const DeviceSweep);

#define FASTGRAD_EACH_FORMAT(X) \
  X(fp32) X(bf16) X(fp16) X(fp8_e4m3) X(fp8_e5m2) X(fp4_e2m1) X(int8) X(int4)

#define FASTGRAD_DECLARE(FORMAT) SweepKernel sweep_kernel_##FORMAT(Optimizer optimizer);
FASTGRAD_EACH_FORMAT(FASTGRAD_DECLARE)
#undef FASTGRAD_DECLARE

inline SweepKernel sweep_kernel_of(Format format, Optimizer optimizer) {
  switch (format) {
#define FASTGRAD_CASE(FORMAT) \
  case Format::FORMAT: return sweep_kernel_##FORMAT(optimizer);
    FASTGRAD_EACH_FORMAT(FASTGRAD_CASE)
#undef FASTGRAD_CASE
  }
  return nullptr;
}

FASTGRAD_NUMERICS_END
