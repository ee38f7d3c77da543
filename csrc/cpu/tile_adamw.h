// AdamW on one tile: states to float32, the step, states and parameter back. See docs/numerics.md, section 12.
#pragma once

#include "job.h"
#include "tile_blocks.h"

FASTGRAD_NUMERICS_BEGIN

namespace {

// Numbers of a tile as float32: in memory where they are kept so and the tile is whole, else in a buffer.
struct TileNumbers {
  float* x;
  alignas(64) float buffer[kTile];
};

bool kept_in_place(Type type, const Span& span) { return type == Type::fp32 && span.whole_rows(); }

void load_numbers(const void* memory, Type type, const Span& span, TileNumbers& to) {
  if (kept_in_place(type, span)) {
    to.x = static_cast<float*>(const_cast<void*>(memory)) + span.offset;
    return;
  }
  to.x = to.buffer;
  widen(memory, type, span.offset, span.count(), to.buffer + span.begin);
  pad(span, to.buffer);
}

template <Format F>
void round_numbers(const float* x, const Span& span, Rounding rounding, const TileNoise& noise, bool finite, uint16_t* codes) {
  if (rounding == Rounding::nearest) return round_odd_rows<F, Rounding::nearest>(x, span, noise, nullptr, 0, codes);
  finite ? round_rows<F, Rounding::stochastic>(x, span, noise, nullptr, 0, codes)
         : round_odd_rows<F, Rounding::stochastic>(x, span, noise, nullptr, 0, codes);
}

void store_numbers(const TileNumbers& from, void* memory, Type type, const Span& span, Rounding rounding,
                   const TileNoise& noise, bool finite) {
  if (type == Type::fp32) {
    if (from.x != from.buffer && finite) return;  // is there already
    store_tile(from.x + span.begin, span.count(), memory, type, span.offset, rounding, nullptr);
    return;
  }
  alignas(64) uint16_t codes[kTile];
  if (type == Type::bf16) {
    round_numbers<Format::bf16>(from.x, span, rounding, noise, finite, codes);
  } else {
    round_numbers<Format::fp16>(from.x, span, rounding, noise, finite, codes);
  }
  memcpy(static_cast<uint16_t*>(memory) + span.offset, codes + span.begin, span.count() * sizeof(uint16_t));
}

Type type_of(SecondMoment kind) {
  return kind == SecondMoment::bf16 ? Type::bf16 : kind == SecondMoment::fp16 ? Type::fp16 : Type::fp32;
}
Type type_of(Format format) {
  return format == Format::bf16 ? Type::bf16 : format == Format::fp16 ? Type::fp16 : Type::fp32;
}

void empty_numbers(TileNumbers& to) {
  to.x = to.buffer;
  memset(to.buffer, 0, sizeof to.buffer);
}

// The first moment.

template <Format F>
void load_first(const AdamwState& state, const Span& span, TileBlocks& blocks, float* x) {
  alignas(64) uint8_t codes[kTile];
  blocks.load(span);
  get_codes(span, format_spec(F).code_bits, state.first, codes);
  decode_blocks<F>(span, codes, blocks, x);
}

template <Format F>
void store_first(const AdamwState& state, const Span& span, const TileNoise& noise, TileBlocks& blocks, const float* x,
                 bool finite) {
  blocks.fit(x, span, format_spec(F).largest);
  encode_blocks<F, Rounding::stochastic>(x, span, finite, noise, blocks, state.first);
}

void load_first(const TensorJob& job, const Span& span, TileBlocks& blocks, TileNumbers& to) {
  const AdamwState& state = job.adamw;
  if (job.first()) return empty_numbers(to);
  if (state.first_scales == nullptr) return load_numbers(state.first, type_of(static_cast<Format>(state.first_format)), span, to);
  to.x = to.buffer;
  switch (static_cast<Format>(state.first_format)) {
    case Format::fp8_e4m3: load_first<Format::fp8_e4m3>(state, span, blocks, to.buffer); break;
    case Format::fp8_e5m2: load_first<Format::fp8_e5m2>(state, span, blocks, to.buffer); break;
    case Format::fp4_e2m1: load_first<Format::fp4_e2m1>(state, span, blocks, to.buffer); break;
    case Format::int8: load_first<Format::int8>(state, span, blocks, to.buffer); break;
    default: load_first<Format::int4>(state, span, blocks, to.buffer); break;
  }
  pad(span, to.buffer);
}

void store_first(const TensorJob& job, const Span& span, const TileNoise& noise, TileBlocks& blocks, const TileNumbers& from,
                 bool finite) {
  const AdamwState& state = job.adamw;
  const Format format = static_cast<Format>(state.first_format);
  if (state.first_scales == nullptr) {
    return store_numbers(from, state.first, type_of(format), span, Rounding::stochastic, noise, finite);
  }
  switch (format) {
    case Format::fp8_e4m3: return store_first<Format::fp8_e4m3>(state, span, noise, blocks, from.x, finite);
    case Format::fp8_e5m2: return store_first<Format::fp8_e5m2>(state, span, noise, blocks, from.x, finite);
    case Format::fp4_e2m1: return store_first<Format::fp4_e2m1>(state, span, noise, blocks, from.x, finite);
    case Format::int8: return store_first<Format::int8>(state, span, noise, blocks, from.x, finite);
    default: return store_first<Format::int4>(state, span, noise, blocks, from.x, finite);
  }
}

// The second moment: `v` holds it, or, where roots are kept, what was read is squared.

int root_bits(const AdamwState& state) { return state.second_kind == SecondMoment::codes8 ? 8 : 4; }

void load_second(const TensorJob& job, const Span& span, TileBlocks& blocks, TileNumbers& to) {
  const AdamwState& state = job.adamw;
  if (job.first()) return empty_numbers(to);
  if (state.second_scales == nullptr) return load_numbers(state.second, type_of(state.second_kind), span, to);
  alignas(64) uint8_t codes[kTile];
  blocks.load(span);
  get_codes(span, root_bits(state), state.second, codes);
  float* __restrict v = to.x = to.buffer;
  for (int b = blocks.first(span); b < blocks.first(span) + blocks.count(span); ++b) {
    const float scale = blocks.scales[b];
    for (int i = b * blocks.block; i < (b + 1) * blocks.block; ++i) {
      const float r = static_cast<float>(static_cast<int32_t>(codes[i])) * scale;
      v[i] = r * r;
    }
  }
  pad(span, to.buffer);
}

void store_roots(const AdamwState& state, const Span& span, const TileNoise& noise, TileBlocks& blocks,
                 const float* __restrict r) {
  const float largest = root_bits(state) == 8 ? kRootCodes8 : kRootCodes4;
  blocks.fit(r, span, largest);
  blocks.store(span);
  alignas(64) uint8_t codes[kTile];
  const int shift = __builtin_ctz(static_cast<unsigned>(blocks.block)), rows = span.padded() / kColumns;
  for (int c = 0; c < kColumns; c += kFloats) {
    const ColumnNoise columns = noise.columns[c / kFloats];
#pragma GCC unroll 8
    for (int row = 0; row < rows; ++row) {
      const int at = row * kColumns + c;
      const Floats inverse = splat<Floats>(blocks.inverses[at >> shift]);
      store_codes(codes + at, root_code<Floats, Words>(load_floats(r + at), inverse, largest, columns.row(row)));
    }
  }
  put_codes(span, root_bits(state), codes, state.second);
}

// The parameter.

void load_parameter(const TensorJob& job, const Span& span, TileBlocks& blocks, TileNumbers& to) {
  if (job.parameter_scales == nullptr) return load_numbers(job.parameter, job.parameter_type, span, to);
  alignas(64) uint8_t codes[kTile];
  blocks.load(span);
  get_codes(span, 8, job.parameter, codes);
  to.x = to.buffer;
  decode_blocks<Format::int8>(span, codes, blocks, to.buffer);
  pad(span, to.buffer);
}

void store_parameter(const TensorJob& job, const Span& span, Rounding rounding, const TileNoise& noise, TileBlocks& blocks,
                     const TileNumbers& from, bool finite) {
  if (job.parameter_scales == nullptr) {
    return store_numbers(from, job.parameter, job.parameter_type, span, rounding, noise, finite);
  }
  alignas(64) float absmax[kTile / 16];
  blocks.measure(from.x, span, absmax);
  for (int b = 0; b < blocks.count(span); ++b) {
    float& scale = blocks.scales[blocks.first(span) + b];
    scale = parameter_scale(absmax[b], scale);
  }
  if (rounding == Rounding::stochastic) {
    encode_blocks<Format::int8, Rounding::stochastic>(from.x, span, finite, noise, blocks, job.parameter);
  } else {
    encode_blocks<Format::int8, Rounding::nearest>(from.x, span, finite, noise, blocks, job.parameter);
  }
}

// w = a_i * b_j of a factored second moment.
void factored_roots(const TensorJob& job, const Span& span, float* __restrict w) {
  const int64_t length = job.n / job.rows;
  int64_t row = span.offset / length, column = span.offset % length;
  for (int i = span.begin; i < span.end; ++row, column = 0) {
    const int64_t left = length - column;
    const int end = left < span.end - i ? i + static_cast<int>(left) : span.end;
    const float a = job.adamw.row_roots[row];
    const float* __restrict b = job.adamw.column_roots + column;
    for (int j = 0; j < end - i; ++j) w[i + j] = a * b[j];
    i = end;
  }
}

// The noises of a tile that are needed.
struct TileNoises {
  TileNoise parameter, first, second;
  bool with_parameter, with_first, with_second;

