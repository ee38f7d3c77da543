// One element of a step of SGD. See docs/numerics.md, section 9.
#pragma once

#include "portable.h"

FASTGRAD_NUMERICS_BEGIN

enum SgdFlags : int {
  kMaximize = 1,
  kCoupledDecay = 2,
  kDecoupledDecay = 4,
  kMomentum = 8,
  kNesterov = 16,
  kFirstStep = 32,
  kSgdVariants = 64,
};

struct SgdStep {
  double lr;                   // learning rate * compensation factor
  double momentum;             // mu
  double one_minus_dampening;
  double weight_decay;
  double decay;  // 1 - learning rate * weight_decay
  int flags;
};

// The arithmetic is float64 and every store rounds once. In float32 the rounded mu and lr alone would make the
// trajectory a quarter less accurate.
template <int FLAGS>
FG_FN double sgd_direction(float gradient, float parameter, const SgdStep& step) {
  const double g = gradient, d = FLAGS & kMaximize ? -g : g;
  return FLAGS & kCoupledDecay ? d + step.weight_decay * parameter : d;
}

// With kMomentum only. A buffer narrower than float32 is used as it is stored.
template <int FLAGS>
FG_FN float sgd_momentum(double direction, float momentum, const SgdStep& step) {
  const double m = FLAGS & kFirstStep ? direction : step.momentum * momentum + step.one_minus_dampening * direction;
  return canonical(static_cast<float>(m));
}

template <int FLAGS>
FG_FN float sgd_parameter(double direction, float momentum, float parameter, const SgdStep& step) {
  const double m = momentum;
  double update = direction, p = parameter;
  if (FLAGS & kMomentum) update = FLAGS & kNesterov ? direction + step.momentum * m : m;
  if (FLAGS & kDecoupledDecay) p = p * step.decay;
  return canonical(static_cast<float>(p - step.lr * update));
}

FASTGRAD_NUMERICS_END
