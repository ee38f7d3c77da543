// Moments: n, mean, M2 (the sum of squared deviations), extremes, and their merge in float64.
#pragma once

#include "portable.h"

FASTGRAD_NUMERICS_BEGIN

struct Moments {
  double n, mean, m2;  // of the finite elements
  double min, max;     // of the finite elements; +inf and -inf where there are none
  double nonfinite;    // how many elements are NaN or infinite
};

FG_FN Moments no_moments() {
  const double infinity = bits_double(0x7ff0000000000000ull);
  return {0.0, 0.0, 0.0, infinity, -infinity, 0.0};
}

// The parallel update of Chan, Golub and LeVeque (1979).
FG_FN Moments merge_moments(const Moments& a, const Moments& b) {
  Moments out = a;
  out.min = b.min < a.min ? b.min : a.min;
  out.max = b.max > a.max ? b.max : a.max;
  out.nonfinite = a.nonfinite + b.nonfinite;
  if (b.n == 0.0) return out;
  out.n = a.n + b.n;
  if (a.n == 0.0) {
    out.mean = b.mean;
    out.m2 = b.m2;
    return out;
  }
  const double delta = b.mean - a.mean;
  out.mean = a.mean + delta * (b.n / out.n);
  out.m2 = (a.m2 + b.m2) + (delta * delta) * (a.n * b.n / out.n);
  return out;
}

// The exponent by which a tile is scaled down so that its squares neither overflow nor vanish.
FG_FN int range_exponent(uint32_t absmax_bits) {
  constexpr uint32_t kSmallest = static_cast<uint32_t>(127 - 40) << 23;  // 2^-40
  constexpr uint32_t kLargest = static_cast<uint32_t>(127 + 50) << 23;   // 2^50
  if (absmax_bits == 0u || (absmax_bits >= kSmallest && absmax_bits <= kLargest)) return 0;
  const int e = static_cast<int>(absmax_bits >> 23) - 127;
  return e < -126 ? -126 : e > 126 ? 126 : e;
}

// Moments of a tile of n > 0 finite elements from its three sums: sum is that of x (scaled by 2^-e), s1 and s2
// those of d = x - sum/n and of d*d. s1 is what the rounding of the float32 mean left over.
FG_FN Moments tile_moments(float n, float mean32, float s1, float s2, int e) {
  const double nd = n, s1d = s1;
  const double m2 = static_cast<double>(s2) - s1d * s1d / nd;
  Moments out = no_moments();
  out.n = nd;
  out.mean = (static_cast<double>(mean32) + s1d / nd) * power_of_two_double(e);
  out.m2 = (m2 > 0.0 ? m2 : 0.0) * power_of_two_double(2 * e);
  return out;
}

// Merges k leaves in place into leaf 0: leaf j with leaf j + s for s = P/2, P/4, ..., 1, P the smallest power of
// two not below k.
template <class Leaf, class Merge>
FG_FN void halving_tree(Leaf* leaves, int64_t k, Merge merge) {
  int64_t s = 1;
  while (s < k) s *= 2;
  for (s /= 2; s > 0; s /= 2) {
    for (int64_t j = 0; j < s && j + s < k; ++j) leaves[j] = merge(leaves[j], leaves[j + s]);
  }
}

FASTGRAD_NUMERICS_END
