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
// Float is float, or, on the CPU, a vector of floats, for which csrc/cpu/vector.h brings these functions.
FG_FN double to_double(float x) { return x; }
FG_FN float to_float(double x) { return static_cast<float>(x); }

template <class Float>
FG_FN auto sgd_direction(Float gradient, Float parameter, const SgdStep& step, int flags) {
  const auto g = to_double(gradient), d = (flags & kMaximize) ? -g : g;
  return (flags & kCoupledDecay) ? d + step.weight_decay * to_double(parameter) : d;
}

// What is stored has the canonical NaN. Who looks for a NaN among many results may leave it as it is at first.
template <bool CANONICAL, class Double>
FG_FN auto sgd_stored(Double x) {
  if constexpr (CANONICAL) return canonical(to_float(x));
  return to_float(x);
}

// With kMomentum only. A buffer narrower than float32 is used as it is stored.
template <bool CANONICAL = true, class Float, class Double>
FG_FN Float sgd_momentum(Double direction, Float momentum, const SgdStep& step, int flags) {
  if (flags & kFirstStep) return sgd_stored<CANONICAL>(direction);
  return sgd_stored<CANONICAL>(step.momentum * to_double(momentum) + step.one_minus_dampening * direction);
}

template <bool CANONICAL = true, class Float, class Double>
FG_FN Float sgd_parameter(Double direction, Float momentum, Float parameter, const SgdStep& step, int flags) {
  const Double m = to_double(momentum);
  Double update = direction, p = to_double(parameter);
  if (flags & kMomentum) update = (flags & kNesterov) ? direction + step.momentum * m : m;
  if (flags & kDecoupledDecay) p = p * step.decay;
  return sgd_stored<CANONICAL>(p - step.lr * update);
}

FASTGRAD_NUMERICS_END
