// What of docs/numerics.md, section 11, a call needs, and in which order: for the CPU and the GPU.
#pragma once

#include <vector>

#include "job.h"
#include "numerics/formats.h"
#include "numerics/normalizers.h"

FASTGRAD_NUMERICS_BEGIN

// Whether a tensor is centralized: row by row of its dim 0.
inline bool by_rows(const TensorJob& job, const Sweep& sweep) {
  return static_cast<Method>(sweep.method) == Method::centralize && job.normalized() && job.rows > 0;
}

inline bool scaled_by_tensor(const Sweep& sweep) {
  return sweep.scale_kind == ScaleKind::tensor && static_cast<Format>(sweep.format) != Format::fp32;
}

struct Needs {
  bool moments_first = false;    // statistics of a tensor come before the rest of its sweep
  bool all_first = false;        // ... those of all tensors
  bool moments_in_pass = false;  // they are made with the rest
};

inline Needs needs_of(const std::vector<TensorJob>& jobs, const Sweep& sweep) {
  const Method method = static_cast<Method>(sweep.method);
  const bool lagged = sweep.lagged != nullptr;
  Needs needs;
  if (sweep.sharded) {
    for (const TensorJob& job : jobs) needs.moments_first |= by_rows(job, sweep);
    return needs;
  }
  needs.all_first = sweep.skip_nonfinite || (!lagged && (method == Method::autoscale || method == Method::clip));
  needs.moments_first = needs.all_first;
  if (method != Method::none && method != Method::centralize && !lagged) needs.moments_first = true;
  for (const TensorJob& job : jobs) {
    if (by_rows(job, sweep)) needs.moments_first = true;
    if (scaled_by_tensor(sweep) && job.given_scales == nullptr && !lagged) needs.moments_first = true;
    if (job.factored() && sweep.phase != Phase::update && job.adamw.bound < 0.0f) needs.moments_first = true;
  }
  const bool moments = sweep.measure || method != Method::none;
  if (sweep.phase == Phase::sums && moments) needs.moments_first = true;  // there is no pass after them
  needs.moments_in_pass = !needs.moments_first && moments;
  return needs;
}

FASTGRAD_NUMERICS_END
