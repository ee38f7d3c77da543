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
    } else if (!d_.measured_first) {
      add(kProcess, 0, count());
    } else if (d_.needs_all || d_.sweep.two_reads) {
      add_measure(0, count());
      if (d_.needs_all) add_task(kCoefficients, 0, 1);
      add(kProcess, 0, count());
    } else {
      add_groups(cached_bytes);
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
    d_.measured = d_.measured_first || d_.sweep.moments_in_pass || !works;
  }

  void place() {
    for (const TensorJob& job : jobs_) {
      TensorPlan p = {};
      p.first_chunk = chunks_;
      p.chunks = chunks_of(job.n);
      chunks_ += p.chunks;
      p.measure_tasks = p.chunks;
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
      plans_.push_back(p);
    }
  }

  void add_task(int kind, int tensor, int64_t tasks) {
    if (tasks == 0) return;
    segments_.push_back({next_, tensor, kind});
    next_ += tasks;
  }
  void add(int kind, int first, int last) {
    for (int i = first; i < last; ++i) add_task(kind, i, plans_[i].chunks);
  }
  void add_measure(int first, int last) {
    for (int i = first; i < last; ++i) {
      add_task(by_rows(jobs_[i]) ? kMeasureRows : kMeasure, i, plans_[i].measure_tasks);
    }
  }

  // Measures one group ahead of what is processed, so that nobody waits at a group's end.
  void add_groups(int64_t cached_bytes) {
    int processed_to = 0;
    for (int first = 0; first < count();) {
      int last = first;
      for (int64_t bytes = 0; last < count() && (last == first || bytes + bytes_of(last) <= cached_bytes / 2); ++last) {
        bytes += bytes_of(last);
      }
      add_measure(first, last);
      add(kProcess, processed_to, first);
      processed_to = first;
      first = last;
    }
    add(kProcess, processed_to, count());
  }
  int64_t bytes_of(int i) const { return jobs_[i].n * (jobs_[i].grad_type == Type::fp32 ? 4 : 2); }

  const std::vector<TensorJob>& jobs_;
  DeviceSweep& d_;
  std::vector<Segment> segments_;
  std::vector<TensorPlan> plans_;
  int64_t next_ = 0, chunks_ = 0, rows_ = 0, spans_ = 0;
};

FASTGRAD_NUMERICS_END
