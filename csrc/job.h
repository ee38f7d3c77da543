// What a sweep is asked to do (docs/numerics.md, section 11): plain data, filled in by arguments.h and read by the
// kernels of the CPU, where it must not differ between instruction sets, and of the GPU, where it lies in device memory.
#pragma once

#include "numerics/portable.h"

namespace fastgrad {

enum class Type : int { fp32, bf16, fp16 };  // of tensors in memory; the order is known to fastgrad/library.py

enum TensorFlags : int { kNormalize = 1, kQuantize = 2, kFirst = 4 };

enum class ScaleKind : int { none, tensor, block };

enum class Update : int { sgd, adamw };

// How AdamW keeps a second moment (docs/numerics.md, sections 12 and 13).
enum class SecondMoment : int { fp32, bf16, fp16, codes8, codes4, factored };

// The halves of a step with factored second moments; between them the sums of shards are added up.
enum class Phase : int { all, sums, update };

// What AdamW keeps of one tensor.
struct AdamwState {
  void* first = nullptr;  // first moment: numbers of `first_format`, in blocks if it has scales
  int first_format = 0;   // Format
  float* first_scales = nullptr;
  int first_block = 0;
  void* second = nullptr;  // second moment; float32 means of the rows where it is factored
  SecondMoment second_kind = SecondMoment::fp32;
  float* second_scales = nullptr;  // of blocks; float32 means of the columns where it is factored
  int second_block = 0;
  int64_t age = 1;  // t, 1 at the first step
  double* row_sums = nullptr;  // of factored moments: sums of squares
  double* column_sums = nullptr;
  float bound = -1.0f;  // of the magnitudes that are squared, where it is given
  uint64_t first_stream = 0, second_stream = 0;
  // Filled in by the sweep: the factors of the root of a factored moment.
  float* row_roots = nullptr;
  float* column_roots = nullptr;
};

// One tensor of a sweep. All pointers are to dense storage of n elements.
struct TensorJob {
  int64_t n = 0;
  int64_t rows = 0;    // dim-0 rows, for centralize and factored second moments
  int64_t whole_rows = 0;  // those of the tensor that it is a shard of
  int64_t offset = 0;  // where it begins in the tensor that it is a shard of
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
  float* parameter_scales = nullptr;  // of the blocks of a parameter that is kept as int8 codes
  int parameter_block = 0;
  void* momentum = nullptr;
  Type momentum_type = Type::fp32;
  uint64_t stream = 0, weight_stream = 0;
  const double* hyper = nullptr;  // the row of its group (numerics/sgd.h, numerics/adamw.h)
  AdamwState adamw;
  double factor = 1;              // k, unless Sweep::factors has it
  // Filled in by the sweep once the moments are known.
  float a = 1, c = 0;
  float* row_means = nullptr;  // centralize: c of every row
  float scale = 1, inverse_scale = 1;

  FG_FN bool normalized() const { return (flags & kNormalize) != 0; }
  FG_FN bool quantized() const { return (flags & kQuantize) != 0; }
  // The grid of tiles begins where the larger tensor's do: `lead` elements of the first tile are not of this shard.
  FG_FN int lead() const { return static_cast<int>(offset % 1024); }
  FG_FN int64_t grid() const { return n > 0 ? lead() + n : 0; }
  FG_FN int64_t first_tile() const { return offset / 1024; }
  FG_FN bool first() const { return (flags & kFirst) != 0; }
  FG_FN bool factored() const { return adamw.second != nullptr && adamw.second_kind == SecondMoment::factored; }
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
  Update update = Update::sgd;
  Phase phase = Phase::all;
  bool sharded = false;  // tensors are shards: nothing is measured that would be of the whole
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
