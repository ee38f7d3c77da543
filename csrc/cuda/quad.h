// The four neighbours of a row that a lane holds, with the operators that csrc/numerics asks of a vector type: what is
// rare (a subnormal, say) is then asked once for four elements.
#pragma once

#include "device.h"
#include "numerics/rounding.h"
#include "numerics/tile.h"

FASTGRAD_NUMERICS_BEGIN

constexpr int kQuad = 4;

template <class T>
struct Four {
  T v[kQuad];
};
using Quad = Four<float>;
using QuadWord = Four<uint32_t>;
using QuadMask = Four<bool>;

#define FG_QUAD_EACH(TYPE, EXPRESSION)               \
  TYPE out;                                          \
  _Pragma("unroll") for (int i = 0; i < kQuad; ++i) out.v[i] = EXPRESSION; \
  return out

FG_FN Quad operator+(const Quad& a, const Quad& b) { FG_QUAD_EACH(Quad, a.v[i] + b.v[i]); }
FG_FN Quad operator-(const Quad& a, const Quad& b) { FG_QUAD_EACH(Quad, a.v[i] - b.v[i]); }
FG_FN Quad operator*(const Quad& a, const Quad& b) { FG_QUAD_EACH(Quad, a.v[i] * b.v[i]); }
FG_FN Quad operator+(const Quad& a, float b) { FG_QUAD_EACH(Quad, a.v[i] + b); }
FG_FN Quad operator-(const Quad& a, float b) { FG_QUAD_EACH(Quad, a.v[i] - b); }
FG_FN Quad operator*(const Quad& a, float b) { FG_QUAD_EACH(Quad, a.v[i] * b); }
FG_FN QuadMask operator!=(const Quad& a, const Quad& b) { FG_QUAD_EACH(QuadMask, a.v[i] != b.v[i]); }

FG_FN QuadWord operator+(const QuadWord& a, const QuadWord& b) { FG_QUAD_EACH(QuadWord, a.v[i] + b.v[i]); }
FG_FN QuadWord operator-(const QuadWord& a, const QuadWord& b) { FG_QUAD_EACH(QuadWord, a.v[i] - b.v[i]); }
FG_FN QuadWord operator|(const QuadWord& a, const QuadWord& b) { FG_QUAD_EACH(QuadWord, a.v[i] | b.v[i]); }
FG_FN QuadWord operator^(const QuadWord& a, const QuadWord& b) { FG_QUAD_EACH(QuadWord, a.v[i] ^ b.v[i]); }
FG_FN QuadWord operator+(const QuadWord& a, uint32_t b) { FG_QUAD_EACH(QuadWord, a.v[i] + b); }
FG_FN QuadWord operator-(const QuadWord& a, uint32_t b) { FG_QUAD_EACH(QuadWord, a.v[i] - b); }
FG_FN QuadWord operator&(const QuadWord& a, uint32_t b) { FG_QUAD_EACH(QuadWord, a.v[i] & b); }
FG_FN QuadWord operator<<(const QuadWord& a, int s) { FG_QUAD_EACH(QuadWord, a.v[i] << s); }
FG_FN QuadWord operator>>(const QuadWord& a, int s) { FG_QUAD_EACH(QuadWord, a.v[i] >> s); }
FG_FN QuadMask operator<(const QuadWord& a, uint32_t b) { FG_QUAD_EACH(QuadMask, a.v[i] < b); }
FG_FN QuadMask operator==(const QuadWord& a, uint32_t b) { FG_QUAD_EACH(QuadMask, a.v[i] == b); }
FG_FN QuadMask operator!=(const QuadWord& a, const QuadWord& b) { FG_QUAD_EACH(QuadMask, a.v[i] != b.v[i]); }
FG_FN QuadWord& operator|=(QuadWord& a, const QuadWord& b) { return a = a | b; }

FG_FN Quad select(const QuadMask& m, const Quad& a, const Quad& b) { FG_QUAD_EACH(Quad, m.v[i] ? a.v[i] : b.v[i]); }
FG_FN QuadWord select(const QuadMask& m, const QuadWord& a, const QuadWord& b) {
  FG_QUAD_EACH(QuadWord, m.v[i] ? a.v[i] : b.v[i]);
}
FG_FN QuadWord mask_to_word(const QuadMask& m) { FG_QUAD_EACH(QuadWord, m.v[i] ? 1u : 0u); }
FG_FN QuadWord float_bits(const Quad& x) { FG_QUAD_EACH(QuadWord, float_bits(x.v[i])); }
FG_FN Quad bits_float(const QuadWord& w) { FG_QUAD_EACH(Quad, bits_float(w.v[i])); }
FG_FN Quad word_to_float(const QuadWord& w) { FG_QUAD_EACH(Quad, word_to_float(w.v[i])); }
FG_FN QuadWord float_to_word(const Quad& x) { FG_QUAD_EACH(QuadWord, float_to_word(x.v[i])); }
FG_FN Quad magnitude(const Quad& x) { FG_QUAD_EACH(Quad, magnitude(x.v[i])); }
FG_FN Quad minimum(const Quad& a, const Quad& b) { FG_QUAD_EACH(Quad, fminf(a.v[i], b.v[i])); }
FG_FN bool any_below(const QuadWord& w, uint32_t limit) {
  return (w.v[0] < limit) | (w.v[1] < limit) | (w.v[2] < limit) | (w.v[3] < limit);
}

// The 16-bit noises of a lane's four columns: Philox once for eight rows.
struct LaneNoise {
  PhiloxWords<uint32_t> column[kQuad];

  FG_FN QuadWord row(int r) const {
    QuadWord out;
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const PhiloxWords<uint32_t>& w = column[k];
      const uint32_t word = (r & 3) == 0 ? w.w0 : (r & 3) == 1 ? w.w1 : (r & 3) == 2 ? w.w2 : w.w3;
      out.v[k] = r < 4 ? word & 0xffffu : word >> 16;
    }
    return out;
  }
};

FG_FN LaneNoise lane_noise(uint64_t seed, uint64_t stream, int64_t tile, int lane) {
  const PhiloxKeys keys(seed);
  LaneNoise out;
#pragma unroll
  for (int k = 0; k < kQuad; ++k) {
    out.column[k] = column_noise<uint32_t>(keys, stream, tile, static_cast<uint32_t>(kQuad * lane + k));
  }
  return out;
}

FG_FN LaneNoise no_noise() {
  LaneNoise out;
#pragma unroll
  for (int k = 0; k < kQuad; ++k) out.column[k] = {0u, 0u, 0u, 0u};
  return out;
}

FASTGRAD_NUMERICS_END