  // Of a group of columns, as three parts.
  void make(const TensorJob& job, const PhiloxKeys& keys, int64_t tile, int group, int part) {
    if (part == 0 && with_parameter) parameter.make(keys, job.weight_stream, tile, group);
    if (part == 1 && with_first) first.make(keys, job.adamw.first_stream, tile, group);
    if (part == 2 && with_second) second.make(keys, job.adamw.second_stream, tile, group);
  }
};

struct AdamwBuffers {
  const float* q;
  float *p, *m, *v, *w;  // w: roots of a factored moment, else where those of v go
};

struct Largest {
  uint32_t p = 0, m = 0;  // bits of the largest magnitudes
};

// The step on whole rows. Divisions and roots keep one unit of the processor busy; the noise, which others make, is
// made in the same loop for that reason, a third of a group of columns at a time: a larger part would wait behind what
// waits for the roots. IN_PLACE: gradients, parameters and states are float32 in memory, which then is the limit: what
// comes is asked for with every line.
template <bool FIRST_MOMENT, bool FACTORED, bool IN_PLACE = false>
Largest adamw_rows(const TensorJob& job, const PhiloxKeys& keys, const Span& span, const AdamwStep& constants,
                   const AdamwBuffers& buffers, const Ahead& ahead, TileNoises& noises) {
  const AdamwStep s = constants;  // copies: for all the compiler knows, what is stored below might be part of these
  const AdamwBuffers b = buffers;
  const int rows = span.padded() / kColumns;
  const Words flip = Words{} + (s.maximize ? kSign : 0u);
  Words largest_p = {}, largest_m = {};
  const float* grad = IN_PLACE ? static_cast<const float*>(job.grad) + span.offset : nullptr;
  constexpr int kGroups = TileNoise::kGroups;
  static_assert(kGroups % kRows == 0);  // a group of columns has as many vectors as the part of a row it is made beside
  const bool beside = !IN_PLACE && rows == kRows;
  for (int group = 0; !IN_PLACE && !beside && group < kGroups; ++group) {
    for (int part = 0; part < 3; ++part) noises.make(job, keys, span.tile, group, part);
  }
  for (int group = 0; group < rows * kGroups / kRows; ++group) {
    if (beside) ahead.ask(group, kGroups);
#pragma GCC unroll 8
    for (int k = 0; k < kRows; ++k) {
      const int at = (group * kRows + k) * kFloats;
      if (beside && k % 3 == 0) noises.make(job, keys, span.tile, group, k / 3);
      if constexpr (IN_PLACE) {
        if (at % kLine == 0) {
          ask_for_line(grad + at);
          ask_for_line(b.p + at);
          ask_for_line(b.m + at);
          ask_for_line(b.v + at);
        }
      }
      // All loads before all stores: streams at equal places of their pages look to the processor as if they overlapped.
      const Floats d = bits_float(float_bits(load_floats(b.q + at)) ^ flip), before = load_floats(b.p + at);
      Floats m = d, v = d, w;
      if constexpr (FIRST_MOMENT) m = load_floats(b.m + at);
      if constexpr (!FACTORED) v = load_floats(b.v + at);
      if constexpr (FIRST_MOMENT) {
        m = adamw_first_moment(d, m, s);
        largest_m = maximum(largest_m, float_bits(m) & kMagnitude);
        store_floats(b.m + at, m);
      }
      if constexpr (FACTORED) {
        w = load_floats(b.w + at);
      } else {
        v = adamw_second_moment(d, v, s);
        store_floats(b.v + at, v);
        const Floats root = square_root(v);
        if constexpr (!IN_PLACE) store_floats(b.w + at, root);
        w = root * s.root;
      }
      const Floats p = adamw_parameter(before, m, w, s);
      largest_p = maximum(largest_p, float_bits(p) & kMagnitude);
      store_floats(b.p + at, p);
    }
  }
  return {largest_lane(largest_p), largest_lane(largest_m)};
}

// The streams of the tile at `offset`.
Ahead ahead_of(const TensorJob& job, bool first_moment, int64_t offset) {
  const AdamwState& state = job.adamw;
  Ahead ahead;
  ahead.add(job.grad, offset, type_bits(job.grad_type));
  ahead.add(job.parameter, offset, job.parameter_scales != nullptr ? 8 : type_bits(job.parameter_type));
  if (first_moment && !job.first()) ahead.add(state.first, offset, format_spec(static_cast<Format>(state.first_format)).code_bits);
  if (!job.factored() && !job.first()) {
    ahead.add(state.second, offset, state.second_scales != nullptr ? root_bits(state) : type_bits(type_of(state.second_kind)));
  }
  return ahead;
}

// Whether gradients, parameter and both moments are float32 numbers that are read and written where they are.
bool all_in_memory(const TensorJob& job, const AdamwStep& step) {
  const AdamwState& state = job.adamw;
  const bool first = step.first_moment && state.first_scales == nullptr &&
                     type_of(static_cast<Format>(state.first_format)) == Type::fp32;
  const bool second = !job.factored() && state.second_scales == nullptr && state.second_kind == SecondMoment::fp32;
  return first && second && !job.first() && job.grad_type == Type::fp32 && job.parameter_type == Type::fp32 &&
         job.parameter_scales == nullptr;
}

// q: treated gradients at their positions in the tile, padded. The span may be longer than a tile where everything is in
// memory and the span is made of whole rows.
void adamw_tile(const TensorJob& job, const Sweep& sweep, const AdamwStep& step, const float* q, const Span& span) {
  const AdamwState& state = job.adamw;
  const bool factored = job.factored();
  const Rounding rounding = static_cast<Rounding>(sweep.weight_rounding);
  TileNumbers p, m, v;
  TileBlocks p_blocks, m_blocks, v_blocks;
  p_blocks.memory = job.parameter_scales, p_blocks.block = job.parameter_block;
  m_blocks.memory = state.first_scales, m_blocks.block = state.first_block;
  v_blocks.memory = state.second_scales, v_blocks.block = state.second_block;
  alignas(64) float w[kTile];
  load_parameter(job, span, p_blocks, p);
  m.x = v.x = nullptr;
  if (step.first_moment) load_first(job, span, m_blocks, m);
  if (factored) {
    factored_roots(job, span, w);
    pad(span, w);
  } else {
    load_second(job, span, v_blocks, v);
  }
  TileNoises noises;
  const bool plain_first = state.first_scales == nullptr && type_of(static_cast<Format>(state.first_format)) == Type::fp32;
  const bool plain_parameter = job.parameter_scales == nullptr && job.parameter_type == Type::fp32;
  noises.with_parameter = rounding == Rounding::stochastic && !plain_parameter;
  noises.with_first = step.first_moment && !plain_first;
  noises.with_second = !factored && state.second_kind != SecondMoment::fp32;
  const PhiloxKeys keys(sweep.seed);
  const AdamwBuffers buffers = {q, p.x, m.x, v.x, w};
  const bool in_place = all_in_memory(job, step) && span.whole_rows();
  const auto rows = in_place            ? adamw_rows<true, false, true>
                    : step.first_moment ? (factored ? adamw_rows<true, true> : adamw_rows<true, false>)
                                        : (factored ? adamw_rows<false, true> : adamw_rows<false, false>);
  const Largest largest = rows(job, keys, span, step, buffers, ahead_of(job, step.first_moment, span.offset + kTile), noises);
  if (step.first_moment) store_first(job, span, noises.first, m_blocks, m, largest.m < kInfinity);
  if (!factored && state.second_scales == nullptr) {
    store_numbers(v, state.second, type_of(state.second_kind), span, Rounding::stochastic, noises.second, true);
  } else if (!factored) {
    store_roots(state, span, noises.second, v_blocks, w);
  }
  store_parameter(job, span, rounding, noises.parameter, p_blocks, p, largest.p < kInfinity);
}

}  // namespace

FASTGRAD_NUMERICS_END
