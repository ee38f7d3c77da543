// Tiles between memory and float32: loading, storing, packing.
#pragma once

#include "job.h"
#include "vector.h"  // before the formulas, whose templates must find its functions

#include "numerics/rounding.h"
#include "numerics/tile.h"

FASTGRAD_NUMERICS_BEGIN

// The part of a tile that a tensor has: all of it, but for its last tile and, of a shard, its first.
struct Span {
  int64_t tile;    // of the noise
  int64_t offset;  // of the tensor's element at position `begin`
  int begin, end;  // positions in the tile

  int count() const { return end - begin; }
  bool whole_rows() const { return begin == 0 && end % kColumns == 0; }
  int padded() const { return (end + kColumns - 1) / kColumns * kColumns; }
};

// +0 where the tensor has no elements, to the end of the row.
template <class T>
inline void pad(const Span& span, T* buffer) {
  for (int i = 0; i < span.begin; ++i) buffer[i] = T{};
  for (int i = span.end; i < span.padded(); ++i) buffer[i] = T{};
}

inline int64_t type_size(Type type) { return type == Type::fp32 ? 4 : 2; }
inline int type_bits(Type type) { return type == Type::fp32 ? 32 : 16; }

// What is read next, asked for bit by bit while something is computed: a tile takes so long that without it each of
// its streams begins with a wait for memory. Line after line: in another order much less of it comes in time.
struct Ahead {
  const char* at[4];
  int lines[4];
  int count = 0;

  void add(const void* memory, int64_t offset, int bits) {
    at[count] = static_cast<const char*>(memory) + offset * bits / 8;
    lines[count++] = kTile * bits / 8 / 64;
  }
  __attribute__((always_inline)) void ask(int part, int parts) const {
    for (int s = 0; s < count; ++s) {
      for (int l = lines[s] * part / parts; l < lines[s] * (part + 1) / parts; ++l) __builtin_prefetch(at[s] + 64 * l);
    }
  }
};

// For loops that only memory limits: what is read half a tile from now. The processor's own guesses bring a tenth less;
// further ahead, what was asked for leaves the nearest cache again before it is read.
inline __attribute__((always_inline)) void ask_for_line(const float* x) { __builtin_prefetch(x + kTile / 2); }

inline void widen(const void* source, Type type, int64_t offset, int count, float* __restrict x) {
  if (type == Type::fp32) {
    memcpy(x, static_cast<const float*>(source) + offset, count * sizeof(float));
    return;
  }
  const uint16_t* __restrict h = static_cast<const uint16_t*>(source) + offset;
  if (type == Type::bf16) {
    for (int i = 0; i < count; ++i) x[i] = bits_float(static_cast<uint32_t>(h[i]) << 16);
  } else {
    for (int i = 0; i < count; ++i) x[i] = half_to_float(h[i]);
  }
}

// The elements as float32 times the inverse loss scale, at their positions in the tile, padded. Returns where they are:
// in `buffer`, or in place if nothing has to be done to them.
inline const float* load_tile(const void* source, Type type, const Span& span, float inverse_loss_scale,
                              float* __restrict buffer) {
  if (type == Type::fp32 && inverse_loss_scale == 1.0f && span.whole_rows()) {
    return static_cast<const float*>(source) + span.offset;
  }
  widen(source, type, span.offset, span.count(), buffer + span.begin);
  if (inverse_loss_scale != 1.0f) {
    for (int i = span.begin; i < span.end; ++i) buffer[i] = buffer[i] * inverse_loss_scale;
  }
  pad(span, buffer);
  return buffer;
}

template <Format F, Rounding R>
inline void narrow(const float* __restrict x, const uint16_t* __restrict noise, int count, uint16_t* __restrict out) {
  for (int i = 0; i < count; ++i) {
    const uint32_t z = R == Rounding::stochastic ? noise[i] : 0;
    out[i] = static_cast<uint16_t>(quantize_any<F, R>(x[i], 1.0f, 1.0f, z).code);
  }
}

// Stores float32 values in a tensor's type. Noise is read only where `stochastic` is set.
inline void store_tile(const float* __restrict x, int count, void* target, Type type, int64_t offset, Rounding rounding,
                       const uint16_t* __restrict noise) {
  if (type == Type::fp32) {
    float* __restrict out = static_cast<float*>(target) + offset;
    for (int i = 0; i < count; ++i) out[i] = canonical(x[i]);
    return;
  }
  uint16_t* out = static_cast<uint16_t*>(target) + offset;
  const bool stochastic = rounding == Rounding::stochastic;
  if (type == Type::bf16) {
    stochastic ? narrow<Format::bf16, Rounding::stochastic>(x, noise, count, out)
               : narrow<Format::bf16, Rounding::nearest>(x, noise, count, out);
  } else {
    stochastic ? narrow<Format::fp16, Rounding::stochastic>(x, noise, count, out)
               : narrow<Format::fp16, Rounding::nearest>(x, noise, count, out);
  }
}

// Copies a tile's bytes; past the cache where the target is so large that it will not be read from there.
inline void copy_out(void* target, const void* source, int64_t bytes, [[maybe_unused]] bool stream) {
  const char* from = static_cast<const char*>(source);
  char* to = static_cast<char*>(target);
  int64_t i = 0;
#if defined(__SSE2__)
  if (stream && reinterpret_cast<uintptr_t>(target) % 64 == 0) {
    for (; i + 64 <= bytes; i += 64) {
#if defined(__AVX512F__)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
#else
      for (int j = 0; j < 64; j += 16) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + i + j),
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i + j)));
      }
#endif
    }
  }
#endif
  for (; i + 64 <= bytes; i += 64) memcpy(to + i, from + i, 64);
  for (; i < bytes; ++i) to[i] = from[i];
}

// Makes streamed stores visible to other threads before they are told that the work is done.
inline void finish_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

FASTGRAD_NUMERICS_END
