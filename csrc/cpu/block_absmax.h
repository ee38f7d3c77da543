// The largest magnitudes of the blocks of a tile. See docs/numerics.md, section 5.
#pragma once

#include "numerics/formats.h"
#include "numerics/tile.h"
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

// Bits of the magnitudes of some elements.
struct MagnitudeRange {
  uint32_t largest = 0, smallest = 0;
};

struct LaneRange {
  Words largest = {}, smallest = ~Words{};
};

// The largest magnitudes, finite or not, of blocks of `step` vectors; STEP where that is a constant.
template <int STEP>
inline __attribute__((always_inline)) LaneRange block_maxima(const float* __restrict x, int vectors, int step,
                                                             float* __restrict largest) {
  if constexpr (STEP > 0) step = STEP;
  const int blocks = (vectors + step - 1) / step;
  LaneRange range;
  for (int b = 0; b < blocks; b += kFloats) {
    Words lanes[kFloats];
#pragma GCC unroll 16
    for (int k = 0; k < kFloats; ++k) {
      const int begin = (b + k) * step, end = begin + step < vectors ? begin + step : vectors;
      lanes[k] = Words{};
#pragma GCC unroll 32
      for (int v = begin; v < end; ++v) {
        const Words m = float_bits(load_floats(x + v * kFloats)) & kMagnitude;
        lanes[k] = maximum(lanes[k], m);
        range.smallest = minimum(range.smallest, m);
      }
    }
    const Words of_blocks = largest_lanes(lanes);
    range.largest = maximum(range.largest, of_blocks);
    store_floats(largest + b, bits_float(of_blocks));
  }
  return range;
}

// The largest finite magnitude of every `block` elements of `count`; what follows these in their last vector is +0.
// `largest` has room for whole vectors. Returns the range of all, which may not be finite.
inline MagnitudeRange block_absmax(const float* __restrict x, int count, int block, float* __restrict largest) {
  const int step = block / kFloats, vectors = (count + kFloats - 1) / kFloats, blocks = (vectors + step - 1) / step;
  LaneRange range;
  if (count != kTile) {
    range = block_maxima<0>(x, vectors, step, largest);
  } else if (block == 32) {  // the blocks of MX, and those of the defaults, in unrolled loops
    range = block_maxima<32 / kFloats>(x, kTile / kFloats, step, largest);
  } else if (block == 128) {
    range = block_maxima<128 / kFloats>(x, kTile / kFloats, step, largest);
  } else if (block == 256) {
    range = block_maxima<256 / kFloats>(x, kTile / kFloats, step, largest);
  } else {
    range = block_maxima<0>(x, kTile / kFloats, step, largest);
  }
  const uint32_t all = largest_lane(range.largest);
  for (int b = 0; all >= kInfinity && b < blocks; ++b) {
    uint32_t finite = 0;
    for (int i = b * block; i < (b + 1) * block && i < count; ++i) {
      const uint32_t m = float_bits(x[i]) & kMagnitude;
      finite = m < kInfinity && m > finite ? m : finite;
    }
    largest[b] = bits_float(finite);
  }
  return {all, smallest_lane(range.smallest)};
}

FASTGRAD_NUMERICS_END
