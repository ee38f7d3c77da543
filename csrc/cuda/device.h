// CUDA, or the emulation of it with which the tests run these very files on the CPU (tests/cuda_on_cpu).
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>

// Shared memory of the block: one object per type. T has no constructor.
template <class T>
__device__ __forceinline__ T& block_memory() {
  __shared__ T memory;
  return memory;
}

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t stream, A... arguments) {
  kernel<<<grid, block, 0, stream>>>(arguments...);
}
#else
#include "cuda_on_cpu.h"
#endif

#define FG_DEVICE __device__ __forceinline__
