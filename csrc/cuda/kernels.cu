// The sweep kernels of one format (a file each to the compiler: FASTGRAD_CUDA_FORMAT), or of all.
#include "kernels.h"
#include "sweep_kernel.h"

FASTGRAD_NUMERICS_BEGIN

#define FASTGRAD_KERNELS_OF(FORMAT)                                               \
  SweepKernel sweep_kernel_##FORMAT(Optimizer optimizer) {                        \
    switch (optimizer) {                                                          \
      case Optimizer::sgd: return sweep_kernel<Format::FORMAT, Optimizer::sgd>;     \
      case Optimizer::adamw: return sweep_kernel<Format::FORMAT, Optimizer::adamw>; \
      default: return sweep_kernel<Format::FORMAT, Optimizer::none>;              \
    }                                                                             \
  }
#define FASTGRAD_EXPANDED(FORMAT) FASTGRAD_KERNELS_OF(FORMAT)

#ifdef FASTGRAD_CUDA_FORMAT
FASTGRAD_EXPANDED(FASTGRAD_CUDA_FORMAT)
#else
FASTGRAD_EACH_FORMAT(FASTGRAD_KERNELS_OF)
#endif

FASTGRAD_NUMERICS_END
