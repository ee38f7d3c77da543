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

template <Format F, bool UPDATE>
FG_DEVICE void whole_tiles(const TensorWork& w, const Input& in, TileSums* out, int* odd) {
  LaneRange range = no_range();
  LaneCounts counts = {0u, 0u, 0u};
  const int64_t warps = int64_t{gridDim.x} * kBlockWarps;
#pragma unroll 1
  for (int64_t tile = int64_t{blockIdx.x} * kBlockWarps + warp_number(); tile < in.tiles; tile += warps) {
    const TileSource source = {in.grad, Type::fp32, 1.0f, tile * kTile, kTile};
    RawMoments raw;
    TileSums sums;
    if (!process_whole<F, UPDATE>(w, source, tile, &raw, &range, &sums, &counts)) {
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
  whole_tiles<F, false>(w, in, sums, odd);
}

#define FG_KERNEL extern "C" __global__ void __launch_bounds__(kBlockThreads, blocks_per_multiprocessor(false))
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
  whole_tiles<Format::fp32, false>(w, in, nullptr, odd);
}

FG_KERNEL op_sgd_momentum_20B(const Input in, float* parameter, float* momentum, int* odd) {
  TensorJob job;
  const Sweep sweep;
  TensorWork w = plain_work(job, sweep, in);
  w.update = {in.step, parameter, momentum, Type::fp32, Type::fp32, false, in.seed, in.stream};
  w.update.step.flags = kMomentum | kCoupledDecay;
  whole_tiles<Format::fp32, true>(w, in, nullptr, odd);
}

// Normalize, round, measure the shrinkage, momentum, update.
FG_KERNEL op_chain_20B(const Input in, float* parameter, float* momentum, TileSums* sums, int* odd) {
  TensorJob job;
  job.flags = kNormalize | kQuantize;
  const Sweep sweep;
  TensorWork w = plain_work(job, sweep, in);
  w.affine_changes = w.quantize = true;
  w.update = {in.step, parameter, momentum, Type::fp32, Type::fp32, false, in.seed, in.stream};
  w.update.step.flags = kMomentum | kCoupledDecay;
  whole_tiles<Format::fp8_e4m3, true>(w, in, sums, odd);
}

}  // namespace fastgrad::cuda
