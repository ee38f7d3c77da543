// What the scheduler (sweep.cpp, compiled once) calls of the chunk kernels (chunk.cpp, compiled once per instruction set).
#pragma once

#include "job.h"

namespace fastgrad {

// What one chunk adds to the table.
struct ChunkResult {
  double moments[6];  // Moments of numerics/moments.h
  double yy = 0, yq = 0, qq = 0;
  int64_t zeroed = 0, saturated = 0;
  float absmax = 0;
};

// The entry points of one instruction set.
struct ChunkKernels {
  const char* name;
  // Moments of chunk `chunk` of the gradient.
  void (*moments)(const TensorJob&, const Sweep&, int64_t chunk, double* out6);
  // Moments of the dim-0 rows [first, last); also stores their means to job.row_means and returns the largest
  // |x - mean| of them all.
  float (*row_moments)(const TensorJob&, const Sweep&, int64_t first, int64_t last, double* out6_each);
  // Sums of the squares of the dim-0 rows [first, last), for a factored second moment; `columns` are added to.
  void (*row_squares)(const TensorJob&, const Sweep&, int64_t first, int64_t last, double* rows, double* columns);
  // The rest of the sweep for one chunk.
  void (*process)(const TensorJob&, const Sweep&, int64_t chunk, ChunkResult*);
  // values[i] = decode(codes[i]) * scale, for the elements of one chunk; `stream`: past the cache.
  void (*dequantize)(const void* codes, int format, const float* scales, int block, int64_t n, int64_t chunk,
                     void* values, Type type, bool stream);
  // For the tests: the formulas of csrc/numerics by themselves.
  void (*noise)(uint64_t seed, uint64_t stream, int64_t tile, uint16_t* noise1024);
  void (*round)(const float* y, const int32_t* noise, int64_t n, float inverse_scale, float scale, int format,
                int rounding, int32_t* codes, float* values);
};

const ChunkKernels& chunk_kernels_baseline();
#if defined(FASTGRAD_X86)
const ChunkKernels& chunk_kernels_avx2();
const ChunkKernels& chunk_kernels_avx512();
#endif

}  // namespace fastgrad
