// One tile from gradient to everything that is made of it: normalized, quantized, measured, stored, applied.
#pragma once

#include "tile_adamw.h"
#include "tile_sgd.h"

FASTGRAD_NUMERICS_BEGIN

// One tensor's part of a sweep, as a warp sees it.
struct TensorWork {
  const TensorJob* job;
  const Sweep* sweep;
  const float* row_means;  // centralize, else null
  int64_t row_length;
  Affine affine;
  bool affine_changes, quantize, whole;  // whole: full tiles can be accessed in whole quads
  float inverse_loss_scale;
  bool moments;  // measured in this pass
  Quantizer quantizer;
  SgdUpdate sgd;
};

// The row of dim 0 that an element is in, from that of the tile's first element and its place there.
struct RowOfTile {
  int64_t row, place;

  FG_DEVICE RowOfTile(int64_t offset, int64_t length) : row(offset / length), place(offset - row * length) {}
  FG_DEVICE int64_t at(int element, int64_t length) const {
    const int64_t p = place + element;
    if (length >= kTile) return row + (p >= length ? 1 : 0);
    return row + static_cast<uint32_t>(p) / static_cast<uint32_t>(length);
  }
};

FG_DEVICE void normalize_whole(const TensorWork& w, LaneTile& x, int64_t offset) {
  if (w.row_means != nullptr) {
    const RowOfTile start(offset, w.row_length);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {  // rows are multiples of a quad
      x.row[r] = x.row[r] - w.row_means[start.at(r * kColumns + kQuad * lane_number(), w.row_length)];
    }
  } else if (w.affine_changes) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int k = 0; k < kQuad; ++k) x.row[r].v[k] = apply_affine(x.row[r].v[k], w.affine);
    }
  }
}

FG_DEVICE float normalized_element(const TensorWork& w, const TileSource& source, int place) {
  const float x = source.element(place);
  if (!source.exists(place)) return 0.0f;
  if (w.row_means != nullptr) return x - w.row_means[(source.offset + place) / w.row_length];
  return w.affine_changes ? apply_affine(x, w.affine) : x;
}

// What of a tensor's output is not the optimizer's.
FG_DEVICE void store_whole(const TensorWork& w, const LaneTile& q, int64_t offset) {
  if (w.job->out == nullptr) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    store_quad(w.job->out, w.job->out_type, offset + r * kColumns + kQuad * lane_number(), q.row[r], false, QuadWord{});
  }
}

// A whole tile, up to the step of SGD; `treated` is what AdamW goes on with. False, and nothing stored, where it must go
// element by element.
template <Format F, Optimizer O>
FG_DEVICE bool process_whole(const TensorWork& w, const TileSource& source, int64_t tile, RawMoments* raw, LaneRange* range,
                             TileSums* sums, LaneCounts* counts, LaneTile* treated) {
  LaneTile y = source.load();
  if (w.moments && !moments_of_whole_tile(y, raw, range)) return false;
  normalize_whole(w, y, source.offset);
  void* codes = w.job->quantized() ? w.job->codes : nullptr;
  if constexpr (F != Format::fp32) {
    if (w.quantize) {
      const TileLook look = look_at(y);
      if (!may_be_quantized_whole<F>(w.quantizer, look.absmax)) return false;
      if (w.quantizer.block_scales != nullptr) {
        block_maxima(look.row_max, w.quantizer.block_shift, w.quantizer.block_scales);
        if (!finish_block_scales<F>(*w.sweep, *w.job, source.offset, kTile / w.sweep->block, w.quantizer.block_scales)) {
          return false;
        }
      }
      counts->absmax = look.absmax > counts->absmax ? look.absmax : counts->absmax;
      *sums = w.quantizer.rounding == Rounding::nearest
                  ? quantize_whole<F, Rounding::nearest>(w.quantizer, y, look.yy, tile, codes, source.offset, counts)
                  : quantize_whole<F, Rounding::stochastic>(w.quantizer, y, look.yy, tile, codes, source.offset, counts);
    }
  } else if (codes != nullptr) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      store_quad(codes, Type::fp32, source.offset + r * kColumns + kQuad * lane_number(), y.row[r], false, QuadWord{});
    }
  }
  store_whole(w, y, source.offset);
  if constexpr (O == Optimizer::sgd) {
    if (w.sgd.all_fp32()) {
      update_whole_fp32(w.sgd, y, source.offset);
    } else {
      update_whole(w.sgd, y, source.offset, tile);
    }
  }
  *treated = y;
  return true;
}

template <Format F>
FG_DEVICE Quantized<float, uint32_t> quantize_one(const Quantizer& z, float y, int place, uint32_t noise) {
  if (z.rounding == Rounding::nearest) return quantize_any<F, Rounding::nearest>(y, inverse_at(z, place), scale_at(z, place), noise);
  return quantize_any<F, Rounding::stochastic>(y, inverse_at(z, place), scale_at(z, place), noise);
}

// The treated gradients of a warp's tile, for AdamW, in shared memory: a lane reads what it wrote.
struct TreatedTile {
  Quad row[kRows][kWarpLanes];

