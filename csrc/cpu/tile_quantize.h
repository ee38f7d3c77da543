// Quantizing one tile and measuring what that did. See docs/numerics.md, sections 4, 5 and 8.
#pragma once

#include "block_absmax.h"
#include "numerics/moments.h"
#include "tile_memory.h"

FASTGRAD_NUMERICS_BEGIN

struct TileQuantizer {
  PhiloxKeys keys;
  uint64_t stream;
  float scale = 1, inverse = 1;   // of the tensor
  const float* scales = nullptr;  // of the blocks of this tile, where blocks have their own
  const float* inverses = nullptr;
  int block_shift = 10;  // log2 of the elements of a block; of a tile, where there is one scale
  bool given = false;  // scales that were not measured on this tile: nothing is known about them
  bool clamp = false;  // numbers beyond the largest of the format are to be expected
  // Of blocks: what they hold, and the largest |y| times its inverse scale, of every block and of the tile.
  MagnitudeRange range = {};
  const float* largest_of_block = nullptr;
  float largest_v = 0;
  const char* ahead[3] = {};  // 4 KB each, asked for while the tile is rounded
};

struct TileSums {
  double yy = 0, yq = 0, qq = 0;
};

struct TileResult {
  TileSums sums;
  int zeroed = 0, saturated = 0;
  uint32_t absmax = 0;  // bits of the largest finite magnitude of y
  bool clamped = false;  // numbers were beyond the largest of the format, by more than rounding a scale explains
};

// Codes are staged one to a byte or half word, before packing.
template <Format F>
struct StagedCode {
  using type = uint8_t;
};
template <>
struct StagedCode<Format::bf16> {
  using type = uint16_t;
};
template <>
struct StagedCode<Format::fp16> {
  using type = uint16_t;
};
template <>
struct StagedCode<Format::fp32> {
  using type = uint32_t;
};

// Largest finite magnitude as bits.
inline uint32_t largest_finite_bits(const float* __restrict x, int count) {
  int32_t largest = 0;
  for (int i = 0; i < count; ++i) {
    const int32_t raw = static_cast<int32_t>(float_bits(x[i]) & kMagnitude);
    const int32_t m = raw < static_cast<int32_t>(kInfinity) ? raw : 0;
    largest = m > largest ? m : largest;
  }
  return static_cast<uint32_t>(largest);
}

// The sums of a tile whose magnitudes are out of range or not all finite: element by element, scaled.
inline TileSums sums_of_odd_tile(const float* __restrict y, const float* __restrict q, int count) {
  alignas(64) float clean_y[kTile] = {}, clean_q[kTile] = {};
  for (int i = 0; i < count; ++i) {
    clean_y[i] = is_finite(y[i]) ? y[i] : 0.0f;
    clean_q[i] = is_finite(y[i]) ? q[i] : 0.0f;
  }
  const int ey = range_exponent(largest_finite_bits(clean_y, count)), eq = range_exponent(largest_finite_bits(clean_q, count));
  const float fy = power_of_two(-ey), fq = power_of_two(-eq);
  alignas(64) float yy[kColumns] = {}, yq[kColumns] = {}, qq[kColumns] = {};
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      const float vy = clean_y[r * kColumns + c] * fy, vq = clean_q[r * kColumns + c] * fq;
      yy[c] = yy[c] + vy * vy;
      yq[c] = yq[c] + vy * vq;
      qq[c] = qq[c] + vq * vq;
    }
  }
  return {halve(yy) * power_of_two_double(2 * ey), halve(yq) * power_of_two_double(ey + eq),
          halve(qq) * power_of_two_double(2 * eq)};
}

