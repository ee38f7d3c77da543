// Factored second moments: sums of the squares of rows and columns, counted in gaps and thus the same in any order, and the
// means and roots that are made of them. See docs/numerics.md, section 13.
#pragma once

#include "finish.h"
#include "numerics/factored.h"

FASTGRAD_NUMERICS_BEGIN

struct Matrix {
  int64_t rows, length, strips;
  unsigned long long *row_counts, *column_counts;
  double rounder;
};

FG_DEVICE unsigned long long* counts_of(const DeviceSweep& d, int tensor) {
  return d.counts + d.plans[tensor].first_count;
}

FG_DEVICE Matrix matrix_of(const DeviceSweep& d, int tensor) {
  const TensorJob& job = d.jobs[tensor];
  Matrix m;
  m.rows = job.rows;
  m.length = job.n / job.rows;
  m.strips = (m.length + kColumns - 1) / kColumns;
  m.row_counts = counts_of(d, tensor);
  m.column_counts = m.row_counts + m.rows;
  return m;
}

FG_DEVICE float bound_of(const DeviceSweep& d, int tensor, const Coefficients& k) {
  const TensorJob& job = d.jobs[tensor];
  if (job.adamw.bound >= 0.0f) return job.adamw.bound;
  if (by_rows(d, job)) return static_cast<float>(d.row_absmax[tensor]);
  return d.tensors[tensor].n > 0.0 ? absmax_after(d.tensors[tensor], {k.a, k.c}) : 0.0f;
}

FG_DEVICE double rounder_of(const DeviceSweep& d, int tensor, float bound) {
  const TensorJob& job = d.jobs[tensor];
  const int64_t length = job.n / job.rows;
  return square_rounder(bound, length > job.whole_rows ? length : job.whole_rows);
}

FG_DEVICE void clear_counts(const DeviceSweep& d, int tensor, int64_t task) {
  const TensorJob& job = d.jobs[tensor];
  const int64_t all = job.rows + job.n / job.rows, first = task * kClearedPerTask;
  const int64_t last = first + kClearedPerTask < all ? first + kClearedPerTask : all;
  unsigned long long* counts = counts_of(d, tensor);
  for (int64_t i = first + block_thread(); i < last; i += kBlockThreads) counts[i] = 0ull;
  arrive(&d.cleared[tensor]);
}

// What is squared of an element, at most `bound`.
FG_DEVICE float squared(const TensorWork& w, float x, float row_mean, float bound) {
  float y = x;
  if (w.row_means != nullptr) {
    y = x - row_mean;
  } else if (w.affine_changes) {
    y = apply_affine(x, w.affine);
  }
  const float m = magnitude(y), finite = float_bits(m) < kInfinity ? m : 0.0f;
  return finite < bound ? finite : bound;
}

// Eight sums over the lanes of a warp, of which lane l gets that of row l / 4: a lane hands over the half that it does not go
// on with.
FG_DEVICE unsigned long long sum_of_rows(unsigned long long (&sum)[kRows]) {
  const int lane = lane_number();
#pragma unroll
  for (int left = kRows / 2, step = kWarpLanes / 2; left > 0; left /= 2, step /= 2) {
    const bool upper = (lane & step) != 0;
#pragma unroll
    for (int r = 0; r < left; ++r) {
      const unsigned long long other = __shfl_xor_sync(kWholeWarp, upper ? sum[r] : sum[r + left], step);
      sum[r] = (upper ? sum[r + left] : sum[r]) + other;
    }
  }
  sum[0] += __shfl_xor_sync(kWholeWarp, sum[0], 2);
  return sum[0] + __shfl_xor_sync(kWholeWarp, sum[0], 1);
}

FG_DEVICE void add_band(const TensorWork& w, const Matrix& m, float bound, int64_t first_row, int64_t column_start, bool quads) {
  const TensorJob& job = *w.job;
  const int lane = lane_number();
  const unsigned long long none = square_gaps(0.0f, m.rounder);
  const int64_t last_row = first_row + kBandRows < m.rows ? first_row + kBandRows : m.rows;
  // Quads at a time, or, of odd lengths and addresses, single elements, neighbours in neighbouring lanes.
  const int apart = quads ? 1 : kWarpLanes;
  const int64_t column = column_start + (quads ? kQuad * lane : lane);
  const int64_t left = m.length - column;
  unsigned long long columns[kQuad] = {};
#pragma unroll 1
  for (int64_t row = first_row; row < last_row; row += kRows) {
    LaneTile x = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row + r >= last_row) continue;
      const int64_t at = (row + r) * m.length + column;
      if (quads) {
        if (left > 0) x.row[r] = load_quad(job.grad, job.grad_type, at);
      } else {
#pragma unroll
        for (int k = 0; k < kQuad; ++k) {
          if (k * kWarpLanes < left) x.row[r].v[k] = load_element(job.grad, job.grad_type, at + k * kWarpLanes);
        }
      }
    }
    unsigned long long sums[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool there = row + r < last_row;
      const float mean = w.row_means != nullptr && there ? w.row_means[row + r] : 0.0f;
      sums[r] = 0ull;
#pragma unroll
      for (int k = 0; k < kQuad; ++k) {
        const float loaded = x.row[r].v[k];
        const float value = w.inverse_loss_scale == 1.0f ? loaded : loaded * w.inverse_loss_scale;
        const bool counted = there && k * apart < left;
        const unsigned long long gaps = counted ? square_gaps(squared(w, value, mean, bound), m.rounder) - none : 0ull;
        sums[r] += gaps;
        columns[k] += gaps;
      }
    }
    const unsigned long long sum = sum_of_rows(sums);
    const int64_t of_lane = row + lane / kQuad;
    if (lane % kQuad == 0 && of_lane < last_row) atomicAdd(&m.row_counts[of_lane], sum);
  }
