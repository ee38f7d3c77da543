// AdamW on one tile by one warp, four rows at a time. See docs/numerics.md, section 12.
#pragma once

#include "coefficients.h"
#include "half_tile.h"
#include "numerics/adamw.h"
#include "tile_moments.h"

FASTGRAD_NUMERICS_BEGIN

// One tensor's step. Blocks are 0 where numbers are not kept as codes with scales.
struct AdamwUpdate {
  AdamwStep step;
  bool first;       // the states have no content yet
  bool stochastic;  // how a narrow parameter is stored
  uint64_t seed, weight_stream, first_stream, second_stream;
  void* parameter;
  Format parameter_format;
  float* parameter_scales;
  int parameter_block;
  void* first_moment;
  Format first_format;
  float* first_scales;
  int first_block;
  void* second_moment;
  SecondMoment second_kind;
  float* second_scales;
  int second_block;
  // Of a factored second moment: the factors of its root.
  const float* row_roots;
  const float* column_roots;
  int64_t row_length;

  FG_DEVICE bool factored() const { return second_kind == SecondMoment::factored; }
  FG_DEVICE int second_bits() const {
    return second_kind == SecondMoment::fp32     ? 32
           : second_kind == SecondMoment::codes8 ? 8
           : second_kind == SecondMoment::codes4 ? 4
                                                 : 16;
  }
};

FG_DEVICE Format format_of(Type type) {
  return type == Type::bf16 ? Format::bf16 : type == Type::fp16 ? Format::fp16 : Format::fp32;
}

FG_DEVICE AdamwUpdate adamw_of(const DeviceSweep& d, int tensor, const AdamwStep& step) {
  const TensorJob& job = d.jobs[tensor];
  const AdamwState& state = job.adamw;
  AdamwUpdate u;
  u.step = step;
  u.first = job.first();
  u.stochastic = static_cast<Rounding>(d.sweep.weight_rounding) == Rounding::stochastic;
  u.seed = d.sweep.seed;
  u.weight_stream = stream_now(d, job.weight_stream);
  u.first_stream = stream_now(d, state.first_stream);
  u.second_stream = stream_now(d, state.second_stream);
  u.parameter = job.parameter;
  u.parameter_format = job.parameter_scales != nullptr ? Format::int8 : format_of(job.parameter_type);
  u.parameter_scales = job.parameter_scales;
  u.parameter_block = job.parameter_block;
  u.first_moment = state.first;
  u.first_format = static_cast<Format>(state.first_format);
  u.first_scales = state.first_scales;
  u.first_block = state.first_block;
  u.second_moment = state.second;
  u.second_kind = state.second_kind;
  u.second_scales = state.second_scales;
  u.second_block = state.second_block;
  u.row_roots = u.column_roots = nullptr;
  if (u.factored()) {
    u.row_roots = d.roots + d.plans[tensor].first_root;
    u.column_roots = u.row_roots + columns_begin(job.rows);
  }
  u.row_length = job.rows > 0 ? job.n / job.rows : 1;
  return u;
}

FG_DEVICE int code_bits(Format format) {
  return format == Format::fp32                              ? 32
         : format == Format::bf16 || format == Format::fp16  ? 16
         : format == Format::int4 || format == Format::fp4_e2m1 ? 4
                                                                : 8;
}

// Quads of an address that a lead of so many elements comes before.
FG_DEVICE bool aligned_codes(const void* p, int lead, int bits) {
  if (p == nullptr) return true;
  return (reinterpret_cast<uintptr_t>(p) * 8 - static_cast<uintptr_t>(lead * bits)) % static_cast<uintptr_t>(kQuad * bits) == 0;
}

FG_DEVICE bool accessible_whole(const AdamwUpdate& u, int lead) {
  bool whole = aligned_codes(u.parameter, lead, code_bits(u.parameter_format));
  if (u.step.first_moment) whole = whole && aligned_codes(u.first_moment, lead, code_bits(u.first_format));
  if (!u.factored()) whole = whole && aligned_codes(u.second_moment, lead, u.second_bits());
  return whole;
}

