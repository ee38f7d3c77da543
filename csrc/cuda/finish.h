// What is done once for a tensor or for the list: by the block that comes last.
#pragma once

#include "chunk_tasks.h"

FASTGRAD_NUMERICS_BEGIN

FG_DEVICE int block_thread() { return static_cast<int>(threadIdx.x); }

// Everything this block wrote is seen by the block that finds the counter complete. True in that one.
FG_DEVICE bool last_to_arrive(uint32_t* counter, int64_t of, BlockMemory& block) {
  __syncthreads();
  if (block_thread() == 0) {
#ifndef PLANTED_NO_FENCE  // by tests/test_cuda_sanitized.py, to see that it is missed
    __threadfence();  // of what the barrier has shown to this thread, too
#endif
    block.flag = atomicAdd(counter, 1u) + 1u == static_cast<uint32_t>(of) ? 1u : 0u;
    __threadfence();
  }
  __syncthreads();
  return block.flag != 0u;
}

// One of several tasks that others wait for is done.
FG_DEVICE void arrive(uint32_t* counter) {
  __syncthreads();
  if (block_thread() != 0) return;
  __threadfence();
  atomicAdd(counter, 1u);
}

FG_DEVICE void announce(uint32_t* flag) {
  __threadfence();
  atomicExch(flag, 1u);
}

// Waits, with the whole block, until a counter has reached a number. What is waited for was taken by a running block
// before: tasks are handed out in order.
FG_DEVICE void wait_for(uint32_t* counter, uint32_t number) {
  if (block_thread() == 0) {
    while (atomicAdd(counter, 0u) < number) __nanosleep(100);
    __threadfence();
  }
  __syncthreads();
}

// All that chunks have in common, merged in place; valid in thread 0.
FG_DEVICE ChunkRecord merge_chunks(const DeviceSweep& d, int tensor) {
  const TensorPlan& plan = d.plans[tensor];
  ChunkRecord* records = d.chunks + plan.first_chunk;
  tree_of(
      records, plan.chunks, block_thread(), kBlockThreads,
      [](const ChunkRecord& a, const ChunkRecord& b) {
        return ChunkRecord{merge_moments(a.moments, b.moments), a.yy + b.yy, a.yq + b.yq, a.qq + b.qq,
                           a.zeroed + b.zeroed, a.saturated + b.saturated, b.absmax > a.absmax ? b.absmax : a.absmax};
      },
      BlockBarrier());
  ChunkRecord all = {};
#ifdef PLANTED_LATE_READER
  all = records[0];
#endif
  if (block_thread() == 0) all = records[0];  // the others may be late, and chunks are written again
  return all;
}

// Rows: their pieces into rows, their means, the largest |x - mean|, and all rows into the tensor.
FG_DEVICE Moments merge_rows(const DeviceSweep& d, BlockMemory& block, int tensor) {
  const TensorJob& job = d.jobs[tensor];
  const TensorPlan& plan = d.plans[tensor];
  Moments* spans = d.spans + plan.first_span;
  uint32_t absmax = 0;
  for (int64_t row = block_thread(); row < job.rows; row += kBlockThreads) {
    Moments* leaves = spans + row * plan.spans_per_row;
    halving_tree(leaves, plan.spans_per_row, merge_moments);
    const Moments m = leaves[0];
    const float c = m.n > 0.0 ? static_cast<float>(m.mean) : 0.0f;
    d.row_means[plan.first_row + row] = c;
    if (m.n > 0.0) {
      const uint32_t largest = float_bits(absmax_after(m, {1.0f, c}));
      absmax = largest > absmax ? largest : absmax;
    }
  }
  absmax = warp_max(absmax);
  if (lane_number() == 0) block.totals[warp_number()].absmax = absmax;
  __syncthreads();
  if (block_thread() == 0) {
    for (int w = 1; w < kBlockWarps; ++w) absmax = block.totals[w].absmax > absmax ? block.totals[w].absmax : absmax;
    d.row_absmax[tensor] = bits_float(absmax);
  }
  const int64_t stride = plan.spans_per_row;
  int64_t s = 1;
  while (s < job.rows) s *= 2;
  for (s /= 2; s > 0; s /= 2) {
    for (int64_t j = block_thread(); j < s && j + s < job.rows; j += kBlockThreads) {
      spans[j * stride] = merge_moments(spans[j * stride], spans[(j + s) * stride]);
    }
    __syncthreads();
  }
  Moments all = no_moments();
  if (block_thread() == 0) all = spans[0];
  return all;
}

