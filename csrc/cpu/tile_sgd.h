// SGD on one tile. See docs/numerics.md, section 9.
#pragma once

#include "tile_memory.h"  // and with it vector.h, before the formulas

#include "numerics/sgd.h"

FASTGRAD_NUMERICS_BEGIN

namespace {

// `narrow`: the momentum is stored in fewer bits than float32, and must be used as stored.
struct NarrowMomentum {
  void* target = nullptr;
  Type type = Type::fp32;
  int64_t offset = 0;
};

template <int FLAGS>
void sgd_elements(const float* __restrict q, int count, float* __restrict p, float* __restrict m, const SgdStep& step,
                  const NarrowMomentum& narrow) {
  const SgdStep s = step;
  if ((FLAGS & kMomentum) && narrow.target != nullptr) {
    for (int i = 0; i < count; ++i) m[i] = sgd_momentum(sgd_direction(q[i], p[i], s, FLAGS), m[i], s, FLAGS);
    store_tile(m, count, narrow.target, narrow.type, narrow.offset, Rounding::nearest, nullptr);
    widen(narrow.target, narrow.type, narrow.offset, count, m);
    for (int i = 0; i < count; ++i) p[i] = sgd_parameter(sgd_direction(q[i], p[i], s, FLAGS), m[i], p[i], s, FLAGS);
    return;
  }
  int i = 0;
  FewFloats total = {};  // a NaN in it tells of one in p, and there is none in m without one in p
  for (; i + kDoubles <= count; i += kDoubles) {
    ask_for_line(q + i), ask_for_line(p + i);
    if constexpr (FLAGS & kMomentum) ask_for_line(m + i);
    const FewFloats parameter = load_few(p + i);
    const Doubles d = sgd_direction(load_few(q + i), parameter, s, FLAGS);
    FewFloats momentum = {};
    if constexpr (FLAGS & kMomentum) {
      momentum = sgd_momentum<false>(d, (FLAGS & kFirstStep) ? momentum : load_few(m + i), s, FLAGS);
      store_few(m + i, momentum);
    }
    const FewFloats result = sgd_parameter<false>(d, momentum, parameter, s, FLAGS);
    total = total + result;
    store_few(p + i, result);
  }
  if (has_nan(total)) {
    for (int j = 0; j < i; ++j) {
      p[j] = canonical(p[j]);
      if (FLAGS & kMomentum) m[j] = canonical(m[j]);
    }
  }
  for (; i < count; ++i) {
    const double d = sgd_direction(q[i], p[i], s, FLAGS);
    float momentum = 0;
    if (FLAGS & kMomentum) m[i] = momentum = sgd_momentum(d, m[i], s, FLAGS);
    p[i] = sgd_parameter(d, momentum, p[i], s, FLAGS);
  }
}

using SgdElements = void (*)(const float*, int, float*, float*, const SgdStep&, const NarrowMomentum&);

// A constant: code that ran when the module is loaded would run on machines without this instruction set.
struct SgdVariants {
  SgdElements table[kSgdVariants] = {};
  template <int FLAGS = 0>
  constexpr void fill() {
    if constexpr (FLAGS < kSgdVariants) {
      table[FLAGS] = sgd_elements<FLAGS>;
      fill<FLAGS + 1>();
    }
  }
  constexpr SgdVariants() { fill(); }
};
constexpr SgdVariants sgd_variants;

// q: treated gradients at their positions in the tile.
inline void sgd_tile(const TensorJob& job, const Sweep& sweep, const float* q, const Span& span) {
  const SgdStep step = sgd_step(job.hyper, job.factor, job.first());
  const int64_t offset = span.offset;
  const int count = span.count();
  NarrowMomentum narrow;
  const bool with_momentum = (step.flags & kMomentum) != 0;
  alignas(64) float p_buffer[kTile], m_buffer[kTile];
  float *p = p_buffer, *m = m_buffer;
  if (job.parameter_type == Type::fp32) {
    p = static_cast<float*>(job.parameter) + offset;
  } else {
    widen(job.parameter, job.parameter_type, offset, count, p);
  }
  if (with_momentum && job.momentum_type == Type::fp32) {
    m = static_cast<float*>(job.momentum) + offset;
  } else if (with_momentum) {
    widen(job.momentum, job.momentum_type, offset, count, m);
    narrow = {job.momentum, job.momentum_type, offset};
  }
  sgd_variants.table[step.flags](q + span.begin, count, p, m, step, narrow);
  if (p == p_buffer) {
    alignas(64) uint16_t noise[kTile];
    const Rounding rounding = static_cast<Rounding>(sweep.weight_rounding);
    if (rounding == Rounding::stochastic) noise_tile(PhiloxKeys(sweep.seed), job.weight_stream, span.tile, noise);
    store_tile(p, count, job.parameter, job.parameter_type, offset, rounding, noise + span.begin);
  }
}

}  // namespace

FASTGRAD_NUMERICS_END