// Any tile, element by element: non-finite elements, scales near the end of float32.
template <Format F, Rounding R>
TileResult quantize_odd_tile(const TileQuantizer& z, const float* __restrict y, int64_t tile, int count, float* __restrict q,
                             typename StagedCode<F>::type* __restrict codes) {
  alignas(64) uint16_t noise[kTile] = {};
  if constexpr (R == Rounding::stochastic) noise_tile(z.keys, z.stream, tile, noise);
  TileResult out;
  for (int i = 0; i < count; ++i) {
    const float scale = z.scales != nullptr ? z.scales[i >> z.block_shift] : z.scale;
    const float inverse = z.scales != nullptr ? z.inverses[i >> z.block_shift] : z.inverse;
    const auto one = quantize_any<F, R>(y[i], inverse, scale, noise[i]);
    q[i] = one.value;
    codes[i] = static_cast<typename StagedCode<F>::type>(one.code);
    if (!is_finite(y[i])) continue;  // counted with the moments
    out.saturated += saturates<F>(y[i], inverse);
    out.zeroed += y[i] != 0.0f && one.value == 0.0f;
  }
  for (int i = count; i % kColumns != 0; ++i) q[i] = 0.0f;
  out.absmax = largest_finite_bits(y, count);
  out.sums = sums_of_odd_tile(y, q, count);
  return out;
}

template <Format F>
int count_saturated(const TileQuantizer& z, const float* __restrict y, int count) {
  const int block = 1 << z.block_shift;
  int total = 0;
  for (int start = 0; start < count; start += block) {
    if (z.scales != nullptr && z.largest_of_block[start >> z.block_shift] <= format_spec(F).largest) continue;
    const float inverse = z.scales != nullptr ? z.inverses[start >> z.block_shift] : z.inverse;
    const int end = count - start < block ? count : start + block;
    for (int i = start; i < end; ++i) total += saturates<F>(y[i], inverse);
  }
  return total;
}

inline int count_zeroed(const float* __restrict y, const float* __restrict q, int count) {
  int total = 0;
  for (int i = 0; i < count; ++i) total += (y[i] != 0.0f) & (q[i] == 0.0f);
  return total;
}

inline int count_zeros(const float* __restrict y, int count) {
  int total = 0;
  for (int i = 0; i < count; ++i) total += y[i] == 0.0f;
  return total;
}

typedef uint8_t Bytes __attribute__((vector_size(sizeof(Lanes))));

inline Bytes load_bytes(const uint8_t* p) {
  Bytes v;
  memcpy(&v, p, sizeof v);
  return v;
}

// Codes of zeros of either sign. Of codes of a byte no other stands for zero, whatever the scale.
template <Format F>
int count_zero_codes(const uint8_t* __restrict codes, int count) {
  constexpr FormatSpec spec = format_spec(F);
  constexpr uint8_t kMask = (1u << (spec.integer ? spec.code_bits : spec.sign_shift)) - 1u;
  constexpr int kStep = sizeof(Bytes);
  static_assert(kTile / kStep < 256);
  Bytes counts = {};
  int i = 0, total = 0;
  for (; i + kStep <= count; i += kStep) counts -= (Bytes)((load_bytes(codes + i) & kMask) == 0);
  for (; i < count; ++i) total += (codes[i] & kMask) == 0;
  for (int l = 0; l < kStep; ++l) total += counts[l];
  return total;
}

template <Format F, class Code>
bool some_are_beyond(const Code* __restrict codes, int count) {
  int i = 0, some = 0;
  if constexpr (sizeof(Code) == 1) {
    Bytes found = {};
    for (; i + static_cast<int>(sizeof found) <= count; i += sizeof found) found |= (Bytes)is_beyond<F>(load_bytes(codes + i));
    for (size_t l = 0; l < sizeof found; ++l) some |= found[l];
  }
  for (; i < count; ++i) some |= is_beyond<F>(codes[i]);
  return some != 0;
}

// An eighth of 4 KB, line after line. The loops of `Ahead` would take a twentieth of the time of rounding. (Left to itself
// GCC finds that a function that only prefetches does nothing, and drops its calls.)
inline __attribute__((always_inline)) void ask_for_eighth(const char* lines, int column) {
  if (lines == nullptr || column % kLine != 0) return;
#pragma GCC unroll 8
  for (int l = 0; l < 8; ++l) __builtin_prefetch(lines + (column / kLine * 8 + l) * 64);
}

