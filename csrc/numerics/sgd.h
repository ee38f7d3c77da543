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
  float lr;                   // (learning rate * compensation factor), the product made in float64
  float momentum;             // mu
  float one_minus_dampening;  // made in float64
  float weight_decay;
  float decay;                // 1 - lr * weight_decay, made in float64
  int flags;
};

template <int FLAGS>
FG_FN void sgd_element(float gradient, float& parameter, float& momentum, const SgdStep& step) {
  float p = parameter;
  float d = FLAGS & kMaximize ? -gradient : gradient;
  if (FLAGS & kCoupledDecay) d = d + step.weight_decay * p;
  float update = d;
  if (FLAGS & kMomentum) {
    const float m = FLAGS & kFirstStep ? d : step.momentum * momentum + step.one_minus_dampening * d;
    momentum = canonical(m);
    update = FLAGS & kNesterov ? d + step.momentum * m : m;
  }
  if (FLAGS & kDecoupledDecay) p = p * step.decay;
  parameter = canonical(p - step.lr * update);
}

FASTGRAD_NUMERICS_END
