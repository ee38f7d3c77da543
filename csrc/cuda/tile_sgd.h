// SGD on one tile by one warp. See docs/numerics.md, section 9.
#pragma once

#include "coefficients.h"
#include "numerics/sgd.h"
#include "tile_quantize.h"

FASTGRAD_NUMERICS_BEGIN

// One tensor's step.
struct SgdUpdate {
  SgdStep step;
  void* parameter;
  void* momentum;
  Type parameter_type, momentum_type;
  bool stochastic;  // how a narrow parameter is stored
  uint64_t seed, stream;

  FG_DEVICE bool has_momentum() const { return (step.flags & kMomentum) != 0; }
  FG_DEVICE bool all_fp32() const {
    return parameter_type == Type::fp32 && (momentum_type == Type::fp32 || !has_momentum());
  }
  FG_DEVICE bool needs_noise() const { return stochastic && parameter_type != Type::fp32; }
};

FG_DEVICE SgdUpdate sgd_of(const DeviceSweep& d, int tensor) {
  const TensorJob& job = d.jobs[tensor];
  SgdUpdate u;
  u.step = sgd_step(job.hyper, factor_of(d, tensor), job.first());
  u.parameter = job.parameter;
  u.momentum = job.momentum;
  u.parameter_type = job.parameter_type;
  u.momentum_type = job.momentum_type;
  u.stochastic = static_cast<Rounding>(d.sweep.weight_rounding) == Rounding::stochastic;
  u.seed = d.sweep.seed;
  u.stream = stream_now(d, job.weight_stream);
  return u;
}

// The new momentum as it is stored.
FG_DEVICE float stored_momentum(float m, Type type) {
  if (type == Type::fp32) return m;
  const uint32_t code = narrow(m, type, false, 0u);
  return type == Type::bf16 ? bits_float(code << 16) : half_to_float(static_cast<uint16_t>(code));
}

FG_DEVICE void update_element(const SgdUpdate& u, float gradient, float* parameter, float* momentum, Type momentum_type) {
  const double direction = sgd_direction(gradient, *parameter, u.step, u.step.flags);
  float m = 0.0f;
  if (u.has_momentum()) *momentum = m = stored_momentum(sgd_momentum(direction, *momentum, u.step, u.step.flags), momentum_type);
  *parameter = sgd_parameter(direction, m, *parameter, u.step, u.step.flags);
}

// A whole tile in float32. Four rows are loaded before the first is needed: that many bytes in flight.
FG_DEVICE void update_whole_fp32(const SgdUpdate& u, const LaneTile& gradient, int64_t offset) {
  constexpr int kAhead = 4;
  float* parameter = static_cast<float*>(u.parameter) + offset + kQuad * lane_number();
  float* momentum = static_cast<float*>(u.momentum) + offset + kQuad * lane_number();
#pragma unroll
  for (int first = 0; first < kRows; first += kAhead) {
    Quad p[kAhead], m[kAhead];
#pragma unroll
    for (int r = 0; r < kAhead; ++r) p[r] = load_floats(parameter + (first + r) * kColumns);
    if (u.has_momentum()) {
#pragma unroll
      for (int r = 0; r < kAhead; ++r) m[r] = load_floats(momentum + (first + r) * kColumns);
    }
#pragma unroll
    for (int r = 0; r < kAhead; ++r) {
#pragma unroll
      for (int k = 0; k < kQuad; ++k) {
        update_element(u, gradient.row[first + r].v[k], &p[r].v[k], &m[r].v[k], Type::fp32);
      }
      const int at = (first + r) * kColumns;
      if (u.has_momentum()) store_floats(momentum + at, m[r]);
      store_floats(parameter + at, p[r]);
    }
  }
}

// A whole tile of any types.
FG_DEVICE void update_whole(const SgdUpdate& u, const LaneTile& gradient, int64_t offset, int64_t tile) {
  const LaneNoise noise = u.needs_noise() ? lane_noise(u.seed, u.stream, tile, lane_number()) : no_noise();
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t at = offset + r * kColumns + kQuad * lane_number();
    Quad p = load_quad(u.parameter, u.parameter_type, at), m = {};
    if (u.has_momentum()) m = load_quad(u.momentum, u.momentum_type, at);
#pragma unroll
    for (int k = 0; k < kQuad; ++k) update_element(u, gradient.row[r].v[k], &p.v[k], &m.v[k], u.momentum_type);
    if (u.has_momentum()) store_quad(u.momentum, u.momentum_type, at, m, false, QuadWord{});
    store_quad(u.parameter, u.parameter_type, at, p, u.needs_noise(), noise.row(r));
  }
}

// One element, wherever it lies.
FG_DEVICE void update_one(const SgdUpdate& u, float gradient, int64_t at, uint32_t noise) {
  float p = load_element(u.parameter, u.parameter_type, at), m = 0.0f;
  if (u.has_momentum()) m = load_element(u.momentum, u.momentum_type, at);
  update_element(u, gradient, &p, &m, u.momentum_type);
  if (u.has_momentum()) store_element(u.momentum, u.momentum_type, at, m, false, 0u);
  store_element(u.parameter, u.parameter_type, at, p, u.needs_noise(), noise);
}

FASTGRAD_NUMERICS_END
