// The order of a sweep's tasks: host code, without CUDA.
#pragma once

#include <vector>

#include "device_sweep.h"
#include "needs.h"
#include "numerics/tile.h"

FASTGRAD_NUMERICS_BEGIN

class TaskPlan {
 public:
  // cached_bytes: of gradients that are read again while they are in the L2 cache.
  TaskPlan(const std::vector<TensorJob>& jobs, DeviceSweep& d, int64_t cached_bytes) : jobs_(jobs), d_(d) {
    decide();
    place();
    if (!d_.processed) {
      add_measure(0, count());
    } else if (d_.needs_all) {
      add_measure(0, count());
      add_task(kCoefficients, 0, 1);
      add_groups(cached_bytes, false);
    } else {
      add_groups(cached_bytes, d_.measured_first);
    }
    add_task(kFinish, 0, 1);
    d_.tasks = next_;
    d_.segments = static_cast<int64_t>(segments_.size());
  }

  const std::vector<Segment>& segments() const { return segments_; }
  const std::vector<TensorPlan>& plans() const { return plans_; }
  int64_t chunks() const { return chunks_; }
  int64_t rows() const { return rows_; }
  int64_t spans() const { return spans_; }
  int64_t counts() const { return counts_; }
  int64_t leaves() const { return leaves_; }
  int64_t roots() const { return roots_; }

 private:
  int count() const { return static_cast<int>(jobs_.size()); }
  bool by_rows(const TensorJob& job) const { return fastgrad::by_rows(job, d_.sweep); }
  static int64_t chunks_of(int64_t n) { return (n + kChunk - 1) / kChunk; }

  void decide() {
    const Sweep& s = d_.sweep;
    const Needs needs = needs_of(jobs_, s);
    bool works = static_cast<Method>(s.method) != Method::none || needs.all_first || !s.measure;
    d_.any_normalized = false;
    d_.busy = 0;
    for (const TensorJob& job : jobs_) {
      d_.busy += job.n > 0;
      d_.any_normalized |= job.normalized();
      works |= job.out != nullptr || job.codes != nullptr || job.parameter != nullptr;
      works |= static_cast<Format>(s.format) != Format::fp32 && job.quantized();
    }
    d_.measured_first = needs.moments_first;
    d_.needs_all = needs.all_first;
    d_.processed = works;
    d_.sweep.moments_in_pass = works && needs.moments_in_pass;
    d_.sums_only = s.update == Update::adamw && s.phase == Phase::sums;
    d_.measured = !s.sharded && (d_.measured_first || d_.sweep.moments_in_pass || !works);
  }

  void place() {
    for (const TensorJob& job : jobs_) {
      TensorPlan p = {};
      p.first_chunk = chunks_;
      p.chunks = chunks_of(job.grid());
      chunks_ += p.chunks;
      p.measure_tasks = d_.sweep.sharded ? 0 : p.chunks;
      if (by_rows(job) && job.n > 0) {
        const int64_t length = job.n / job.rows, piece = length < kChunk ? length : kChunk;
        p.first_row = rows_;
        p.first_span = spans_;
        p.spans_per_row = chunks_of(length);
        const int64_t spans = job.rows * p.spans_per_row;
        // A warp's share is about a fraction of a chunk: short rows go to it by the dozen.
        const int64_t per_warp = kChunk / kBlockWarps / piece;
        p.spans_per_task = kBlockWarps * (per_warp > 1 ? per_warp : 1);
        p.measure_tasks = (spans + p.spans_per_task - 1) / p.spans_per_task;
        rows_ += job.rows;
        spans_ += spans;
      }
      if (job.factored() && job.n > 0) place_factored(job, p);
      plans_.push_back(p);
    }
  }

  void place_factored(const TensorJob& job, TensorPlan& p) {
    const int64_t columns = job.n / job.rows, all = job.rows + columns;
    factored_ = true;
    p.first_root = roots_;
    roots_ += columns_begin(columns_begin(job.rows) + columns);
    p.first_leaf = leaves_;
    leaves_ += columns;
    p.mean_tasks = pieces(all, kMeansPerTask);
    if (d_.sweep.phase == Phase::update) return;
    p.first_count = counts_;
    counts_ += all;
    p.clear_tasks = pieces(all, kClearedPerTask);
    p.square_tasks = pieces(pieces(job.rows, kBandRows) * pieces(columns, kColumns), kUnitsPerTask);
  }
  static int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

  void add_task(int kind, int tensor, int64_t tasks) {
    if (tasks == 0) return;
    segments_.push_back({next_, tensor, kind});
    next_ += tasks;
  }
  void add(int kind, int64_t TensorPlan::*tasks, int first, int last) {
    for (int i = first; i < last; ++i) add_task(kind, i, plans_[i].*tasks);
  }
  void add_measure(int first, int last) {
    for (int i = first; i < last; ++i) {
      add_task(by_rows(jobs_[i]) ? kMeasureRows : kMeasure, i, plans_[i].measure_tasks);
    }
  }

  // Every stage of a group comes after the stage before of the next one, so that nobody waits at a group's end. What is under
  // way in all stages is to fit into the cache.
  void add_groups(int64_t cached_bytes, bool measure) {
    const bool squares = factored_ && d_.sweep.phase != Phase::update;
    const int stages = measure + squares + 1;
    std::vector<int> starts = {0};
    while (starts.back() < count()) starts.push_back(end_of_group(starts.back(), stages > 1 ? cached_bytes / stages : 0));
    const int groups = static_cast<int>(starts.size()) - 1;
    for (int turn = 0; turn < groups + stages; ++turn) {
      int group = turn;
      if (squares && group < groups) add(kClear, &TensorPlan::clear_tasks, starts[group], starts[group + 1]);
      if (measure) {
        if (group < groups) add_measure(starts[group], starts[group + 1]);
        group -= 1;
      }
      const int squared = group;
      if (squares && squared >= 0 && squared < groups) {
        add(kSquares, &TensorPlan::square_tasks, starts[squared], starts[squared + 1]);
      }
      if (squares) group -= 1;
      if (group >= 0 && group < groups) {
        if (factored_ && !squares) add(kMeans, &TensorPlan::mean_tasks, starts[group], starts[group + 1]);
        if (!d_.sums_only) add(kProcess, &TensorPlan::chunks, starts[group], starts[group + 1]);
      }
      if (squares && squared >= 0 && squared < groups) {
        add(kMeans, &TensorPlan::mean_tasks, starts[squared], starts[squared + 1]);
      }
    }
  }
  // bytes 0, or work in no order that the cache would profit from: all tensors.
  int end_of_group(int first, int64_t bytes_at_once) const {
    if (bytes_at_once == 0 || d_.sweep.two_reads) return count();
    int last = first;
    for (int64_t bytes = 0; last < count() && (last == first || bytes + bytes_of(last) <= bytes_at_once); ++last) {
      bytes += bytes_of(last);
    }
    return last;
  }
  int64_t bytes_of(int i) const { return jobs_[i].n * (jobs_[i].grad_type == Type::fp32 ? 4 : 2); }

  const std::vector<TensorJob>& jobs_;
  DeviceSweep& d_;
  std::vector<Segment> segments_;
  std::vector<TensorPlan> plans_;
  int64_t next_ = 0, chunks_ = 0, rows_ = 0, spans_ = 0, counts_ = 0, leaves_ = 0, roots_ = 0;
  bool factored_ = false;
};

FASTGRAD_NUMERICS_END
