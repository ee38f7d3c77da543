// The normalizers as one affine map y = (x - c) * a per tensor. See docs/numerics.md, section 7.
#pragma once

#include "moments.h"

#include <math.h>

FASTGRAD_NUMERICS_BEGIN

enum class Method : int { none, centre, znorm, clip, autoscale, centralize };
enum class Alpha : int { ratio_first, ratio_max, sigma, inverse_log, log, one_plus, one, given };

// Natural logarithm from IEEE operations alone, so that every backend gets the same bits.
FG_FN double log64(double x) {
  const uint64_t bits = double_bits(x);  // x is normal and positive
  int k = static_cast<int>(bits >> 52) - 1022;
  double f = bits_double((bits & 0x000fffffffffffffull) | 0x3fe0000000000000ull);  // [0.5, 1)
  if (f < 0.7071067811865476) {
    f = f * 2.0;
    k -= 1;
  }
  const double u = (f - 1.0) / (f + 1.0), square = u * u;
  double p = 0.0;
  for (int j = 21; j >= 1; j -= 2) p = p * square + 1.0 / j;
  return k * 0.6931471805599453 + 2.0 * u * p;
}

// The global factor of autoscale. state = {first sigma > 0, largest sigma}, updated before use.
FG_FN double alpha_factor(Alpha rule, double sigma, double* state) {
  const double cap = power_of_two_double(126);
  if (rule == Alpha::given) return state[0] < 0.0 ? 0.0 : state[0] > cap ? cap : state[0];  // made by the caller
  if (!(state[0] > 0.0)) state[0] = sigma;
  if (sigma > state[1]) state[1] = sigma;
  if (!(sigma > 0.0) || rule == Alpha::one) return 1.0;
  double alpha = 1.0;
  const double low = power_of_two_double(-126), high = 1.0 - power_of_two_double(-10);
  const double inside = sigma < low ? low : sigma > high ? high : sigma;
  switch (rule) {
    case Alpha::ratio_first: alpha = sigma / state[0]; break;
    case Alpha::ratio_max: alpha = sigma / state[1]; break;
    case Alpha::sigma: alpha = sigma; break;
    case Alpha::inverse_log: alpha = 1.0 / -log64(inside); break;
    case Alpha::log: alpha = -log64(inside); break;
    case Alpha::one_plus: alpha = 1.0 + sigma; break;
    default: break;
  }
  return alpha < 0.0 ? 0.0 : alpha > cap ? cap : alpha;
}

// sqrt is correctly rounded everywhere.
FG_FN double standard_deviation(const Moments& m) { return m.n > 0.0 ? sqrt(m.m2 / m.n) : 0.0; }
FG_FN double euclidean_norm(const Moments& m) { return sqrt(m.m2 + m.n * m.mean * m.mean); }

FG_FN double clip_factor(const Moments& all, double max_norm) {
  const double factor = max_norm / (euclidean_norm(all) + 1e-6);
  return factor < 1.0 ? factor : 1.0;
}

struct Affine {
  float a, c;
};

// global_factor: alpha or the clip factor. (Centralize has a c per row: see the caller.)
FG_FN Affine affine_for(Method method, const Moments& m, double eps, double global_factor) {
  if (m.n == 0.0 || method == Method::none || method == Method::centralize) return {1.0f, 0.0f};
  const float mean = static_cast<float>(m.mean);
  if (method == Method::centre) return {1.0f, mean};
  if (method == Method::clip) return {static_cast<float>(global_factor), 0.0f};
  if (method == Method::autoscale) return {static_cast<float>(global_factor), mean};
  const double cap = power_of_two_double(126);
  const double a = 1.0 / (standard_deviation(m) + eps);
  return {static_cast<float>(a < cap ? a : cap), mean};
}

FG_FN bool changes_nothing(Affine f) { return f.a == 1.0f && f.c == 0.0f; }
template <class Float>
FG_FN Float apply_affine(Float x, Affine f) {
  return (x - f.c) * f.a;
}

// The largest magnitude after the map, which is monotone: exactly that of an end of the range.
FG_FN float absmax_after(const Moments& m, Affine f) {
  float low = static_cast<float>(m.min), high = static_cast<float>(m.max);
  if (!changes_nothing(f)) {
    low = apply_affine(low, f);
    high = apply_affine(high, f);
  }
  low = low == low ? magnitude(low) : 0.0f;  // an infinite difference times a = 0
  high = high == high ? magnitude(high) : 0.0f;
  const float largest = low > high ? low : high;
  return largest < bits_float(kFloatMax) ? largest : bits_float(kFloatMax);
}

FASTGRAD_NUMERICS_END