// After the last measured task of a tensor.
FG_DEVICE void finish_measured(const DeviceSweep& d, BlockMemory& block, int tensor) {
  Moments m;
  if (by_rows(d, d.jobs[tensor])) {
    m = merge_rows(d, block, tensor);
  } else {
    m = merge_chunks(d, tensor).moments;
  }
  if (block_thread() != 0) return;
  d.tensors[tensor] = m;
  if (d.needs_all || !d.processed) {
    __threadfence();
    atomicAdd(&d.all[0], 1u);
  } else {
    const double factor = d.sweep.lagged != nullptr ? lagged_global_factor(d) : 1.0;
    d.coefficients[tensor] = coefficients_for(d, tensor, m, factor);
    announce(&d.ready[tensor]);
  }
}

// The moments of the list: over the tensors that are normalized, or over all if none is. Valid in thread 0.
FG_DEVICE Moments merge_list(const DeviceSweep& d) {
  for (int i = block_thread(); i < d.count; i += kBlockThreads) {
    const TensorJob& job = d.jobs[i];
    Moments leaf = no_moments();
    if (job.n > 0 && (job.normalized() || !d.any_normalized)) leaf = d.tensors[i];
    d.leaves[i] = leaf;
  }
  __syncthreads();
  tree_of(d.leaves, d.count, block_thread(), kBlockThreads, merge_moments, BlockBarrier());
  Moments all = no_moments();
  if (block_thread() == 0) all = d.leaves[0];
  return all;
}

FG_DEVICE double count_nonfinite(const DeviceSweep& d) {
  double total = 0.0;  // whole numbers: exact in any order
  for (int i = 0; i < d.count; ++i) total += d.jobs[i].n > 0 ? d.tensors[i].nonfinite : 0.0;
  return total;
}

// Once all tensors are measured.
FG_DEVICE void finish_coefficients(const DeviceSweep& d, BlockMemory& block) {
  wait_for(&d.all[0], static_cast<uint32_t>(d.busy));
  const Moments all = merge_list(d);
  if (block_thread() == 0) {
    const bool skip = d.sweep.skip_nonfinite && count_nonfinite(d) > 0.0;
    double factor = 1.0;
    if (skip) {
      d.all[2] = 1u;
    } else {
      factor = global_factor(d, d.sweep.lagged != nullptr ? read_moments(lagged_row(d, d.count)) : all, d.sweep.state);
    }
    *d.global_factor = factor;
    block.flag = skip ? 1u : 0u;
  }
  __syncthreads();
  if (block.flag == 0u) {
    const double factor = *d.global_factor;
    for (int i = block_thread(); i < d.count; i += kBlockThreads) {
      if (d.jobs[i].n > 0) d.coefficients[i] = coefficients_for(d, i, d.tensors[i], factor);
    }
  }
  __syncthreads();
  if (block_thread() == 0) announce(&d.all[1]);
}

FG_DEVICE void write_row(const DeviceSweep& d, int tensor, const Moments& m, const Coefficients& k, const ChunkRecord& record) {
  double* row = table_row(d, tensor);
  write_moments(m, row);
  row[kA] = k.a;
  row[kC] = k.c;
  row[kYY] = record.yy;
  row[kYQ] = record.yq;
  row[kQQ] = record.qq;
  row[kZeroed] = record.zeroed;
  row[kSaturated] = record.saturated;
  row[kScale] = k.scale;
  row[kAbsmax] = record.absmax;
  row[kK] = factor_of(d, tensor);
}

FG_DEVICE Moments no_columns() { return {0.0, 0.0, 0.0, 0.0, 0.0, 0.0}; }

// The coefficients of a tensor for a block: waited for, or made on the spot.
FG_DEVICE Coefficients coefficients_now(const DeviceSweep& d, BlockMemory& block, int tensor) {
  if (d.needs_all || measured_first(d, d.jobs[tensor])) {
    wait_for(d.needs_all ? &d.all[1] : &d.ready[tensor], 1u);
    return d.coefficients[tensor];
  }
  if (threadIdx.x == 0) {
    const double factor = d.sweep.lagged != nullptr ? lagged_global_factor(d) : 1.0;
    block.coefficients = coefficients_for(d, tensor, no_moments(), factor);
  }
  __syncthreads();
  return block.coefficients;
}

