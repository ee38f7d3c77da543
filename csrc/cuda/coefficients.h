// From moments to what the elements go through (docs/numerics.md, sections 5 and 7), by one thread.
#pragma once

#include "device.h"
#include "device_sweep.h"
#include "numerics/normalizers.h"
#include "numerics/rounding.h"
#include "numerics/stream.h"
#include "numerics/table.h"

FASTGRAD_NUMERICS_BEGIN

FG_DEVICE Method method_of(const DeviceSweep& d) { return static_cast<Method>(d.sweep.method); }
FG_DEVICE Format format_of(const DeviceSweep& d) { return static_cast<Format>(d.sweep.format); }
FG_DEVICE bool by_rows(const DeviceSweep& d, const TensorJob& job) {
  return method_of(d) == Method::centralize && job.normalized() && job.rows > 0;
}
// Of shards nothing is measured but rows, which are never cut.
FG_DEVICE bool measured_first(const DeviceSweep& d, const TensorJob& job) {
  return d.measured_first && (!d.sweep.sharded || by_rows(d, job));
}
FG_DEVICE double* table_row(const DeviceSweep& d, int tensor) { return d.table + int64_t{tensor} * kTableColumns; }
FG_DEVICE const double* lagged_row(const DeviceSweep& d, int tensor) {
  return d.sweep.lagged + int64_t{tensor} * kTableColumns;
}

// t of AdamW. A step in device memory was left out of it.
FG_DEVICE int64_t age_now(const DeviceSweep& d, const TensorJob& job) {
  return job.adamw.age + (d.sweep.step != nullptr ? d.sweep.step[0] : 0);
}

// What names a tensor's noise. A step in device memory was left out when the stream was packed.
FG_DEVICE uint64_t stream_now(const DeviceSweep& d, uint64_t stream) {
  if (d.sweep.step == nullptr) return stream;
  const uint64_t step = static_cast<uint64_t>(d.sweep.step[0]) & ((uint64_t{1} << kStepBits) - 1);
  return stream + (step << kSlotBits);
}

FG_DEVICE double factor_of(const DeviceSweep& d, int tensor) {
  return d.sweep.factors != nullptr ? d.sweep.factors[tensor] : d.jobs[tensor].factor;
}

// The factor of clip or autoscale; `state` is alpha's and is written.
FG_DEVICE double global_factor(const DeviceSweep& d, const Moments& all, double* state) {
  if (all.n == 0.0) return 1.0;
  if (method_of(d) == Method::clip) return clip_factor(all, d.sweep.max_norm);
  if (method_of(d) != Method::autoscale) return 1.0;
  return alpha_factor(static_cast<Alpha>(d.sweep.alpha), standard_deviation(all), state);
}

// With lagged statistics every block makes it for itself; the state is written at the end of the sweep.
FG_DEVICE double lagged_global_factor(const DeviceSweep& d) {
  double state[2] = {0.0, 0.0};
  if (d.sweep.state != nullptr) {
    state[0] = d.sweep.state[0];
    state[1] = d.sweep.state[1];
  }
  return global_factor(d, read_moments(lagged_row(d, d.count)), state);
}

FG_DEVICE Coefficients coefficients_for(const DeviceSweep& d, int tensor, const Moments& current, double factor) {
  const TensorJob& job = d.jobs[tensor];
  const Sweep& sweep = d.sweep;
  const bool lagged = sweep.lagged != nullptr;
  Moments m = current;
  if (lagged) m = read_moments(lagged_row(d, tensor));
  Affine f = {1.0f, 0.0f};
  if (job.normalized() && method_of(d) != Method::none) f = affine_for(method_of(d), m, sweep.eps, factor);
  float scale = 1.0f;
  if (sweep.scale_kind == ScaleKind::tensor && format_of(d) != Format::fp32 && job.quantized()) {
    if (job.given_scales != nullptr) {
      scale = job.given_scales[0];
    } else {
      float absmax = 0.0f;
      if (lagged) {
        absmax = static_cast<float>(lagged_row(d, tensor)[kAbsmax]);
      } else if (by_rows(d, job)) {
        absmax = static_cast<float>(d.row_absmax[tensor]);
      } else if (m.n > 0.0) {
        absmax = absmax_after(m, f);
      }
      scale = scale_for(absmax, format_spec(format_of(d)).largest, sweep.pow2);
    }
  }
  return {f.a, f.c, scale, 1.0f / scale};
}

FASTGRAD_NUMERICS_END
