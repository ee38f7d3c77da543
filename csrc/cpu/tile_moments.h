// Moments of one tile. See docs/numerics.md, section 6.
#pragma once

#include "numerics/moments.h"
#include "vector.h"

FASTGRAD_NUMERICS_BEGIN

struct TileSum {
  float sum, min, max;
};

// A part of the tile after next is asked for with every second row of each of the two passes: all in the first, memory
// would rest in the second. In the order of memory, line after line: in the order of the columns, half as much comes.
inline __attribute__((always_inline)) void ask_for(const float* x, int row, int column, int half) {
  if (row % 2 == 0 && column % kLine == 0) {
    __builtin_prefetch(x + 2 * kTile + half * kTile / 2 + column * (kRows / 2) + row / 2 * kLine);
  }
}

// x: `rows` whole rows; elements that do not exist are +0. min and max are over all of them.
inline __attribute__((always_inline)) TileSum sum_and_range(const float* __restrict x, int rows) {
  alignas(64) float sums[kColumns];
  // Of even and of odd rows: one chain through all of them would take longer than the rest of the work.
  Floats lowest[2], highest[2];
  lowest[0] = lowest[1] = highest[0] = highest[1] = load_floats(x);
  for (int c = 0; c < kColumns; c += kFloats) {
    Floats sum = {};
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Floats v = load_floats(x + r * kColumns + c);
      ask_for(x, r, c, 0);
      sum = sum + v;
      lowest[r % 2] = minimum(v, lowest[r % 2]);
      highest[r % 2] = maximum(v, highest[r % 2]);
    }
    store_floats(sums + c, sum);
  }
  return {halve(sums), smallest_lane(minimum(lowest[0], lowest[1])), largest_lane(maximum(highest[0], highest[1]))};
}

// s1 = sum of d, s2 = sum of d*d, with d = x - mean32; `count` elements exist, the others have d = 0.
inline __attribute__((always_inline)) void deviations(const float* __restrict x, int count, float mean32, float* s1, float* s2) {
  alignas(64) float first[kColumns], second[kColumns];
  const int rows = count / kColumns, tail = count % kColumns;
  for (int c = 0; c < kColumns; c += kFloats) {
    Floats a = {}, b = {};
    for (int r = 0; r < rows; ++r) {
      const Floats d = load_floats(x + r * kColumns + c) - mean32;
      ask_for(x, r, c, 1);
      a = a + d;
      b = b + d * d;
    }
    store_floats(first + c, a);
    store_floats(second + c, b);
  }
  for (int c = 0; c < tail; ++c) {
    const float d = x[rows * kColumns + c] - mean32;
    first[c] = first[c] + d;
    second[c] = second[c] + d * d;
  }
  *s1 = halve(first);
  *s2 = halve(second);
}

// Any tile, element by element where it matters: non-finite elements, magnitudes out of range.
inline Moments moments_of_odd_tile(const float* __restrict x, int count) {
  alignas(64) float clean[kTile];
  uint32_t absmax = 0;
  int finite = 0;
  Moments range = no_moments();
  for (int i = 0; i < count; ++i) {
    const bool ok = is_finite(x[i]);
    clean[i] = ok ? x[i] : 0.0f;
    const uint32_t m = float_bits(clean[i]) & kMagnitude;
    absmax = m > absmax ? m : absmax;
    if (!ok) continue;
    finite += 1;
    range.min = x[i] < range.min ? x[i] : range.min;
    range.max = x[i] > range.max ? x[i] : range.max;
  }
  if (finite == 0) {
    range.nonfinite = count;
    return range;
  }
  const int e = range_exponent(absmax);
  const float factor = power_of_two(-e);
  for (int i = 0; i < kTile; ++i) clean[i] = i < count ? clean[i] * factor : 0.0f;
  const float n = static_cast<float>(finite);
  const float mean32 = sum_and_range(clean, kRows).sum / n;
  alignas(64) float first[kTile], second[kTile];
  for (int i = 0; i < kTile; ++i) {
    const float d = i < count && is_finite(x[i]) ? clean[i] - mean32 : 0.0f;
    first[i] = d;
    second[i] = d * d;
  }
  Moments out = tile_moments(n, mean32, sum_and_range(first, kRows).sum, sum_and_range(second, kRows).sum, e);
  out.min = range.min + 0.0;
  out.max = range.max + 0.0;
  out.nonfinite = count - finite;
  return out;
}

// Smallest and largest of `count` finite elements alone. The last vector overlaps the one before it.
inline void range_of(const float* __restrict x, int count, float* min, float* max) {
  *min = *max = x[0];
  if (count < kFloats) {
    for (int i = 1; i < count; ++i) {
      *min = x[i] < *min ? x[i] : *min;
      *max = x[i] > *max ? x[i] : *max;
    }
    return;
  }
  Floats lowest = load_floats(x + count - kFloats), highest = lowest;
  for (int i = 0; i + kFloats <= count; i += kFloats) {
    const Floats v = load_floats(x + i);
    lowest = minimum(v, lowest);
    highest = maximum(v, highest);
  }
  *min = smallest_lane(lowest);
  *max = largest_lane(highest);
}

// x: `count` elements, then +0 up to the end of the row.
inline __attribute__((always_inline)) Moments moments_of_rows(const float* __restrict x, int count, int rows) {
  TileSum t = sum_and_range(x, rows);
  const float absmax = -t.min > t.max ? -t.min : t.max;
  // A NaN or an infinity anywhere makes the sum non-finite.
  if (!is_finite(t.sum) || range_exponent(float_bits(absmax) & kMagnitude) != 0) return moments_of_odd_tile(x, count);
  if (count % kColumns != 0) range_of(x, count, &t.min, &t.max);  // the padding must not count
  const float n = static_cast<float>(count), mean32 = t.sum / n;
  float s1, s2;
  deviations(x, count, mean32, &s1, &s2);
  Moments out = tile_moments(n, mean32, s1, s2, 0);
  out.min = static_cast<double>(t.min + 0.0f);
  out.max = static_cast<double>(t.max + 0.0f);
  return out;
}

// The number of rows is a constant, so that the loops over them are unrolled.
template <int ROWS>
Moments moments_of_some_rows(const float* __restrict x, int count) {
  return count == ROWS * kColumns ? moments_of_rows(x, ROWS * kColumns, ROWS) : moments_of_rows(x, count, ROWS);
}

// The rows of a matrix are tensors of their own to Gradient Centralization: then most tiles are not full.
inline Moments moments_of_tile(const float* __restrict x, int count) {
  static_assert(kRows == 8);
  switch ((count + kColumns - 1) / kColumns) {
    case 1: return moments_of_some_rows<1>(x, count);
    case 2: return moments_of_some_rows<2>(x, count);
    case 3: return moments_of_some_rows<3>(x, count);
    case 4: return moments_of_some_rows<4>(x, count);
    case 5: return moments_of_some_rows<5>(x, count);
    case 6: return moments_of_some_rows<6>(x, count);
    case 7: return moments_of_some_rows<7>(x, count);
    default: return moments_of_some_rows<8>(x, count);
  }
}

FASTGRAD_NUMERICS_END