// Numbers of the formats without scales.
FG_DEVICE HalfTile decode_plain(const HalfCodes& codes, Format format) {
  const float none[kHalfRows] = {};
  switch (format) {
    case Format::bf16: return decode_half<Format::bf16>(codes, none);
    case Format::fp16: return decode_half<Format::fp16>(codes, none);
    default: return decode_half<Format::fp32>(codes, none);
  }
}

FG_DEVICE HalfCodes fp32_codes(const HalfTile& x) {
  HalfCodes out;
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
#pragma unroll
    for (int k = 0; k < kQuad; ++k) out.row[r].v[k] = float_bits(canonical(x.row[r].v[k]));
  }
  return out;
}

template <Rounding R>
FG_DEVICE void store_plain(void* memory, Format format, const HalfPlace& p, const HalfTile& x, const HalfNoise& noise) {
  const float none[kHalfRows] = {};
  if (format == Format::fp32) return store_codes<32>(memory, p, fp32_codes(x));
  const bool odd = maxima_of(x).odd;
  store_codes<16>(memory, p, format == Format::bf16 ? encode_half<Format::bf16, R>(x, none, noise, odd)
                                                    : encode_half<Format::fp16, R>(x, none, noise, odd));
}

// The first moment.

FG_DEVICE HalfTile decode_first(const AdamwUpdate& u, const HalfPlace& p, const HalfCodes& codes) {
  if (u.first_scales == nullptr) return decode_plain(codes, u.first_format);
  float scale[kHalfRows];
  Blocks(u.first_scales, u.first_block).load(p, scale);
  switch (u.first_format) {
    case Format::fp8_e4m3: return decode_half<Format::fp8_e4m3>(codes, scale);
    case Format::fp8_e5m2: return decode_half<Format::fp8_e5m2>(codes, scale);
    case Format::fp4_e2m1: return decode_half<Format::fp4_e2m1>(codes, scale);
    case Format::int8: return decode_half<Format::int8>(codes, scale);
    default: return decode_half<Format::int4>(codes, scale);
  }
}

// Scales of blocks from their largest magnitudes, and the inverses; the scales are stored.
FG_DEVICE void store_scales(const Blocks& blocks, const HalfPlace& p, const uint32_t (&largest)[kHalfRows], float of_codes,
                            float (&inverse)[kHalfRows]) {
  float scale[kHalfRows];
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
    scale[r] = scale_for(bits_float(largest[r]), of_codes, false);
    inverse[r] = 1.0f / scale[r];
  }
  blocks.store(p, scale);
}

template <Format F>
FG_DEVICE void store_first(const AdamwUpdate& u, const HalfPlace& p, const HalfTile& m, HalfMaxima& maxima,
                           const HalfNoise& noise) {
  float inverse[kHalfRows];
  store_scales(Blocks(u.first_scales, u.first_block), p, maxima.row, format_spec(F).largest, inverse);
  store_codes<format_spec(F).code_bits>(u.first_moment, p,
                                        encode_half<F, Rounding::stochastic>(m, inverse, noise, maxima.odd));
}

FG_DEVICE void store_first(const AdamwUpdate& u, const HalfPlace& p, const HalfTile& m, const HalfNoise& noise) {
  if (u.first_scales == nullptr) return store_plain<Rounding::stochastic>(u.first_moment, u.first_format, p, m, noise);
  HalfMaxima maxima = maxima_of(m);
  Blocks(u.first_scales, u.first_block).spread(maxima.row);
  switch (u.first_format) {
    case Format::fp8_e4m3: return store_first<Format::fp8_e4m3>(u, p, m, maxima, noise);
    case Format::fp8_e5m2: return store_first<Format::fp8_e5m2>(u, p, m, maxima, noise);
    case Format::fp4_e2m1: return store_first<Format::fp4_e2m1>(u, p, m, maxima, noise);
    case Format::int8: return store_first<Format::int8>(u, p, m, maxima, noise);
    default: return store_first<Format::int4>(u, p, m, maxima, noise);
  }
}

// The second moment.

