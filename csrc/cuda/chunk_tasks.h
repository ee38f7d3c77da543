// What a block does with one chunk, or with some dim-0 rows: its warps take the tiles, then one warp merges them.
#pragma once

#include "tile_process.h"

FASTGRAD_NUMERICS_BEGIN

struct WarpTotals {
  uint32_t zeroed, saturated, absmax;
  float min, max;
};

// The shared memory of a block. No constructor: CUDA does not allow one.
struct BlockMemory {
  long long task;
  uint32_t flag;
  RawMoments raw[kTilesPerChunk];
  Moments moments[kTilesPerChunk];
  TileSums sums[kTilesPerChunk];
  WarpTotals totals[kBlockWarps];
  BlockScale block_scales[kBlockWarps][kMaxBlocks];
  Coefficients coefficients;
};

// ... and of one that takes steps of AdamW.
struct AdamwMemory {
  AdamwUpdate update;  // not in registers: with a tile in them there is no room
  bool whole;          // states and parameters can be accessed in whole runs
  TreatedTile treated[kBlockWarps];
};

struct BlockBarrier {
  FG_DEVICE void operator()() const { __syncthreads(); }
};
struct WarpBarrier {
  FG_DEVICE void operator()() const { __syncwarp(); }
};

FG_DEVICE TileSums add_sums(const TileSums& a, const TileSums& b) { return {a.yy + b.yy, a.yq + b.yq, a.qq + b.qq}; }

FG_DEVICE TileSource source_of(const DeviceSweep& d, int tensor) {
  const TensorJob& job = d.jobs[tensor];
  return {job.grad, job.grad_type, d.sweep.inverse_loss_scale, 0, 0, 0};
}

FG_DEVICE int tiles_in(int64_t elements) {
  return static_cast<int>(elements < kChunk ? (elements + kTile - 1) / kTile : kTilesPerChunk);
}

FG_DEVICE int tile_count(int64_t n, int64_t offset) { return static_cast<int>(n - offset < kTile ? n - offset : kTile); }

FG_DEVICE LaneRange no_range() { return {bits_float(kInfinity), -bits_float(kInfinity)}; }

// The extremes of the finite elements, as moments have them.
FG_DEVICE void set_range(Moments& m, float min, float max) {
  m.min = static_cast<double>(min) + 0.0;
  m.max = static_cast<double>(max) + 0.0;
}

// Merges the moments of the block's tiles; the result is valid in thread 0. All threads call it.
FG_DEVICE Moments merge_tiles(BlockMemory& block, int tiles) {
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < tiles) block.moments[thread] = block.raw[thread].moments();
  __syncthreads();
  if (warp_number() == 0) tree_of(block.moments, tiles, thread, kWarpLanes, merge_moments, WarpBarrier());
  Moments m = no_moments();
  if (thread == 0) {
    m = block.moments[0];
    float min = block.totals[0].min, max = block.totals[0].max;
    for (int w = 1; w < kBlockWarps; ++w) {
      min = fminf(min, block.totals[w].min);
      max = fmaxf(max, block.totals[w].max);
    }
    set_range(m, min, max);
  }
  return m;
}

FG_DEVICE void measure_chunk(const DeviceSweep& d, BlockMemory& block, int tensor, int64_t chunk) {
  const TensorJob& job = d.jobs[tensor];
  TileSource source = source_of(d, tensor);
  const int64_t start = chunk * kChunk;
  const int tiles = tiles_in(job.n - start);
  const bool whole = aligned(job.grad, quad_bytes(job.grad_type));
  LaneRange range = no_range();
#pragma unroll 1
  for (int tile = warp_number(); tile < tiles; tile += kBlockWarps) {
    source.offset = start + int64_t{tile} * kTile;
    source.end = tile_count(job.n, source.offset);
    RawMoments raw;
    moments_of_tile(source, whole && source.whole(), &raw, &range);
    if (lane_number() == 0) block.raw[tile] = raw;
  }
  const float min = warp_min(range.min), max = warp_max(range.max);
  if (lane_number() == 0) block.totals[warp_number()] = {0u, 0u, 0u, min, max};
  const Moments m = merge_tiles(block, tiles);
  if (threadIdx.x == 0) d.chunks[d.plans[tensor].first_chunk + chunk].moments = m;
}

