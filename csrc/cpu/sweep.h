// One sweep over a list of tensors: docs/numerics.md, section 11.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace fastgrad {

// Runs the sweep and fills table[(jobs + 1) * 16]. Returns false if skip_nonfinite found a non-finite
// element, in which case only the moments were written to the table and nothing else anywhere.
bool run_sweep(std::vector<TensorJob>& jobs, Sweep sweep, const ChunkKernels& kernels, double* table);

// values = decode(codes) * scale, for one tensor.
void run_dequantize(const void* codes, int format, const float* scales, int block, int64_t n, void* values, Type type,
                    int threads, const ChunkKernels& kernels);

}  // namespace fastgrad
