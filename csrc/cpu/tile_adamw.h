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

void store_numbers(TileNumbers& from, void* memory, Type type, const Span& span, Rounding rounding, uint64_t seed,
                   uint64_t stream) {
  if (type == Type::fp32) {
    store_tile(from.x + span.begin, span.count(), memory, type, span.offset, rounding, nullptr);
    return;
  }
  const PhiloxKeys keys(seed);
  if (rounding == Rounding::stochastic && type == Type::bf16 && all_finite(from.x, span)) {
    alignas(64) uint16_t codes[kTile];
    round_rows<Format::bf16, Rounding::stochastic>(from.x, span, keys, stream, nullptr, 0, codes);
    memcpy(static_cast<uint16_t*>(memory) + span.offset, codes + span.begin, span.count() * sizeof(uint16_t));
    return;
  }
  alignas(64) uint16_t noise[kTile];
  if (rounding == Rounding::stochastic) noise_tile(keys, stream, span.tile, noise);
  store_tile(from.x + span.begin, span.count(), memory, type, span.offset, rounding, noise + span.begin);
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
void store_first(const AdamwState& state, const Span& span, uint64_t seed, TileBlocks& blocks, const float* x) {
  const bool finite = all_finite(x, span);
  for (int b = blocks.first(span); b < blocks.first(span) + blocks.count(span); ++b) {
    blocks.scales[b] = scale_for(block_absmax(x + b * blocks.block, blocks.block, finite), format_spec(F).largest, false);
  }
  encode_blocks<F, Rounding::stochastic>(x, span, finite, PhiloxKeys(seed), state.first_stream, blocks, state.first);
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

void store_first(const TensorJob& job, const Sweep& sweep, const Span& span, TileBlocks& blocks, TileNumbers& from) {
  const AdamwState& state = job.adamw;
  const Format format = static_cast<Format>(state.first_format);
  if (state.first_scales == nullptr) {
    return store_numbers(from, state.first, type_of(format), span, Rounding::stochastic, sweep.seed, state.first_stream);
  }
  switch (format) {
    case Format::fp8_e4m3: return store_first<Format::fp8_e4m3>(state, span, sweep.seed, blocks, from.x);
    case Format::fp8_e5m2: return store_first<Format::fp8_e5m2>(state, span, sweep.seed, blocks, from.x);
    case Format::fp4_e2m1: return store_first<Format::fp4_e2m1>(state, span, sweep.seed, blocks, from.x);
    case Format::int8: return store_first<Format::int8>(state, span, sweep.seed, blocks, from.x);
    default: return store_first<Format::int4>(state, span, sweep.seed, blocks, from.x);
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

void store_roots(const AdamwState& state, const Sweep& sweep, const Span& span, TileBlocks& blocks, const float* __restrict r) {
  const float largest = root_bits(state) == 8 ? kRootCodes8 : kRootCodes4;
  for (int b = blocks.first(span); b < blocks.first(span) + blocks.count(span); ++b) {
    blocks.scales[b] = scale_for(largest_magnitude(r + b * blocks.block, blocks.block), largest, false);
  }
  blocks.store(span);
  alignas(64) uint8_t codes[kTile];
  const PhiloxKeys keys(sweep.seed);
  const int shift = __builtin_ctz(static_cast<unsigned>(blocks.block)), rows = span.padded() / kColumns;
  for (int c = 0; c < kColumns; c += kFloats) {
    const ColumnNoise noise(keys, state.second_stream, span.tile, c);
    for (int row = 0; row < rows; ++row) {
      const int at = row * kColumns + c;
      const Floats inverse = splat<Floats>(blocks.inverses[at >> shift]);
      store_codes(codes + at, root_code<Floats, Words>(load_floats(r + at), inverse, largest, noise.row(row)));
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

void store_parameter(const TensorJob& job, const Sweep& sweep, const Span& span, TileBlocks& blocks, TileNumbers& from) {
  const Rounding rounding = static_cast<Rounding>(sweep.weight_rounding);
  if (job.parameter_scales == nullptr) {
    return store_numbers(from, job.parameter, job.parameter_type, span, rounding, sweep.seed, job.weight_stream);
  }
  const bool finite = all_finite(from.x, span);
  for (int b = blocks.first(span); b < blocks.first(span) + blocks.count(span); ++b) {
    const float absmax = block_absmax(from.x + b * blocks.block, blocks.block, finite);
    blocks.scales[b] = parameter_scale(absmax, blocks.scales[b]);
  }
  const PhiloxKeys keys(sweep.seed);
  if (rounding == Rounding::stochastic) {
    encode_blocks<Format::int8, Rounding::stochastic>(from.x, span, finite, keys, job.weight_stream, blocks, job.parameter);
  } else {
    encode_blocks<Format::int8, Rounding::nearest>(from.x, span, finite, keys, job.weight_stream, blocks, job.parameter);
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

template <bool MAXIMIZE, bool FIRST_MOMENT, bool FACTORED>
void adamw_elements(const float* __restrict q, const Span& span, float* __restrict p, float* __restrict m,
                    float* __restrict v, float* __restrict w, const AdamwStep& constants) {
  const AdamwStep s = constants;
  for (int i = span.begin; i < span.end; ++i) {
    const float d = MAXIMIZE ? -q[i] : q[i];
    float first = d;
    if (FIRST_MOMENT) m[i] = first = adamw_first_moment(d, m[i], s);
    float root;
    if (FACTORED) {
      root = w[i];
    } else {
      const float second = adamw_second_moment(d, v[i], s);
      v[i] = second;
      const float r = sqrtf(second);
      w[i] = r;
      root = r * s.root;
    }
    p[i] = adamw_parameter(p[i], first, root, s);
  }
}

template <bool MAXIMIZE, bool FIRST_MOMENT>
void adamw_elements(bool factored, const float* q, const Span& span, float* p, float* m, float* v, float* w,
                    const AdamwStep& step) {
  factored ? adamw_elements<MAXIMIZE, FIRST_MOMENT, true>(q, span, p, m, v, w, step)
           : adamw_elements<MAXIMIZE, FIRST_MOMENT, false>(q, span, p, m, v, w, step);
}

// q: treated gradients at their positions in the tile.
void adamw_tile(const TensorJob& job, const Sweep& sweep, const AdamwStep& step, const float* q, const Span& span) {
  const AdamwState& state = job.adamw;
  const bool factored = job.factored();
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
  } else {
    load_second(job, span, v_blocks, v);
    pad(span, w);
  }
  if (step.first_moment) {
    step.maximize ? adamw_elements<true, true>(factored, q, span, p.x, m.x, v.x, w, step)
                  : adamw_elements<false, true>(factored, q, span, p.x, m.x, v.x, w, step);
  } else {
    step.maximize ? adamw_elements<true, false>(factored, q, span, p.x, m.x, v.x, w, step)
                  : adamw_elements<false, false>(factored, q, span, p.x, m.x, v.x, w, step);
  }
  if (step.first_moment) store_first(job, sweep, span, m_blocks, m);
  if (!factored && state.second_scales == nullptr) {
    store_numbers(v, state.second, type_of(state.second_kind), span, Rounding::stochastic, sweep.seed, state.second_stream);
  } else if (!factored) {
    store_roots(state, sweep, span, v_blocks, w);
  }
  store_parameter(job, sweep, span, p_blocks, p);
}

}  // namespace

FASTGRAD_NUMERICS_END