// Pieces of dim-0 rows, each at most a chunk and the work of one warp.
FG_DEVICE void measure_rows(const DeviceSweep& d, int tensor, int64_t task) {
  const TensorJob& job = d.jobs[tensor];
  const TensorPlan& plan = d.plans[tensor];
  TileSource source = source_of(d, tensor);
  const int64_t length = job.n / job.rows, total = job.rows * plan.spans_per_row;
  const int64_t first = task * plan.spans_per_task;
  const int64_t last = first + plan.spans_per_task < total ? first + plan.spans_per_task : total;
  const bool base_aligned = aligned(job.grad, quad_bytes(job.grad_type));
  const int lane = lane_number();
#pragma unroll 1
  for (int64_t span = first + warp_number(); span < last; span += kBlockWarps) {
    const int64_t row = span / plan.spans_per_row, in_row = (span - row * plan.spans_per_row) * kChunk;
    const int64_t start = row * length + in_row, end = (row + 1) * length;
    const int tiles = tiles_in(length - in_row);
    const bool whole = base_aligned && start % kQuad == 0;
    LaneRange range = no_range();
    RawMoments low = {}, high = {};  // of tiles `lane` and `lane + 32`
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
      source.offset = start + int64_t{tile} * kTile;
      source.end = tile_count(end, source.offset);
      RawMoments raw;
      moments_of_tile(source, whole && source.whole(), &raw, &range);
      if (tile == lane) low = raw;
      if (tile == lane + kWarpLanes) high = raw;
    }
    // The halving tree among lanes: leaf j merges with leaf j + s.
    Moments m = low.moments();
    if (lane + kWarpLanes < tiles) m = merge_moments(m, high.moments());
    int s = 1;
    while (s < tiles && s < kWarpLanes) s *= 2;
    for (s /= 2; s > 0; s /= 2) {
      const Moments other = {__shfl_down_sync(kWholeWarp, m.n, s),  __shfl_down_sync(kWholeWarp, m.mean, s),
                             __shfl_down_sync(kWholeWarp, m.m2, s), 0.0, 0.0,
                             __shfl_down_sync(kWholeWarp, m.nonfinite, s)};
      if (lane < s && lane + s < tiles) m = merge_moments(m, other);
    }
    const float min = warp_min(range.min), max = warp_max(range.max);
    if (lane == 0) {
      set_range(m, min, max);
      d.spans[plan.first_span + span] = m;
    }
  }
}

FG_DEVICE TensorWork work_of(const DeviceSweep& d, int tensor, const Coefficients& k) {
  const TensorJob& job = d.jobs[tensor];
  TensorWork w;
  w.job = &job;
  w.sweep = &d.sweep;
  w.row_length = job.rows > 0 ? job.n / job.rows : 1;
  w.row_means = by_rows(d, job) ? d.row_means + d.plans[tensor].first_row : nullptr;
  w.affine = {k.a, k.c};
  w.affine_changes = !changes_nothing(w.affine);
  w.quantize = job.quantized();
  w.inverse_loss_scale = d.sweep.inverse_loss_scale;
  w.moments = d.sweep.moments_in_pass;
  w.quantizer = {d.sweep.seed, stream_now(d, job.stream), k.scale, k.inverse, nullptr, 0,
                 static_cast<Rounding>(d.sweep.rounding)};
  return w;
}

FG_DEVICE int bits_of(Type type) { return type == Type::fp32 ? 32 : 16; }

template <Format F, Optimizer O>
FG_DEVICE bool accessible_whole(const TensorWork& w) {
  const TensorJob& job = *w.job;
  const int lead = job.lead();
  bool whole = aligned_codes(job.grad, lead, bits_of(job.grad_type)) && aligned_codes(job.out, lead, bits_of(job.out_type)) &&
               aligned_codes(job.codes, lead, format_spec(F).code_bits);
  if (O == Optimizer::sgd) {
    whole = whole && aligned_codes(job.parameter, lead, bits_of(job.parameter_type)) &&
            aligned_codes(job.momentum, lead, bits_of(job.momentum_type));
  }
  return whole && (w.row_means == nullptr || w.row_length % kQuad == 0);
}

