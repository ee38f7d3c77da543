// Moments of one tile by one warp. See docs/numerics.md, section 6.
#pragma once

#include "lane_memory.h"
#include "numerics/moments.h"

FASTGRAD_NUMERICS_BEGIN

struct LaneTile {
  Quad row[kRows];
};

// The extremes that a lane has met; of a tensor they are wanted once, not per tile.
struct LaneRange {
  float min, max;

  FG_DEVICE void include(float lowest, float highest) {
    min = fminf(min, lowest);
    max = fmaxf(max, highest);
  }
};

// The sums of a tile, from which float64 makes its moments: later, so that it is done for many tiles at once.
struct RawMoments {
  float n, mean32, s1, s2;
  int exponent, nonfinite;

  FG_DEVICE Moments moments() const {
    Moments m = no_moments();
    if (n > 0.0f) m = tile_moments(n, mean32, s1, s2, exponent);
    m.nonfinite = static_cast<double>(nonfinite);
    return m;
  }
};

// What a warp reads, times the inverse loss scale: of the tile that begins at element `offset` (before the first one,
// where a shard begins inside its tile) the places from `begin` to `end`.
struct TileSource {
  const void* grad;
  Type type;
  float inverse_loss_scale;
  int64_t offset;
  int begin, end;

  FG_DEVICE bool whole() const { return begin == 0 && end == kTile; }

  // A whole tile, at an aligned address.
  FG_DEVICE LaneTile load() const {
    LaneTile x;
    const int64_t first = offset + kQuad * lane_number();
    if (type == Type::fp32) {
      const float* p = static_cast<const float*>(grad) + first;
#pragma unroll
      for (int r = 0; r < kRows; ++r) x.row[r] = load_floats(p + r * kColumns);
    } else {
      const uint16_t* p = static_cast<const uint16_t*>(grad) + first;
      uint2 half[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) half[r] = *reinterpret_cast<const uint2*>(p + r * kColumns);
#pragma unroll
      for (int r = 0; r < kRows; ++r) x.row[r] = widen(half[r], type);
    }
    if (inverse_loss_scale != 1.0f) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) x.row[r] = x.row[r] * inverse_loss_scale;
    }
    return x;
  }
  FG_DEVICE bool exists(int place) const { return place >= begin && place < end; }
  // One element of any tile; +0 where there is none.
  FG_DEVICE float element(int place) const {
    if (!exists(place)) return 0.0f;
    const float x = load_element(grad, type, offset + place);
    return inverse_loss_scale == 1.0f ? x : x * inverse_loss_scale;
  }
};

// Of a whole tile. False, and nothing done, where an element is not finite or magnitudes ask for another scale.
FG_DEVICE bool moments_of_whole_tile(const LaneTile& x, RawMoments* raw, LaneRange* range) {
  Quad sum = {};
  float lowest = x.row[0].v[0], highest = lowest;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    sum = sum + x.row[r];
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      lowest = fminf(lowest, x.row[r].v[k]);
      highest = fmaxf(highest, x.row[r].v[k]);
    }
  }
  const uint32_t absmax = warp_max(float_bits(fmaxf(magnitude(lowest), magnitude(highest))));
  const float total = halve_columns(sum);  // not finite if any element is not
  if (!is_finite(total) || range_exponent(absmax) != 0) return false;
  const float mean32 = total * (1.0f / kTile);  // a power of two: the same as the division
  Quad first = {}, second = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const Quad d = x.row[r] - mean32;
    first = first + d;
    second = second + d * d;
  }
  *raw = {static_cast<float>(kTile), mean32, halve_columns(first), halve_columns(second), 0, 0};
  range->include(lowest, highest);
  return true;
}

// Of any tile, element by element, from memory.
FG_DEVICE void moments_of_any_tile(const TileSource& source, RawMoments* raw, LaneRange* range) {
  const int lane = lane_number();
  uint32_t finite = 0, absmax = 0;
#pragma unroll 1
  for (int r = 0; r < kRows; ++r) {
#pragma unroll 1
    for (int k = 0; k < kQuad; ++k) {
      const int place = r * kColumns + kQuad * lane + k;
      const float x = source.element(place);
      if (!source.exists(place) || !is_finite(x)) continue;
      const uint32_t m = float_bits(x) & kMagnitude;
      finite += 1;
      absmax = m > absmax ? m : absmax;
      range->include(x, x);
    }
  }
  finite = warp_sum(finite);
  absmax = warp_max(absmax);
  const int nonfinite = source.end - source.begin - static_cast<int>(finite);
  if (finite == 0) {
    *raw = {0.0f, 0.0f, 0.0f, 0.0f, 0, nonfinite};
    return;
  }
  const int e = range_exponent(absmax);
  const float factor = power_of_two(-e), n = static_cast<float>(finite);
  Quad sum = {};
#pragma unroll 1
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const float x = source.element(r * kColumns + kQuad * lane + k);
      sum.v[k] = sum.v[k] + (is_finite(x) ? x : 0.0f) * factor;
    }
  }
  const float mean32 = halve_columns(sum) / n;
  Quad first = {}, second = {};
#pragma unroll 1
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const int place = r * kColumns + kQuad * lane + k;
      const float x = source.element(place);
      const float d = source.exists(place) && is_finite(x) ? x * factor - mean32 : 0.0f;
      first.v[k] = first.v[k] + d;
      second.v[k] = second.v[k] + d * d;
    }
  }
  *raw = {n, mean32, halve_columns(first), halve_columns(second), e, nonfinite};
}

// Of any tile, loaded whole where `whole` says that it can be.
FG_DEVICE void moments_of_tile(const TileSource& source, bool whole, RawMoments* raw, LaneRange* range) {
  if (whole && moments_of_whole_tile(source.load(), raw, range)) return;
  moments_of_any_tile(source, raw, range);
}

FASTGRAD_NUMERICS_END
