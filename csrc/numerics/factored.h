// The factored second moment. See docs/numerics.md, section 13.
#pragma once

#include "portable.h"

FASTGRAD_NUMERICS_BEGIN

// What rounds squares of numbers up to `bound` to multiples of a gap, so that the float64 sums of `longest` of them
// are exact. 0 where nothing is counted.
FG_FN double square_rounder(float bound, int64_t longest) {
  if (bound == 0.0f) return 0.0;
  int e = static_cast<int>(float_bits(bound) >> 23);
  e = (e < 1 ? 1 : e) - 127;
  int bits = 0;
  while ((int64_t{1} << bits) < longest) ++bits;
  return 1.5 * power_of_two_double(2 * e + 2 + bits);
}

// magnitude: finite, at most the bound.
FG_FN double rounded_square(float magnitude, double rounder) {
  const double x = magnitude;
  return (x * x + rounder) - rounder;
}

// The gap; 0 where nothing is counted.
FG_FN double square_gap(double rounder) {
  return rounder == 0.0 ? 0.0 : power_of_two_double(static_cast<int>(double_bits(rounder) >> 52) - 1023 - 52);
}

// Where more than one square is added up, the sum with the rounder keeps the rounder's exponent: the rounded square is as
// many gaps as this is above square_gaps(0, rounder). Whole numbers, and sums of them modulo 2^64, have no order.
FG_FN uint64_t square_gaps(float magnitude, double rounder) {
  const double x = magnitude;
  return double_bits(x * x + rounder);
}

FG_FN float moved_mean(float before, double rate, double sum, double count) {
  const double b = before, moved = b + rate * (sum / count - b);
  return moved < 3.4028234663852886e38 ? static_cast<float>(moved) : bits_float(kFloatMax);
}

FASTGRAD_NUMERICS_END
