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
  double lr;        // learning rate * compensation factor
  double momentum;  // mu
  double one_minus_dampening;
  double weight_decay;
  double decay;  // 1 - learning rate * weight_decay
  int flags;
};

// hyper: lr, momentum, dampening, weight_decay, nesterov, decoupled, maximize, unused. k: compensation factor.
FG_FN SgdStep sgd_step(const double* hyper, double k, bool first) {
  const double lr = hyper[0], mu = hyper[1], dampening = hyper[2], weight_decay = hyper[3];
  const bool nesterov = hyper[4] != 0, decoupled = hyper[5] != 0, maximize = hyper[6] != 0;
  int flags = (maximize ? kMaximize : 0) | (mu != 0 ? kMomentum : 0) | (nesterov ? kNesterov : 0) | (first ? kFirstStep : 0);
  if (weight_decay != 0) flags |= decoupled ? kDecoupledDecay : kCoupledDecay;
  return {lr * k, mu, 1.0 - dampening, weight_decay, 1.0 - lr * weight_decay, flags};
}

// The arithmetic is float64 and every store rounds once. In float32 the rounded mu and lr alone would make the
// trajectory a quarter less accurate. `flags` is step.flags, or a constant that spares the loop its branches.
FG_FN double sgd_direction(float gradient, float parameter, const SgdStep& step, int flags) {
  const double d = (flags & kMaximize) ? -gradient : gradient;
  return (flags & kCoupledDecay) ? d + step.weight_decay * parameter : d;
}

// With kMomentum only. A buffer narrower than float32 is used as it is stored.
FG_FN float sgd_momentum(double direction, float momentum, const SgdStep& step, int flags) {
  const double m = (flags & kFirstStep) ? direction : step.momentum * momentum + step.one_minus_dampening * direction;
  return canonical(static_cast<float>(m));
}

FG_FN float sgd_parameter(double direction, float momentum, float parameter, const SgdStep& step, int flags) {
  const double m = momentum;
  double update = direction, p = parameter;
  if (flags & kMomentum) update = (flags & kNesterov) ? direction + step.momentum * m : m;
  if (flags & kDecoupledDecay) p = p * step.decay;
  return canonical(static_cast<float>(p - step.lr * update));
}

FASTGRAD_NUMERICS_END
