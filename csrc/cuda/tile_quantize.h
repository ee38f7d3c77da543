// Quantizing one tile by one warp and measuring what that did. See docs/numerics.md, sections 4, 5 and 8.
#pragma once

#include "tile_moments.h"

FASTGRAD_NUMERICS_BEGIN

constexpr int kMaxBlocks = kTile / 16;

// Of a block of elements, in the shared memory of its warp.
struct BlockScale {
  float scale, inverse;
};

struct Quantizer {
  uint64_t seed, stream;
  float scale, inverse;       // of the tensor
  BlockScale* block_scales;   // of this tile's blocks, or null
  int block_shift;            // log2 of the elements of a block
  Rounding rounding;
};

struct TileSums {
  double yy, yq, qq;
};

// What a lane has counted.
struct LaneCounts {
  uint32_t zeroed, saturated, absmax;  // bits of the largest finite |y|
};

FG_DEVICE float scale_at(const Quantizer& z, int place) {
  return z.block_scales != nullptr ? z.block_scales[place >> z.block_shift].scale : z.scale;
}
FG_DEVICE float inverse_at(const Quantizer& z, int place) {
  return z.block_scales != nullptr ? z.block_scales[place >> z.block_shift].inverse : z.inverse;
}

FG_DEVICE LaneNoise gradient_noise(const Quantizer& z, int64_t tile) {
  if (z.rounding != Rounding::stochastic) return no_noise();  // truncation is rounding with the noise 0
  return lane_noise(z.seed, z.stream, tile, lane_number());
}

// A first look at a whole tile: what the sums of squares are, and how large it gets.
struct TileLook {
  Quad yy;             // the columns of sum y*y
  float row_max[kRows];  // of a lane's elements
  uint32_t absmax;     // bits, of the tile; infinity where an element is not finite or its square is not
};

FG_DEVICE TileLook look_at(const LaneTile& y) {
  TileLook look;
  look.yy = {};
  float largest = 0.0f;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const Quad m = magnitude(y.row[r]);
    look.yy = look.yy + m * m;
    look.row_max[r] = fmaxf(fmaxf(m.v[0], m.v[1]), fmaxf(m.v[2], m.v[3]));  // passes over NaN, which the sums keep
    largest = fmaxf(largest, look.row_max[r]);
  }
  const float sum = (look.yy.v[0] + look.yy.v[1]) + (look.yy.v[2] + look.yy.v[3]);
  look.absmax = warp_max(is_finite(sum) ? float_bits(largest) : kInfinity);
  return look;
}

// From the largest magnitude of each block, in `block_scales[b].scale`, to the scales; stored for the caller, too.
// False where a quantized value could overflow float32, or a block holds values beyond the largest of the format.
template <Format F>
FG_DEVICE bool finish_block_scales(const Sweep& sweep, const TensorJob& job, int64_t offset, int blocks, BlockScale* scales) {
  constexpr float kLargest = format_spec(F).largest;
  const int64_t first = offset / sweep.block;
  bool plain = true;
  for (int b = lane_number(); b < blocks; b += kWarpLanes) {
    const float absmax = scales[b].scale;
    const float scale = job.given_scales != nullptr ? job.given_scales[first + b] : scale_for(absmax, kLargest, sweep.pow2);
    const float inverse = 1.0f / scale;
    scales[b] = {scale, inverse};
    if (job.scales != nullptr) job.scales[first + b] = scale;
    plain = plain && is_finite(scale * kLargest) && absmax * inverse <= kLargest;
  }
  __syncwarp();
  return __all_sync(kWholeWarp, plain && job.given_scales == nullptr);
}

// The largest magnitudes of the blocks of a whole tile, all elements of which are finite.
FG_DEVICE void block_maxima(const float (&row_max)[kRows], int shift, BlockScale* scales) {
  const int lane = lane_number();
  if (shift >= 7) {  // whole rows
    const int rows = shift == 7 ? 1 : 2;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (rows == 2 && r % 2 != 0) continue;
      const float of_lane = rows == 2 ? fmaxf(row_max[r], row_max[(r + 1) % kRows]) : row_max[r];
      const uint32_t m = warp_max(float_bits(of_lane));
      if (lane == 0) scales[r / rows].scale = bits_float(m);
    }
  } else {
    const int lanes = 1 << (shift - 2);  // of one block
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float m = row_max[r];
      for (int s = 1; s < lanes; s *= 2) m = fmaxf(m, __shfl_xor_sync(kWholeWarp, m, s));
      if (lane % lanes == 0) scales[(r * kColumns + kQuad * lane) >> shift].scale = m;
    }
  }
  __syncwarp();
}

// y of a whole tile becomes q. What is rare does not happen here: all y are finite, none is beyond the largest of the
// format, and the range of y vouches for that of the sums (see may_be_quantized_whole).
template <Format F, Rounding R>
FG_DEVICE TileSums quantize_whole(const Quantizer& z, LaneTile& y, const Quad& yy, int64_t tile, void* codes,
                                  int64_t offset, LaneCounts* counts) {
  const LaneNoise noise = R == Rounding::nearest ? no_noise() : gradient_noise(z, tile);
  Quad yq = {}, qq = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int place = r * kColumns + kQuad * lane_number();
    const Quad from = y.row[r], v = from * inverse_at(z, place);
    const auto one = round_number<F, R>(sign_rides<F>() ? v : magnitude(v), noise.row(r));
    const Quad q = one.value * scale_at(z, place);
    if (codes != nullptr) store_rounded<F>(codes, offset + place, one.fixed, v);
    if (one.small) {
#pragma unroll
      for (int k = 0; k < kQuad; ++k) counts->zeroed += (q.v[k] == 0.0f) & (from.v[k] != 0.0f);
    }
    if constexpr (sign_rides<F>()) {
      yq = yq + from * q;
      y.row[r] = q;
    } else {  // y and q have one sign: their product is that of their magnitudes
      yq = yq + magnitude(from) * q;
      y.row[r] = signed_value<F>(q, code_of<F>(one.fixed), v);
    }
    qq = qq + q * q;
  }
  return {halve_columns(yy), halve_columns(yq), halve_columns(qq)};
}

// Whether quantize_whole is right for a tile with these magnitudes; block scales have been looked at before.
template <Format F>
FG_DEVICE bool may_be_quantized_whole(const Quantizer& z, uint32_t absmax) {
  constexpr float kLargest = format_spec(F).largest;
  // Unclamped, q lies within a factor of two of y, or is zero, or is one gap: the range of y with some room vouches
  // for that of q, unless the scale is out of all proportion.
  constexpr uint32_t kLow = static_cast<uint32_t>(127 - 38) << 23, kHigh = static_cast<uint32_t>(127 + 48) << 23;
  if (absmax != 0u && (absmax < kLow || absmax > kHigh)) return false;
  if (z.block_scales != nullptr) return true;
  return z.scale <= 1e12f && is_finite(z.scale * kLargest) && bits_float(absmax) * z.inverse <= kLargest;
}

FASTGRAD_NUMERICS_END
