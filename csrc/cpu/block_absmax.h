// The largest magnitudes of the blocks of a tile. See docs/numerics.md, section 5.
#pragma once

#include "numerics/formats.h"
#include "vector.h"

FASTGRAD_NUMERICS_BEGIN

// Lane i takes lane 2 i, or 2 i + 1, of the lanes of `a` and then `b`.
inline Words every_second_lane(Words a, Words b, int first) {
  return __builtin_shuffle(a, b, 2 * lane_numbers() + first);
}

// Lane i takes the largest lane of v[i]. Halving all vectors together takes a fraction of the shuffles of each by itself.
inline Words largest_lanes(Words* v) {
  for (int n = kFloats / 2; n >= 1; n /= 2) {
    for (int i = 0; i < n; ++i) {
      v[i] = maximum(every_second_lane(v[2 * i], v[2 * i + 1], 0), every_second_lane(v[2 * i], v[2 * i + 1], 1));
    }
  }
  return v[0];
}

// The largest finite magnitude of every `block` elements of `count`; what follows these in their last vector is +0.
// `largest` has room for whole vectors. Returns the bits of the largest magnitude of all, which may not be finite.
inline uint32_t block_absmax(const float* __restrict x, int count, int block, float* __restrict largest) {
  const int step = block / kFloats, vectors = (count + kFloats - 1) / kFloats, blocks = (vectors + step - 1) / step;
  Words of_all = {};
  for (int b = 0; b < blocks; b += kFloats) {
    Words lanes[kFloats];
#pragma GCC unroll 16
    for (int k = 0; k < kFloats; ++k) {
      const int end = (b + k + 1) * step < vectors ? (b + k + 1) * step : vectors;
      lanes[k] = Words{};
      for (int v = (b + k) * step; v < end; ++v) {
        lanes[k] = maximum(lanes[k], float_bits(load_floats(x + v * kFloats)) & kMagnitude);
      }
    }
    const Words of_blocks = largest_lanes(lanes);
    of_all = maximum(of_all, of_blocks);
    store_floats(largest + b, bits_float(of_blocks));
  }
  const uint32_t all = largest_lane(of_all);
  for (int b = 0; all >= kInfinity && b < blocks; ++b) {
    uint32_t finite = 0;
    for (int i = b * block; i < (b + 1) * block && i < count; ++i) {
      const uint32_t m = float_bits(x[i]) & kMagnitude;
      finite = m < kInfinity && m > finite ? m : finite;
    }
    largest[b] = bits_float(finite);
  }
  return all;
}

FASTGRAD_NUMERICS_END
