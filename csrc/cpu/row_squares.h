// Sums of the squares of the rows and columns of a matrix, exact. See docs/numerics.md, section 13.
#pragma once

#include "job.h"
#include "numerics/factored.h"
#include "tile_memory.h"

FASTGRAD_NUMERICS_BEGIN

namespace {

// Adds the squares of `count` numbers to the sums of their columns; gives their sum. The order of the additions is
// free, as they are exact.
double add_squares(const float* __restrict y, int count, float bound, double rounder, double* __restrict columns) {
  constexpr int kAtOnce = 16;
  double sums[kAtOnce] = {};
  int i = 0;
  for (; i + kAtOnce <= count; i += kAtOnce) {
    for (int l = 0; l < kAtOnce; ++l) {
      const float m = magnitude(y[i + l]);
      const float finite = float_bits(m) < kInfinity ? m : 0.0f;
      const double t = rounded_square(finite < bound ? finite : bound, rounder);
      sums[l] = sums[l] + t;
      columns[i + l] = columns[i + l] + t;
    }
  }
  double sum = 0.0;
  for (; i < count; ++i) {
    const float m = magnitude(y[i]);
    const float finite = float_bits(m) < kInfinity ? m : 0.0f;
    const double t = rounded_square(finite < bound ? finite : bound, rounder);
    sum = sum + t;
    columns[i] = columns[i] + t;
  }
  for (int l = 0; l < kAtOnce; ++l) sum = sum + sums[l];
  return sum;
}

}  // namespace

FASTGRAD_NUMERICS_END
