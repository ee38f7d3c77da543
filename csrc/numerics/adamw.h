// One element of a step of AdamW. See docs/numerics.md, section 12.
#pragma once

#include <math.h>

#include "rounding.h"

FASTGRAD_NUMERICS_BEGIN

// base^exponent by squaring: multiplications alone, in one order.
FG_FN double power(double base, int64_t exponent) {
  double result = 1.0;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result = result * base;
    base = base * base;
  }
  return result;
}

struct AdamwStep {
  float rate1, rate2;  // 1 - beta
  float step;          // learning rate * compensation factor / bias correction of the first moment
  float root;          // 1 / root of the bias correction of the second
  float eps;
  float decay;         // learning rate * weight decay
  bool maximize;
  bool first_moment;   // beta1 != 0: there is one
  double rate2_exact, correction2_root;  // for factored second moments
};

// hyper: lr, beta1, beta2, eps, weight_decay, maximize, unused, unused. k: compensation factor. age: t of the tensor.
FG_FN AdamwStep adamw_step(const double* hyper, double k, int64_t age) {
  const double lr = hyper[0], beta1 = hyper[1], beta2 = hyper[2];
  const double root2 = sqrt(1.0 - power(beta2, age));
  AdamwStep s;
  s.rate1 = static_cast<float>(1.0 - beta1);
  s.rate2 = static_cast<float>(1.0 - beta2);
  s.step = static_cast<float>(lr * k / (1.0 - power(beta1, age)));
  s.root = static_cast<float>(1.0 / root2);
  s.eps = static_cast<float>(hyper[3]);
  s.decay = static_cast<float>(lr * hyper[4]);
  s.maximize = hyper[5] != 0;
  s.first_moment = beta1 != 0;
  s.rate2_exact = 1.0 - beta2;
  s.correction2_root = root2;
  return s;
}

template <class Float>
FG_FN Float adamw_first_moment(Float d, Float m, const AdamwStep& s) {
  return m + s.rate1 * (d - m);
}

// The square is bounded, so that the moment stays finite (and is FLT_MAX of a NaN).
template <class Float>
FG_FN Float adamw_second_moment(Float d, Float v, const AdamwStep& s) {
  const Float square = minimum(d * d, splat<Float>(bits_float(kFloatMax)));
  return v + s.rate2 * (square - v);
}

// w: root of the bias-corrected second moment.
template <class Float>
FG_FN Float adamw_parameter(Float p, Float m, Float w, const AdamwStep& s) {
  return p - (s.step * (m / (w + s.eps)) + s.decay * p);
}

// The unsigned codes of roots, 8 or 4 bits: U is the largest. A root above zero has a code above zero.
constexpr float kRootCodes8 = 255.0f, kRootCodes4 = 15.0f;

template <class Float, class Word>
FG_FN Word root_code(Float r, Float inverse_scale, float largest, Word noise) {
  const Float v = minimum(r * inverse_scale, splat<Float>(largest));
  const Word code = (float_to_word(v * 65536.0f) + noise) >> 16;
  return select((code == Word{}) & (r > splat<Float>(0.0f)), code + 1u, code);
}

// The scale of a block of an int8 parameter: kept as long as it fits.
FG_FN float parameter_scale(float absmax, float scale) {
  if (absmax == 0.0f || (48.0f * scale <= absmax && absmax <= 127.0f * scale)) return scale;
  const float smallest = power_of_two(-126), fitting = absmax / 120.0f;
  return fitting > smallest ? fitting : smallest;
}

FASTGRAD_NUMERICS_END