#pragma unroll
  for (int k = 0; k < kQuad; ++k) {
    if (k * apart < left) atomicAdd(&m.column_counts[column + k * apart], columns[k]);
  }
}

FG_DEVICE void add_squares(const DeviceSweep& d, int tensor, int64_t task, const Coefficients& k) {
  const TensorJob& job = d.jobs[tensor];
  const TensorPlan& plan = d.plans[tensor];
  const TensorWork w = work_of(d, tensor, k);
  const float bound = bound_of(d, tensor, k);
  Matrix m = matrix_of(d, tensor);
  m.rounder = rounder_of(d, tensor, bound);
  wait_for(&d.cleared[tensor], static_cast<uint32_t>(plan.clear_tasks));
  if (m.length == 1 && job.whole_rows == 1) {  // its sum with the rounder may have another exponent
    if (block_thread() == 0) {
      const float loaded = load_element(job.grad, job.grad_type, 0);
      const float x = w.inverse_loss_scale == 1.0f ? loaded : loaded * w.inverse_loss_scale;
      const float mean = w.row_means != nullptr ? w.row_means[0] : 0.0f;
      const double gap = square_gap(m.rounder), square = rounded_square(squared(w, x, mean, bound), m.rounder);
      m.row_counts[0] = m.column_counts[0] = gap > 0.0 ? static_cast<unsigned long long>(square / gap) : 0ull;
    }
  } else {
    const bool quads = m.length % kQuad == 0 && aligned(job.grad, quad_bytes(job.grad_type));
    const int64_t units = (m.rows + kBandRows - 1) / kBandRows * m.strips;
#pragma unroll 1
    for (int i = warp_number(); i < kUnitsPerTask; i += kBlockWarps) {
      const int64_t unit = task * kUnitsPerTask + i;
      if (unit < units) add_band(w, m, bound, unit / m.strips * kBandRows, unit % m.strips * kColumns, quads);
    }
  }
  arrive(&d.squared[tensor]);
}

// Some of the list of rows and columns: their sums, given or counted, and, but for the sums alone, their means; of rows the
// factor of the root, too.
FG_DEVICE void move_means(const DeviceSweep& d, BlockMemory& block, int tensor, int64_t task, const Coefficients& k) {
  const TensorJob& job = d.jobs[tensor];
  const TensorPlan& plan = d.plans[tensor];
  const AdamwState& state = job.adamw;
  const int64_t length = job.n / job.rows, all = job.rows + length, first = task * kMeansPerTask;
  const int64_t last = first + kMeansPerTask < all ? first + kMeansPerTask : all;
  const bool given = d.sweep.phase == Phase::update;
  double gap = 0.0;
  if (!given) {
    gap = square_gap(rounder_of(d, tensor, bound_of(d, tensor, k)));
    wait_for(&d.squared[tensor], static_cast<uint32_t>(plan.square_tasks));
  }
  const unsigned long long* counts = counts_of(d, tensor);
  AdamwMemory& memory = block_memory<AdamwMemory>();
  if (block_thread() == 0) memory.update.step = adamw_step(job.hyper, factor_of(d, tensor), age_now(d, job));
  __syncthreads();
  const AdamwStep step = memory.update.step;
  float* roots = d.roots + plan.first_root;
  for (int64_t i = first + block_thread(); i < last; i += kBlockThreads) {
    const bool is_row = i < job.rows;
    const int64_t j = is_row ? i : i - job.rows;
    double* sums = is_row ? state.row_sums : state.column_sums;
    const double sum = given ? sums[j] : static_cast<double>(counts[i]) * gap;
    if (d.sums_only) {
      sums[j] = sum;
      continue;
    }
    float* means = is_row ? static_cast<float*>(state.second) : state.second_scales;
    const double count = static_cast<double>(is_row ? length : job.whole_rows);
    const float mean = moved_mean(job.first() ? 0.0f : means[j], step.rate2_exact, sum, count);
    means[j] = mean;
    if (is_row) {
      roots[j] = static_cast<float>(sqrt(static_cast<double>(mean)) / step.correction2_root);
    } else {
      d.column_leaves[plan.first_leaf + j] = mean;
    }
  }
  if (d.sums_only) return arrive(&d.meant[tensor]);
  if (!last_to_arrive(&d.meant[tensor], plan.mean_tasks, block)) return;
  double* leaves = d.column_leaves + plan.first_leaf;
  tree_of(leaves, length, block_thread(), kBlockThreads, [](double a, double b) { return a + b; }, BlockBarrier());
  const double mean = leaves[0] / static_cast<double>(length);
  for (int64_t j = block_thread(); j < length; j += kBlockThreads) {
    const double root = sqrt(static_cast<double>(state.second_scales[j]) / mean);
    roots[columns_begin(job.rows) + j] = mean == 0.0 ? 1.0f : static_cast<float>(root);
  }
  __syncthreads();
  if (block_thread() == 0) announce(&d.rooted[tensor]);
}

FASTGRAD_NUMERICS_END