// The step of AdamW, by one thread for the block.
FG_DEVICE void adamw_now(const DeviceSweep& d, AdamwMemory& memory, int tensor) {
  const TensorJob& job = d.jobs[tensor];
  if (threadIdx.x == 0) {
    memory.update = adamw_of(d, tensor, adamw_step(job.hyper, factor_of(d, tensor), age_now(d, job)));
    memory.whole = accessible_whole(memory.update, job.lead());
  }
  __syncthreads();
}

template <Format F, Optimizer O>
FG_DEVICE void process_chunk(const DeviceSweep& d, BlockMemory& block, int tensor, int64_t chunk, const Coefficients& k) {
  const TensorJob& job = d.jobs[tensor];
  TensorWork w = work_of(d, tensor, k);
  if constexpr (O == Optimizer::sgd) w.sgd = sgd_of(d, tensor);
  if constexpr (O == Optimizer::adamw) adamw_now(d, block_memory<AdamwMemory>(), tensor);
  w.whole = accessible_whole<F, O>(w);
  if (d.sweep.scale_kind == ScaleKind::block) {
    w.quantizer.block_scales = block.block_scales[warp_number()];
    w.quantizer.block_shift = log2_of_power(d.sweep.block);
  }
  const int tiles = tiles_in(job.grid() - chunk * kChunk);
  LaneRange range = no_range();
  LaneCounts counts = {0u, 0u, 0u};
#pragma unroll 1
  for (int tile = warp_number(); tile < tiles; tile += kBlockWarps) {
    // Made for every tile: kept over the loop, it and its parts would not fit into the registers.
    const int64_t in_grid = chunk * kChunk + int64_t{tile} * kTile, number = job.first_tile() + in_grid / kTile;
    TileSource source = source_of(d, tensor);
    source.offset = in_grid - job.lead();
    source.begin = in_grid == 0 ? job.lead() : 0;
    source.end = tile_count(job.grid(), in_grid);
    RawMoments raw = {};
    TileSums sums = {};
    LaneTile treated;
    if (!w.whole || !source.whole() ||
        !process_whole<F, O>(w, source, number, &raw, &range, &sums, &counts, &treated)) {
      TreatedTile* staged = nullptr;
      if constexpr (O == Optimizer::adamw) staged = &block_memory<AdamwMemory>().treated[warp_number()];
      process_any<F, O>(w, source, number, &raw, &range, &sums, &counts, staged);
      if constexpr (O == Optimizer::adamw) treated = staged->load();
    }
    if (lane_number() == 0) {
      block.raw[tile] = raw;
      block.sums[tile] = sums;
    }
    if constexpr (O == Optimizer::adamw) {
      const AdamwMemory& memory = block_memory<AdamwMemory>();
      adamw_tile(memory.update, source, memory.whole && source.whole(), number, treated);
    }
  }
  const uint32_t zeroed = warp_sum(counts.zeroed), saturated = warp_sum(counts.saturated);
  const float min = warp_min(range.min), max = warp_max(range.max);
  if (lane_number() == 0) block.totals[warp_number()] = {zeroed, saturated, counts.absmax, min, max};
  ChunkRecord record = {};
  record.moments = merge_tiles(block, d.sweep.moments_in_pass ? tiles : 0);
  if (warp_number() == 0) tree_of(block.sums, tiles, static_cast<int>(threadIdx.x), kWarpLanes, add_sums, WarpBarrier());
  if (threadIdx.x != 0) return;
  const bool quantize = F != Format::fp32 && w.quantize;
  uint32_t absmax = 0;
  for (int i = 0; i < kBlockWarps; ++i) {
    record.zeroed += static_cast<double>(block.totals[i].zeroed);
    record.saturated += static_cast<double>(block.totals[i].saturated);
    absmax = block.totals[i].absmax > absmax ? block.totals[i].absmax : absmax;
  }
  if (quantize) {
    record.yy = block.sums[0].yy;
    record.yq = block.sums[0].yq;
    record.qq = block.sums[0].qq;
    record.absmax = static_cast<double>(bits_float(absmax));
  }
  d.chunks[d.plans[tensor].first_chunk + chunk] = record;
}

FASTGRAD_NUMERICS_END