// Bits of the magnitudes of a tile that has one scale.
struct TileLook {
  Words largest = {}, smallest = ~Words{};
};

// Whether most elements of a tile that its scale fits are above the format's subnormal numbers: those of an fp4 are not.
template <Format F>
constexpr bool mostly_normal() {
  return F == Format::fp16 || F == Format::fp8_e4m3 || F == Format::fp8_e5m2;
}

// What the numbers of some columns are taken for. Whether they were that is asked once they are rounded, and if not all
// is done again: asked for each row, the question costs more than the rounding.
enum class Take {
  any,      // of any size: clamped
  fitting,  // not beyond the largest of the format
  normal,   // nor below its smallest normal one
};

struct GroupSums {
  Floats yy = {}, yq = {}, qq = {};
  bool right = true;  // none was below the smallest normal one, if they were taken for that
};

// `rows` rows of the columns [c, c + kFloats). Everything happens in registers: eight rows of rounding, their part of
// the sums.
template <Format F, Rounding R, bool BLOCKS, Scaling S, Take T>
inline __attribute__((always_inline)) GroupSums quantize_group(const TileQuantizer& z, Floats scale, Floats inverse,
                                                               const ColumnNoise& noise, const float* __restrict y, int rows,
                                                               int c, float* __restrict q,
                                                               typename StagedCode<F>::type* __restrict codes, TileLook& look) {
  constexpr FormatSpec spec = format_spec(F);
  GroupSums sums;
  Floats least = splat<Floats>(spec.largest);
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    const int at = r * kColumns + c;
    const Floats vy = load_floats(y + at);
    if constexpr (BLOCKS) {
      scale = splat<Floats>(z.scales[at >> z.block_shift]);
      inverse = splat<Floats>(z.inverses[at >> z.block_shift]);
      if constexpr (T == Take::normal) least = minimum(magnitude(vy * inverse), least);
    } else {
      const Words m = float_bits(vy) & kMagnitude;
      look.largest = maximum(look.largest, m);
      look.smallest = minimum(look.smallest, m);
    }
    Quantized<Floats, Words> one;
    if constexpr (T == Take::any) {
      one = quantize_finite<F, R, S>(vy, inverse, scale, noise.row(r));
    } else {
      one = quantize_fitting<F, R, S, T == Take::normal>(vy, inverse, scale, noise.row(r));
    }
    store_floats(q + at, one.value);
    store_codes(codes + at, one.code);
    sums.yy = sums.yy + vy * vy;
    sums.yq = sums.yq + vy * one.value;
    sums.qq = sums.qq + one.value * one.value;
  }
  if constexpr (T == Take::normal) {
    if constexpr (!BLOCKS) least = bits_float(look.smallest) * inverse;  // of this group and those before it
    sums.right = !any_below(least, bits_float(spec.exponent0 << 23));
  }
  return sums;
}

// The sums of the columns of a tile, y's `rows` whole rows, of which those from `columns` on are padding, +0. FITS: no
// number is taken to be beyond the largest of the format. Returns whether all were taken for normal numbers, and were.
template <Format F, Rounding R, bool BLOCKS, Scaling S, bool FITS>
inline __attribute__((always_inline)) bool quantize_columns(const TileQuantizer& z, const float* __restrict y, int64_t tile,
                                                            int rows, int columns, float* __restrict q,
                                                            typename StagedCode<F>::type* __restrict codes, TileLook& look,
                                                            float* __restrict yy, float* __restrict yq, float* __restrict qq) {
  const PhiloxKeys keys = z.keys;  // a copy: for all the compiler knows, what is stored below might be part of `z`
  const uint64_t stream = z.stream;
  const char* const ahead[] = {z.ahead[0], z.ahead[1], z.ahead[2]};
  const Floats scale = splat<Floats>(z.scale), inverse = splat<Floats>(z.inverse);
  bool normal = FITS && mostly_normal<F>();
  for (int c = 0; c < columns; c += kFloats) {
    const ColumnNoise noise = R == Rounding::stochastic ? ColumnNoise(keys, stream, tile, c) : ColumnNoise();
    for (const char* lines : ahead) ask_for_eighth(lines, c);
    GroupSums sums;
    if constexpr (FITS && mostly_normal<F>()) {
      if (normal) {
        sums = quantize_group<F, R, BLOCKS, S, Take::normal>(z, scale, inverse, noise, y, rows, c, q, codes, look);
        normal = sums.right;
      }
    }
    if (!normal) {
      constexpr Take kTake = FITS ? Take::fitting : Take::any;
      sums = quantize_group<F, R, BLOCKS, S, kTake>(z, scale, inverse, noise, y, rows, c, q, codes, look);
    }
    store_floats(yy + c, sums.yy);
    store_floats(yq + c, sums.yq);
    store_floats(qq + c, sums.qq);
  }
  return normal;
}

