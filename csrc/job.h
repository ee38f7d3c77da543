// What a sweep is asked to do (docs/numerics.md, section 11): plain data, filled in by arguments.h and read by the
// kernels of the CPU, where it must not differ between instruction sets, and of the GPU, where it lies in device memory.
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
  const double* hyper = nullptr;  // the row of its group (numerics/sgd.h)
  double factor = 1;              // k, unless Sweep::factors has it
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
  // GPU only, in device memory: what changes from step to step is read by the kernels, for captured graphs.
  const int64_t* step = nullptr;    // added to the step that is packed into every stream
  const double* factors = nullptr;  // [T]
  bool two_reads = false;   // do not order the work so that the second read comes from cache
  int threads = 1;
  // Filled in by the sweep.
  float inverse_loss_scale = 1.0f;
  bool moments_in_pass = false;  // the processing pass measures the moments
  bool stream_stores = false;    // outputs are too large to be worth keeping in cache
};

constexpr int kTableColumns = 16;

}  // namespace fastgrad