FG_DEVICE HalfTile decode_second(const AdamwUpdate& u, const HalfPlace& p, const HalfCodes& codes) {
  if (u.second_scales == nullptr) {
    return decode_plain(codes, u.second_kind == SecondMoment::bf16   ? Format::bf16
                               : u.second_kind == SecondMoment::fp16 ? Format::fp16
                                                                     : Format::fp32);
  }
  float scale[kHalfRows];
  Blocks(u.second_scales, u.second_block).load(p, scale);
  HalfTile out;
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
    const QuadWord code = u.second_kind == SecondMoment::codes8 ? unpack<8>(codes.row[r]) : unpack<4>(codes.row[r]);
    const Quad root = word_to_float(code) * scale[r];
    out.row[r] = root * root;
  }
  return out;
}

template <int BITS>
FG_DEVICE void store_roots(const AdamwUpdate& u, const HalfPlace& p, const HalfTile& roots, const HalfNoise& noise) {
  constexpr float kLargest = BITS == 8 ? kRootCodes8 : kRootCodes4;
  const Blocks blocks(u.second_scales, u.second_block);
  HalfMaxima maxima = maxima_of(roots);
  blocks.spread(maxima.row);
  float inverse[kHalfRows];
  store_scales(blocks, p, maxima.row, kLargest, inverse);
  HalfCodes codes;
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
    codes.row[r] = pack<BITS>(root_code<Quad, QuadWord>(roots.row[r], splat<Quad>(inverse[r]), kLargest, noise.row(r)));
  }
  store_codes<BITS>(u.second_moment, p, codes);
}

// `v` holds roots where codes are kept.
FG_DEVICE void store_second(const AdamwUpdate& u, const HalfPlace& p, const HalfTile& v, const HalfNoise& noise) {
  switch (u.second_kind) {
    case SecondMoment::codes8: return store_roots<8>(u, p, v, noise);
    case SecondMoment::codes4: return store_roots<4>(u, p, v, noise);
    case SecondMoment::bf16: return store_plain<Rounding::stochastic>(u.second_moment, Format::bf16, p, v, noise);
    case SecondMoment::fp16: return store_plain<Rounding::stochastic>(u.second_moment, Format::fp16, p, v, noise);
    case SecondMoment::fp32: return store_codes<32>(u.second_moment, p, fp32_codes(v));
    default: return;
  }
}

// The root of a factored second moment: a of the row times b of the column.
FG_DEVICE HalfTile factored_roots(const AdamwUpdate& u, const HalfPlace& p) {
  HalfTile out;
  const int64_t length = u.row_length;
  const bool quads = p.whole && length % kQuad == 0;  // then a quad lies in one row
  int64_t row = (p.first < 0 ? 0 : p.first) / length;
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
    const int64_t at = p.at(r);
    if (quads) {
      if (length < kColumns) {
        row = at / length;
      } else if (at - row * length >= length) {
        row += 1;
      }
      out.row[r] = load_floats(u.column_roots + (at - row * length)) * u.row_roots[row];
      continue;
    }
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const int64_t element = at + k;
      out.row[r].v[k] = 0.0f;
      if (!p.exists(r, k)) continue;
      out.row[r].v[k] = u.row_roots[element / length] * u.column_roots[element % length];
    }
  }
  return out;
}

// The parameter.

FG_DEVICE void store_parameter(const AdamwUpdate& u, const HalfPlace& p, const HalfTile& x, const float (&before)[kHalfRows],
                               const HalfNoise& noise) {
  if (u.parameter_scales == nullptr) {
    return u.stochastic ? store_plain<Rounding::stochastic>(u.parameter, u.parameter_format, p, x, noise)
                        : store_plain<Rounding::nearest>(u.parameter, u.parameter_format, p, x, noise);
  }
  const Blocks blocks(u.parameter_scales, u.parameter_block);
  HalfMaxima maxima = maxima_of(x);
  blocks.spread(maxima.row);
  float scale[kHalfRows], inverse[kHalfRows];
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
    scale[r] = parameter_scale(bits_float(maxima.row[r]), before[r]);
    inverse[r] = 1.0f / scale[r];
  }
  blocks.store(p, scale);
  store_codes<8>(u.parameter, p, u.stochastic ? encode_half<Format::int8, Rounding::stochastic>(x, inverse, noise, maxima.odd)
                                              : encode_half<Format::int8, Rounding::nearest>(x, inverse, noise, maxima.odd));
}