// A tile that begins its rows; its last row is padded with +0. What is rare is left to a second look at the tile, which
// is still in cache.
template <Format F, Rounding R, bool BLOCKS, Scaling S, bool FITS>
TileResult quantize_rows(const TileQuantizer& z, const float* __restrict y, int64_t tile, int count, float* __restrict q,
                         typename StagedCode<F>::type* __restrict codes) {
  constexpr FormatSpec spec = format_spec(F);
  alignas(64) float yy[kColumns], yq[kColumns], qq[kColumns];
  TileLook look;
  bool normal;
  if (count == kTile) {  // constants: the loop over rows is unrolled
    normal = quantize_columns<F, R, BLOCKS, S, FITS>(z, y, tile, kRows, kColumns, q, codes, look, yy, yq, qq);
  } else {
    const int columns = count < kColumns ? (count + kFloats - 1) / kFloats * kFloats : kColumns;
    const int rows = (count + kColumns - 1) / kColumns;
    normal = quantize_columns<F, R, BLOCKS, S, FITS>(z, y, tile, rows, columns, q, codes, look, yy, yq, qq);
    for (int c = columns; c < kColumns; ++c) yy[c] = yq[c] = qq[c] = q[c] = 0.0f;
  }
  const MagnitudeRange range = BLOCKS ? z.range : MagnitudeRange{largest_lane(look.largest), smallest_lane(look.smallest)};
  if (range.largest >= kInfinity) return quantize_odd_tile<F, R>(z, y, tile, count, q, codes);
  TileResult out;
  out.absmax = range.largest;
  // The largest |v| follows from the largest |y| under one scale: multiplication is monotone.
  const float v = BLOCKS ? z.largest_v : bits_float(out.absmax) * z.inverse;
  if (v > spec.largest) {
    out.clamped = v > spec.largest * 1.0001f;
    if constexpr (FITS) {
      if (out.clamped || some_are_beyond<F>(codes, count)) {
        return quantize_rows<F, R, BLOCKS, S, false>(z, y, tile, count, q, codes);
      }
    }
    out.saturated = count_saturated<F>(z, y, count);
  }
  if constexpr (S == Scaling::none) {  // only magnitudes far below what gradients have can vanish
    const uint32_t may_vanish = spec.exponent0 << 23;
    if (range.smallest < may_vanish) out.zeroed = count_zeroed(y, q, count);
  } else if constexpr (spec.code_bits > 8) {
    out.zeroed = count_zeroed(y, q, count);
  } else if (!normal) {
    out.zeroed = count_zero_codes<F>(codes, count) - (range.smallest == 0u ? count_zeros(y, count) : 0);
  }
  // Unless values were clamped by more than half, or the scale says nothing about y, q lies within a factor of two
  // of y, or is zero, or is one gap: then the range of y with some room vouches for that of q.
  constexpr uint32_t kLow = static_cast<uint32_t>(127 - 38) << 23, kHigh = static_cast<uint32_t>(127 + 48) << 23;
  const bool vouched = out.absmax == 0u || (out.absmax >= kLow && out.absmax <= kHigh && v <= 2.0f * spec.largest);
  const bool tame = !(BLOCKS && z.given) && z.scale <= 1e12f;
  out.sums = vouched && tame ? TileSums{halve(yy), halve(yq), halve(qq)} : sums_of_odd_tile(y, q, count);
  return out;
}

