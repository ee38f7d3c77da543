// The whole sweep in one launch. Tasks (a chunk to measure, a chunk to process) are handed out in order by a counter;
// one that needs the statistics of a tensor waits for them. What it waits for was handed out earlier, to a block that is
// running: any number of blocks, down to one, gets to the end. As measuring runs ahead of processing by no more than
// fits into the L2 cache, the second read of a gradient does not come from memory.
#pragma once

#include "squares.h"

FASTGRAD_NUMERICS_BEGIN

FG_DEVICE Segment find_segment(const DeviceSweep& d, int64_t task) {
  int64_t low = 0, high = d.segments;  // the last one that does not begin after the task
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (d.segment[middle].first_task <= task) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return d.segment[low];
}

FG_DEVICE int64_t next_task(const DeviceSweep& d, BlockMemory& block) {
  __syncthreads();  // everybody is done with the last task
  if (threadIdx.x == 0) block.task = static_cast<long long>(atomicAdd(d.ticket, 1ull));
  __syncthreads();
  return block.task;
}

FG_DEVICE void measure(const DeviceSweep& d, BlockMemory& block, const Segment& s, int64_t task) {
  if (s.kind == kMeasure) {
    measure_chunk(d, block, s.tensor, task);
  } else {
    measure_rows(d, s.tensor, task);
  }
  if (last_to_arrive(&d.arrived[s.tensor], d.plans[s.tensor].measure_tasks, block)) finish_measured(d, block, s.tensor);
}

template <Format F, Optimizer O>
FG_DEVICE void process(const DeviceSweep& d, BlockMemory& block, int tensor, int64_t chunk) {
  const Coefficients k = coefficients_now(d, block, tensor);
  if (d.needs_all && d.all[2] != 0u) return;  // a non-finite element was found: nothing is written
  if (O == Optimizer::adamw && d.jobs[tensor].factored()) wait_for(&d.rooted[tensor], 1u);
  if (chunk == 0 && threadIdx.x == 0 && d.sweep.scale_kind == ScaleKind::tensor && d.jobs[tensor].scales != nullptr) {
    d.jobs[tensor].scales[0] = k.scale;
  }
  process_chunk<F, O>(d, block, tensor, chunk, k);
  if (last_to_arrive(&d.left[tensor], d.plans[tensor].chunks, block)) finish_processed(d, tensor, k);
}

// A task of a factored second moment.
FG_DEVICE void factor(const DeviceSweep& d, BlockMemory& block, const Segment& s, int64_t task) {
  if (s.kind == kClear) return clear_counts(d, s.tensor, task);
  const Coefficients k = coefficients_now(d, block, s.tensor);
  if (d.needs_all && d.all[2] != 0u) return;
  if (s.kind == kSquares) {
    add_squares(d, s.tensor, task, k);
  } else {
    move_means(d, block, s.tensor, task, k);
  }
}

template <Format F, Optimizer O>
__global__ void __launch_bounds__(kBlockThreads, blocks_per_multiprocessor(O)) sweep_kernel(const DeviceSweep d) {
  BlockMemory& block = block_memory<BlockMemory>();
  for (int64_t task = next_task(d, block); task < d.tasks; task = next_task(d, block)) {
    const Segment s = find_segment(d, task);
    switch (s.kind) {
      case kMeasure:
      case kMeasureRows: measure(d, block, s, task - s.first_task); break;
      case kCoefficients: finish_coefficients(d, block); break;
      case kClear:
      case kSquares:
      case kMeans:
        if constexpr (O == Optimizer::adamw) factor(d, block, s, task - s.first_task);
        break;
      case kProcess: process<F, O>(d, block, s.tensor, task - s.first_task); break;
      default: finish_list(d, block); break;
    }
  }
}

FASTGRAD_NUMERICS_END