struct AdamwNoise {
  LaneNoise weight, first, second;
};

FG_DEVICE AdamwNoise adamw_noise(const AdamwUpdate& u, int64_t tile) {
  const int lane = lane_number();
  AdamwNoise out = {no_noise(), no_noise(), no_noise()};
  if (u.stochastic && u.parameter_format != Format::fp32) out.weight = lane_noise(u.seed, u.weight_stream, tile, lane);
  if (u.step.first_moment && u.first_format != Format::fp32) out.first = lane_noise(u.seed, u.first_stream, tile, lane);
  if (!u.factored() && u.second_kind != SecondMoment::fp32) out.second = lane_noise(u.seed, u.second_stream, tile, lane);
  return out;
}

// Four rows of a tile, `q` being their treated gradients. whole: all of the tile exists, and quads can be accessed whole.
FG_DEVICE void adamw_half(const AdamwUpdate& u, const TileSource& source, bool whole, int half, const HalfTile& q,
                          const AdamwNoise& noise) {
  const int start = half * kHalfRows * kColumns + kQuad * lane_number();
  const HalfPlace place = {source.offset + start, start, source.begin, source.end, whole};
  const AdamwStep& s = u.step;
  const bool has_first = s.first_moment, factored = u.factored();
  HalfCodes p_codes = load_codes(u.parameter, code_bits(u.parameter_format), place), m_codes = {}, v_codes = {};
  if (has_first && !u.first) m_codes = load_codes(u.first_moment, code_bits(u.first_format), place);
  if (!factored && !u.first) v_codes = load_codes(u.second_moment, u.second_bits(), place);

  HalfTile m = {}, v = {}, p;
  float scale[kHalfRows] = {};
  if (has_first && !u.first) m = decode_first(u, place, m_codes);
  if (factored) {
    v = factored_roots(u, place);
  } else if (!u.first) {
    v = decode_second(u, place, v_codes);
  }
  if (u.parameter_scales != nullptr) {
    Blocks(u.parameter_scales, u.parameter_block).load(place, scale);
    p = decode_half<Format::int8>(p_codes, scale);
  } else {
    p = decode_plain(p_codes, u.parameter_format);
  }
  const bool keeps_roots = u.second_scales != nullptr && !factored;
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const float d = s.maximize ? -q.row[r].v[k] : q.row[r].v[k];
      float first = d, root = v.row[r].v[k];
      if (has_first) m.row[r].v[k] = first = adamw_first_moment(d, m.row[r].v[k], s);
      if (!factored) {
        const float second = adamw_second_moment(d, v.row[r].v[k], s), of_second = sqrtf(second);
        v.row[r].v[k] = keeps_roots ? of_second : second;
        root = of_second * s.root;
      }
      p.row[r].v[k] = adamw_parameter(p.row[r].v[k], first, root, s);
    }
  }
  if (has_first) store_first(u, place, m, HalfNoise(noise.first, half));
  store_second(u, place, v, HalfNoise(noise.second, half));
  store_parameter(u, place, p, scale, HalfNoise(noise.weight, half));
}

// tile: of the whole tensor, for the noise. One text for both halves: it is long, with all the ways to keep a state.
FG_DEVICE void adamw_tile(const AdamwUpdate& u, const TileSource& source, bool whole, int64_t tile, LaneTile q) {
  const AdamwNoise noise = adamw_noise(u, tile);
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    HalfTile one;
#pragma unroll
    for (int r = 0; r < kHalfRows; ++r) {
      one.row[r] = q.row[r];
      q.row[r] = q.row[r + kHalfRows];
    }
    adamw_half(u, source, whole, half, one, noise);
  }
}

FASTGRAD_NUMERICS_END
