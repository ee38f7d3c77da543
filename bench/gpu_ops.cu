// One op a kernel, its options as constants: what the shipped kernels decide at run time is settled here, so that the
// instructions of an op can be counted in its machine code (bench/gpu_code.py). The tiles are those of csrc/cuda.
// op_<name>_<bytes>B: bytes of DRAM traffic of an element.
#include "chunk_tasks.h"

namespace fastgrad::cuda {

// What all have in common: warps take the whole tiles of one tensor in turn.
struct Input {
  const float* grad;
  int64_t tiles;
  uint64_t seed, stream;
  float a, c, scale, inverse;
  SgdStep step;
};

FG_DEVICE TensorWork plain_work(const TensorJob& job, const Sweep& sweep, const Input& in) {
  TensorWork w = {};
  w.job = &job;
  w.sweep = &sweep;
  w.row_means = nullptr;
  w.affine = {in.a, in.c};
  w.affine_changes = false;
  w.quantize = false;
  w.whole = true;
  w.inverse_loss_scale = 1.0f;
  w.moments = false;
  w.quantizer = {in.seed, in.stream, in.scale, in.inverse, nullptr, 0, Rounding::stochastic};
  return w;
}

template <Format F, Optimizer O>
FG_DEVICE void whole_tiles(const TensorWork& w, const Input& in, TileSums* out, int* odd) {
  LaneRange range = no_range();
  LaneCounts counts = {0u, 0u, 0u};
  const int64_t warps = int64_t{gridDim.x} * kBlockWarps;
#pragma unroll 1
  for (int64_t tile = int64_t{blockIdx.x} * kBlockWarps + warp_number(); tile < in.tiles; tile += warps) {
    const TileSource source = {in.grad, Type::fp32, 1.0f, tile * kTile, 0, kTile};
    RawMoments raw;
    TileSums sums;
    LaneTile treated;
    if (!process_whole<F, O>(w, source, tile, &raw, &range, &sums, &counts, &treated)) {
      *odd = 1;  // shipped kernels go on with process_any
      return;
    }
    if (F != Format::fp32 && lane_number() == 0) out[tile] = sums;
  }
  if (F != Format::fp32) atomicAdd(odd, static_cast<int>(counts.zeroed + counts.absmax));
}

template <Format F>
FG_DEVICE void quantize(const Input& in, void* codes, float* scales, TileSums* sums, int* odd, bool nearest, bool blocks) {
  BlockMemory& block = block_memory<BlockMemory>();
  __builtin_assume(codes != nullptr);
  TensorJob job;
  job.flags = kQuantize;
  job.codes = codes;
  job.scales = scales;
  Sweep sweep;
  sweep.block = 128;
  TensorWork w = plain_work(job, sweep, in);
  w.quantize = true;
  if (nearest) w.quantizer.rounding = Rounding::nearest;
  if (blocks) {
    w.quantizer.block_scales = block.block_scales[warp_number()];
    w.quantizer.block_shift = 7;
  }
  whole_tiles<F, Optimizer::none>(w, in, sums, odd);
}

#define FG_KERNEL extern "C" __global__ void __launch_bounds__(kBlockThreads, blocks_per_multiprocessor(Optimizer::none))
#define FG_OUT void *codes, float *scales, TileSums *sums, int *odd

FG_KERNEL op_quantize_bf16_6B(const Input in, FG_OUT) { quantize<Format::bf16>(in, codes, nullptr, sums, odd, false, false); }
FG_KERNEL op_quantize_fp16_6B(const Input in, FG_OUT) { quantize<Format::fp16>(in, codes, nullptr, sums, odd, false, false); }
FG_KERNEL op_quantize_fp8_e4m3_5B(const Input in, FG_OUT) { quantize<Format::fp8_e4m3>(in, codes, nullptr, sums, odd, false, false); }
FG_KERNEL op_quantize_fp8_e5m2_5B(const Input in, FG_OUT) { quantize<Format::fp8_e5m2>(in, codes, nullptr, sums, odd, false, false); }
FG_KERNEL op_quantize_int8_5B(const Input in, FG_OUT) { quantize<Format::int8>(in, codes, nullptr, sums, odd, false, false); }
FG_KERNEL op_quantize_int4_4p5B(const Input in, FG_OUT) { quantize<Format::int4>(in, codes, nullptr, sums, odd, false, false); }
FG_KERNEL op_quantize_fp4_e2m1_4p5B(const Input in, FG_OUT) { quantize<Format::fp4_e2m1>(in, codes, nullptr, sums, odd, false, false); }
FG_KERNEL op_quantize_int8_block_5B(const Input in, FG_OUT) { quantize<Format::int8>(in, codes, scales, sums, odd, false, true); }
FG_KERNEL op_quantize_fp8_e4m3_nearest_5B(const Input in, FG_OUT) { quantize<Format::fp8_e4m3>(in, codes, nullptr, sums, odd, true, false); }

FG_KERNEL op_normalize_8B(const Input in, float* out, int* odd) {
  TensorJob job;
  job.flags = kNormalize;
  job.out = out;
  const Sweep sweep;
  TensorWork w = plain_work(job, sweep, in);
  w.affine_changes = true;
  whole_tiles<Format::fp32, Optimizer::none>(w, in, nullptr, odd);
}

FG_KERNEL op_sgd_momentum_20B(const Input in, float* parameter, float* momentum, int* odd) {
  TensorJob job;
  const Sweep sweep;
  TensorWork w = plain_work(job, sweep, in);
  w.sgd = {in.step, parameter, momentum, Type::fp32, Type::fp32, false, in.seed, in.stream};
  w.sgd.step.flags = kMomentum | kCoupledDecay;
  whole_tiles<Format::fp32, Optimizer::sgd>(w, in, nullptr, odd);
}

// Normalize, round, measure the shrinkage, momentum, update.
FG_KERNEL op_chain_20B(const Input in, float* parameter, float* momentum, TileSums* sums, int* odd) {
  TensorJob job;
  job.flags = kNormalize | kQuantize;
  const Sweep sweep;
  TensorWork w = plain_work(job, sweep, in);
  w.affine_changes = w.quantize = true;
  w.sgd = {in.step, parameter, momentum, Type::fp32, Type::fp32, false, in.seed, in.stream};
  w.sgd.step.flags = kMomentum | kCoupledDecay;
  whole_tiles<Format::fp8_e4m3, Optimizer::sgd>(w, in, sums, odd);
}

// AdamW without normalizing or rounding the gradient.
struct AdamwInput {
  const void* grad;
  int64_t tiles;
  AdamwUpdate update;  // addresses and numbers; the kinds of its states are set here
};

template <Type GRADIENT>
FG_DEVICE void adamw(const AdamwInput& in, const AdamwUpdate& u) {
  const int64_t warps = int64_t{gridDim.x} * kBlockWarps;
#pragma unroll 1
  for (int64_t tile = int64_t{blockIdx.x} * kBlockWarps + warp_number(); tile < in.tiles; tile += warps) {
    const TileSource source = {in.grad, GRADIENT, 1.0f, tile * kTile, 0, kTile};
    const LaneTile q = source.load();
    const AdamwNoise noise = adamw_noise(u, tile);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      HalfTile one;
#pragma unroll
      for (int r = 0; r < kHalfRows; ++r) one.row[r] = q.row[half * kHalfRows + r];
      adamw_half(u, source, true, half, one, noise);
    }
  }
}