  FG_DEVICE LaneTile load() const {
    LaneTile q;
#pragma unroll
    for (int r = 0; r < kRows; ++r) q.row[r] = row[r][lane_number()];
    return q;
  }
};

// Any tile, element by element: short ones, odd addresses, non-finite elements, magnitudes out of range.
template <Format F, Optimizer O>
FG_DEVICE void process_any(const TensorWork& w, const TileSource& source, int64_t tile, RawMoments* raw, LaneRange* range,
                           TileSums* sums, LaneCounts* counts, TreatedTile* treated) {
  const int lane = lane_number();
  const TensorJob& job = *w.job;
  if (w.moments) moments_of_any_tile(source, raw, range);
  const bool quantize = F != Format::fp32 && w.quantize;
  uint32_t largest_y = 0, largest_q = 0;
  LaneNoise noise = no_noise();
  if constexpr (F != Format::fp32) {
    if (quantize) {
      noise = gradient_noise(w.quantizer, tile);
      if (w.quantizer.block_scales != nullptr) {
        const int block = w.sweep->block, blocks = (source.end + block - 1) / block;
        for (int b = lane; b < blocks; b += kWarpLanes) {
          uint32_t largest = 0;
          for (int i = 0; i < block; ++i) {
            const uint32_t m = float_bits(normalized_element(w, source, b * block + i)) & kMagnitude;
            largest = m < kInfinity && m > largest ? m : largest;
          }
          w.quantizer.block_scales[b].scale = bits_float(largest);
        }
        __syncwarp();
        finish_block_scales<F>(*w.sweep, job, source.offset, blocks, w.quantizer.block_scales);
      }
#pragma unroll 1
      for (int r = 0; r < kRows; ++r) {
        const QuadWord z = noise.row(r);
#pragma unroll
        for (int k = 0; k < kQuad; ++k) {
          const int place = r * kColumns + kQuad * lane + k;
          if (!source.exists(place)) continue;
          const float y = normalized_element(w, source, place);
          if (!is_finite(y)) continue;
          const uint32_t my = float_bits(y) & kMagnitude;
          const uint32_t mq = float_bits(quantize_one<F>(w.quantizer, y, place, z.v[k]).value) & kMagnitude;
          largest_y = my > largest_y ? my : largest_y;
          largest_q = mq > largest_q ? mq : largest_q;
        }
      }
    }
  }
  largest_y = warp_max(largest_y);
  largest_q = warp_max(largest_q);
  counts->absmax = largest_y > counts->absmax ? largest_y : counts->absmax;
  const int ey = range_exponent(largest_y), eq = range_exponent(largest_q);
  const float fy = power_of_two(-ey), fq = power_of_two(-eq);
  LaneNoise weight_noise = no_noise();
  if constexpr (O == Optimizer::sgd) {
    if (w.sgd.needs_noise()) weight_noise = lane_noise(w.sgd.seed, w.sgd.stream, tile, lane);
  }
  Quad yy = {}, yq = {}, qq = {};
#pragma unroll 1
  for (int r = 0; r < kRows; ++r) {
    const int first = r * kColumns + kQuad * lane;
    const QuadWord z = noise.row(r), zw = weight_noise.row(r);
    Quad q = {};
    QuadWord code = {};
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const float y = normalized_element(w, source, first + k);
      q.v[k] = y;
      code.v[k] = float_bits(canonical(y));
      if constexpr (F != Format::fp32) {
        if (!quantize || !source.exists(first + k)) continue;
        const auto one = quantize_one<F>(w.quantizer, y, first + k, z.v[k]);
        q.v[k] = one.value;
        code.v[k] = one.code;
        if (!is_finite(y)) continue;  // counted with the moments
        counts->saturated += saturates<F>(y, inverse_at(w.quantizer, first + k));
        counts->zeroed += y != 0.0f && one.value == 0.0f;
        const float vy = y * fy, vq = one.value * fq;
        yy.v[k] = yy.v[k] + vy * vy;
        yq.v[k] = yq.v[k] + vy * vq;
        qq.v[k] = qq.v[k] + vq * vq;
      }
    }
    if (job.codes != nullptr && job.quantized()) {  // not of shards: what exists begins with the quad
      const int left = source.end - first;
      store_some_codes<F>(job.codes, source.offset + first, code, left < 0 ? 0 : left < kQuad ? left : kQuad);
    }
    if constexpr (O == Optimizer::adamw) treated->row[r][lane] = q;
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      if (!source.exists(first + k)) continue;
      if (job.out != nullptr) store_element(job.out, job.out_type, source.offset + first + k, q.v[k], false, 0u);
      if constexpr (O == Optimizer::sgd) update_one(w.sgd, q.v[k], source.offset + first + k, zw.v[k]);
    }
  }
  if (quantize) {
    *sums = {halve_columns(yy) * power_of_two_double(2 * ey), halve_columns(yq) * power_of_two_double(ey + eq),
             halve_columns(qq) * power_of_two_double(2 * eq)};
  }
}

FASTGRAD_NUMERICS_END
