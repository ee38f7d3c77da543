// What the scheduler (sweep.cpp, compiled once) hands to the chunk kernels (chunk.cpp, compiled once per
// instruction set): plain data, no code, so that nothing here can differ between the two.
#pragma once

#include <cstdint>

namespace fastgrad {

enum class Type : int { fp32, bf16, fp16 };  // of tensors in memory; the order is known to fastgrad/library.py

enum TensorFlags : int { kNormalize = 1, kQuantize = 2, kFirst = 4 };

enum class ScaleKind : int { none, tensor, block };

// One tensor of a sweep. All pointers are to dense storage of n elements.
struct TensorJob {
  int64_t n = 0;
  int64_t rows = 0;  // dim-0 rows, for centralize
  int flags = 0;
  const void* grad = nullptr;
  Type grad_type = Type::fp32;
  void* out = nullptr;  // values after normalization and quantization
  Type out_type = Type::fp32;
  void* codes = nullptr;                // stored codes
  float* scales = nullptr;              // written: one, or one per block
  const float* given_scales = nullptr;  // used instead of measured ones
  void* parameter = nullptr;
  Type parameter_type = Type::fp32;
  void* momentum = nullptr;
  Type momentum_type = Type::fp32;
  uint64_t stream = 0, weight_stream = 0;
  // The step of this tensor (numerics/sgd.h).
  double lr = 0, mu = 0, one_minus_dampening = 1, weight_decay = 0, decay = 1;
  int sgd_flags = 0;
  double factor = 1;  // k, for the table
  // Filled in by the sweep once the moments are known.
  float a = 1, c = 0;
  float* row_means = nullptr;  // centralize: c of every row
  float scale = 1, inverse_scale = 1;

  bool normalized() const { return (flags & kNormalize) != 0; }
  bool quantized() const { return (flags & kQuantize) != 0; }
};

struct Sweep {
  int method = 0, alpha = 0;  // Method, Alpha of numerics/normalizers.h
  double eps = 1e-8, max_norm = 1.0;
  double* state = nullptr;  // {first, largest} sigma
  int format = 0, rounding = 0;
  ScaleKind scale_kind = ScaleKind::none;
  int block = 0;
  bool pow2 = false;
  const double* lagged = nullptr;  // previous table, or null
  uint64_t seed = 0;
  double inv_scale = 1.0;  // inverse loss scale
  bool measure = true;
  bool skip_nonfinite = false;
  int weight_rounding = 1;  // Rounding
  bool two_reads = false;   // do not order the work so that the second read comes from cache
  int threads = 1;
  // Filled in by the sweep.
  float inverse_loss_scale = 1.0f;
  bool moments_in_pass = false;  // the processing pass measures the moments
  bool stream_stores = false;    // outputs are too large to be worth keeping in cache
};

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
  // The rest of the sweep for one chunk.
  void (*process)(const TensorJob&, const Sweep&, int64_t chunk, ChunkResult*);
  // values[i] = decode(codes[i]) * scale, for the elements of one chunk.
  void (*dequantize)(const void* codes, int format, const float* scales, int block, int64_t n, int64_t chunk,
                     void* values, Type type);
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