FG_DEVICE AdamwUpdate adamw_update(const AdamwInput& in, Format parameter, Format first, SecondMoment second) {
  AdamwUpdate u = in.update;
  u.first = false;
  u.stochastic = u.step.first_moment = true;
  u.step.maximize = false;
  u.parameter_format = parameter;
  u.first_format = first;
  u.second_kind = second;
  u.parameter_scales = u.first_scales = u.second_scales = nullptr;
  u.parameter_block = u.first_block = u.second_block = 128;
  return u;
}

#define FG_ADAMW extern "C" __global__ void __launch_bounds__(kBlockThreads, blocks_per_multiprocessor(Optimizer::adamw))

FG_ADAMW op_adamw_fp32_28B(const AdamwInput in) {
  adamw<Type::fp32>(in, adamw_update(in, Format::fp32, Format::fp32, SecondMoment::fp32));
}

FG_ADAMW op_adamw_bf16_int8_10B(const AdamwInput in) {
  AdamwUpdate u = adamw_update(in, Format::bf16, Format::int8, SecondMoment::codes8);
  __builtin_assume(in.update.first_scales != nullptr);
  __builtin_assume(in.update.second_scales != nullptr);
  u.first_scales = in.update.first_scales;
  u.second_scales = in.update.second_scales;
  adamw<Type::bf16>(in, u);
}

FG_ADAMW op_adamw_bf16_fp4_factored_7B(const AdamwInput in) {
  AdamwUpdate u = adamw_update(in, Format::bf16, Format::fp4_e2m1, SecondMoment::factored);
  __builtin_assume(in.update.first_scales != nullptr);
  u.first_scales = in.update.first_scales;
  adamw<Type::bf16>(in, u);
}

// Without a first moment.
FG_ADAMW op_adamw_int8_factored_4B(const AdamwInput in) {
  AdamwUpdate u = adamw_update(in, Format::int8, Format::fp32, SecondMoment::factored);
  __builtin_assume(in.update.parameter_scales != nullptr);
  u.parameter_scales = in.update.parameter_scales;
  u.step.first_moment = false;
  adamw<Type::bf16>(in, u);
}

}  // namespace fastgrad::cuda