template <Format F, Rounding R, bool BLOCKS, Scaling S>
TileResult quantize_tile(const TileQuantizer& z, const float* y, int64_t tile, int count, float* q,
                         typename StagedCode<F>::type* codes) {
  // Codes of fp4_e2m1 do not show what is beyond its largest, and its sign costs nothing.
  if constexpr (F != Format::fp4_e2m1) {
    if (!z.clamp) return quantize_rows<F, R, BLOCKS, S, true>(z, y, tile, count, q, codes);
  }
  return quantize_rows<F, R, BLOCKS, S, false>(z, y, tile, count, q, codes);
}

template <Format F, Rounding R>
TileResult quantize_tile(const TileQuantizer& z, const float* y, int64_t tile, int count, float* q, void* staged) {
  auto* codes = static_cast<typename StagedCode<F>::type*>(staged);
  float largest_scale = z.scale;
  for (int b = 0; z.scales != nullptr && (b << z.block_shift) < count; ++b) {
    largest_scale = z.scales[b] > largest_scale ? z.scales[b] : largest_scale;
  }
  if (!is_finite(largest_scale * format_spec(F).largest)) return quantize_odd_tile<F, R>(z, y, tile, count, q, codes);
  if (z.scales != nullptr) return quantize_tile<F, R, true, Scaling::plain>(z, y, tile, count, q, codes);
  if constexpr (F == Format::bf16 || F == Format::fp16) {  // the others have scales
    if (z.scale == 1.0f) return quantize_tile<F, R, false, Scaling::none>(z, y, tile, count, q, codes);
  }
  return quantize_tile<F, R, false, Scaling::plain>(z, y, tile, count, q, codes);
}

template <Format F>
TileResult quantize_tile(Rounding r, const TileQuantizer& z, const float* y, int64_t tile, int count, float* q, void* codes) {
  if (r == Rounding::stochastic) return quantize_tile<F, Rounding::stochastic>(z, y, tile, count, q, codes);
  if (r == Rounding::nearest) return quantize_tile<F, Rounding::nearest>(z, y, tile, count, q, codes);
  return quantize_tile<F, Rounding::truncate>(z, y, tile, count, q, codes);
}

// Any format but fp32, which is not rounded.
inline TileResult quantize_tile(Format f, Rounding r, const TileQuantizer& z, const float* y, int64_t tile, int count,
                                float* q, void* codes) {
  switch (f) {
    case Format::bf16: return quantize_tile<Format::bf16>(r, z, y, tile, count, q, codes);
    case Format::fp16: return quantize_tile<Format::fp16>(r, z, y, tile, count, q, codes);
    case Format::fp8_e4m3: return quantize_tile<Format::fp8_e4m3>(r, z, y, tile, count, q, codes);
    case Format::fp8_e5m2: return quantize_tile<Format::fp8_e5m2>(r, z, y, tile, count, q, codes);
    case Format::fp4_e2m1: return quantize_tile<Format::fp4_e2m1>(r, z, y, tile, count, q, codes);
    case Format::int8: return quantize_tile<Format::int8>(r, z, y, tile, count, q, codes);
    default: return quantize_tile<Format::int4>(r, z, y, tile, count, q, codes);
  }
}

// Two codes to a byte, the first in the low nibble; `count` codes, an odd tail gets a zero nibble.
inline void pack_nibbles(uint8_t* __restrict codes, int count, uint8_t* __restrict packed) {
  if (count % 2 != 0) codes[count] = 0;
  for (int i = 0; i < (count + 1) / 2; ++i) {
    packed[i] = static_cast<uint8_t>((codes[2 * i] & 0xf) | (codes[2 * i + 1] << 4));
  }
}

FASTGRAD_NUMERICS_END