// After the last processed chunk of a tensor.
FG_DEVICE void finish_processed(const DeviceSweep& d, int tensor, const Coefficients& k) {
  const ChunkRecord record = merge_chunks(d, tensor);
  if (block_thread() != 0) return;
  if (d.sweep.moments_in_pass) d.tensors[tensor] = record.moments;
  write_row(d, tensor, d.measured ? d.tensors[tensor] : no_columns(), k, record);
  __threadfence();
  atomicAdd(&d.all[3], 1u);
}

// The rows of a call that makes only the sums of squares: moments and the affine map.
FG_DEVICE void write_sums_only(const DeviceSweep& d, BlockMemory& block) {
  for (int i = 0; i < d.count; ++i) {
    const TensorJob& job = d.jobs[i];
    if (job.n == 0) continue;
    if (job.factored()) wait_for(&d.meant[i], static_cast<uint32_t>(d.plans[i].mean_tasks));
    Coefficients k = coefficients_now(d, block, i);
    k.scale = 1.0f;  // nothing is scaled, nor compensated
    if (block_thread() != 0) continue;
    write_row(d, i, d.measured ? d.tensors[i] : no_columns(), k, ChunkRecord{});
    table_row(d, i)[kK] = 1.0;
  }
}

// The row of the list, those of tensors without elements, and alpha's state where it was not needed before.
FG_DEVICE void finish_list(const DeviceSweep& d, BlockMemory& block) {
  if (d.needs_all) wait_for(&d.all[1], 1u);
  const bool skipped = d.all[2] != 0u;
  if (d.sums_only && !skipped) {
    write_sums_only(d, block);
  } else if (!skipped) {
    wait_for(d.processed ? &d.all[3] : &d.all[0], static_cast<uint32_t>(d.busy));
  }
  const Coefficients none = {1.0f, 0.0f, 1.0f, 1.0f};
  for (int i = block_thread(); i < d.count; i += kBlockThreads) {
    const bool empty = d.jobs[i].n == 0;
    if (!empty && d.processed && !skipped) continue;
    Moments m = no_columns();
    if (d.measured) m = empty ? no_moments() : d.tensors[i];
    Coefficients k = none;
    if (empty && d.processed && !skipped) {
      k = coefficients_for(d, i, no_moments(), 1.0);
      if (d.sweep.scale_kind == ScaleKind::tensor && d.jobs[i].scales != nullptr) d.jobs[i].scales[0] = k.scale;
    }
    write_row(d, i, m, k, ChunkRecord{});
    if (skipped || d.sums_only) table_row(d, i)[kK] = 1.0;
  }
  __syncthreads();
  Moments all = no_moments();
  if (d.measured) all = merge_list(d);
  TileSums* sums = reinterpret_cast<TileSums*>(d.leaves);  // of which only the first was wanted
  __syncthreads();
  for (int i = block_thread(); i < d.count; i += kBlockThreads) {
    const double* row = table_row(d, i);
    sums[i] = {row[kYY], row[kYQ], row[kQQ]};
  }
  __syncthreads();
  tree_of(sums, d.count, block_thread(), kBlockThreads, add_sums, BlockBarrier());
  __syncthreads();
  if (block_thread() != 0) return;
  double* out = table_row(d, d.count);
  for (int c = 0; c < kTableColumns; ++c) out[c] = 0.0;
  double factor = 1.0;
  if (!skipped && d.processed) {
    if (d.measured_first && d.needs_all) {
      factor = *d.global_factor;
    } else if (d.sweep.lagged != nullptr) {
      // Nobody reads the old state any more.
      factor = global_factor(d, read_moments(lagged_row(d, d.count)), d.sweep.state);
    }
  }
  if (d.measured) {
    write_moments(all, out);
    out[kNonfinite] = count_nonfinite(d);
  }
  for (int i = 0; i < d.count; ++i) {
    const double* row = table_row(d, i);
    out[kZeroed] += row[kZeroed];
    out[kSaturated] += row[kSaturated];
    out[kAbsmax] = row[kAbsmax] > out[kAbsmax] ? row[kAbsmax] : out[kAbsmax];
  }
  out[kYY] = sums[0].yy;
  out[kYQ] = sums[0].yq;
  out[kQQ] = sums[0].qq;
  out[kA] = static_cast<double>(static_cast<float>(factor));
  out[kScale] = out[kK] = 1.0;
}

FASTGRAD_NUMERICS_END
