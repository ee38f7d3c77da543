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

FG_DEVICE Quad operator+(const Quad& a, const Quad& b) { FG_QUAD_EACH(Quad, a.v[i] + b.v[i]); }
FG_DEVICE Quad operator-(const Quad& a, const Quad& b) { FG_QUAD_EACH(Quad, a.v[i] - b.v[i]); }
FG_DEVICE Quad operator*(const Quad& a, const Quad& b) { FG_QUAD_EACH(Quad, a.v[i] * b.v[i]); }
FG_DEVICE Quad operator+(const Quad& a, float b) { FG_QUAD_EACH(Quad, a.v[i] + b); }
FG_DEVICE Quad operator-(const Quad& a, float b) { FG_QUAD_EACH(Quad, a.v[i] - b); }
FG_DEVICE Quad operator*(const Quad& a, float b) { FG_QUAD_EACH(Quad, a.v[i] * b); }
FG_DEVICE QuadMask operator!=(const Quad& a, const Quad& b) { FG_QUAD_EACH(QuadMask, a.v[i] != b.v[i]); }

FG_DEVICE QuadWord operator+(const QuadWord& a, const QuadWord& b) { FG_QUAD_EACH(QuadWord, a.v[i] + b.v[i]); }
FG_DEVICE QuadWord operator-(const QuadWord& a, const QuadWord& b) { FG_QUAD_EACH(QuadWord, a.v[i] - b.v[i]); }
FG_DEVICE QuadWord operator|(const QuadWord& a, const QuadWord& b) { FG_QUAD_EACH(QuadWord, a.v[i] | b.v[i]); }
FG_DEVICE QuadWord operator^(const QuadWord& a, const QuadWord& b) { FG_QUAD_EACH(QuadWord, a.v[i] ^ b.v[i]); }
FG_DEVICE QuadWord operator^(const QuadWord& a, uint32_t b) { FG_QUAD_EACH(QuadWord, a.v[i] ^ b); }
FG_DEVICE QuadWord operator+(const QuadWord& a, uint32_t b) { FG_QUAD_EACH(QuadWord, a.v[i] + b); }
FG_DEVICE Quad operator-(float a, const Quad& b) { FG_QUAD_EACH(Quad, a - b.v[i]); }
FG_DEVICE QuadWord operator-(uint32_t a, const QuadWord& b) { FG_QUAD_EACH(QuadWord, a - b.v[i]); }
FG_DEVICE QuadWord operator-(const QuadWord& a, uint32_t b) { FG_QUAD_EACH(QuadWord, a.v[i] - b); }
FG_DEVICE QuadWord operator&(const QuadWord& a, uint32_t b) { FG_QUAD_EACH(QuadWord, a.v[i] & b); }
FG_DEVICE QuadWord operator<<(const QuadWord& a, int s) { FG_QUAD_EACH(QuadWord, a.v[i] << s); }
FG_DEVICE QuadWord operator>>(const QuadWord& a, int s) { FG_QUAD_EACH(QuadWord, a.v[i] >> s); }
FG_DEVICE QuadMask operator<(const Quad& a, float b) { FG_QUAD_EACH(QuadMask, a.v[i] < b); }
FG_DEVICE QuadMask operator>(const Quad& a, const Quad& b) { FG_QUAD_EACH(QuadMask, a.v[i] > b.v[i]); }
FG_DEVICE QuadMask operator&(const QuadMask& a, const QuadMask& b) { FG_QUAD_EACH(QuadMask, a.v[i] && b.v[i]); }
FG_DEVICE QuadMask operator==(const QuadWord& a, const QuadWord& b) { FG_QUAD_EACH(QuadMask, a.v[i] == b.v[i]); }
FG_DEVICE QuadMask operator==(const QuadWord& a, uint32_t b) { FG_QUAD_EACH(QuadMask, a.v[i] == b); }
FG_DEVICE QuadMask operator!=(const QuadWord& a, uint32_t b) { FG_QUAD_EACH(QuadMask, a.v[i] != b); }
FG_DEVICE QuadWord& operator|=(QuadWord& a, const QuadWord& b) { return a = a | b; }

FG_DEVICE Quad select(const QuadMask& m, const Quad& a, const Quad& b) { FG_QUAD_EACH(Quad, m.v[i] ? a.v[i] : b.v[i]); }
FG_DEVICE QuadWord select(const QuadMask& m, const QuadWord& a, const QuadWord& b) {
  FG_QUAD_EACH(QuadWord, m.v[i] ? a.v[i] : b.v[i]);
}
FG_DEVICE QuadWord mask_to_word(const QuadMask& m) { FG_QUAD_EACH(QuadWord, m.v[i] ? 1u : 0u); }
FG_DEVICE QuadWord float_bits(const Quad& x) { FG_QUAD_EACH(QuadWord, float_bits(x.v[i])); }
FG_DEVICE Quad bits_float(const QuadWord& w) { FG_QUAD_EACH(Quad, bits_float(w.v[i])); }
FG_DEVICE Quad word_to_float(const QuadWord& w) { FG_QUAD_EACH(Quad, word_to_float(w.v[i])); }
FG_DEVICE QuadWord float_to_word(const Quad& x) { FG_QUAD_EACH(QuadWord, float_to_word(x.v[i])); }
FG_DEVICE QuadWord sign_mask(const Quad& x) { FG_QUAD_EACH(QuadWord, sign_mask(x.v[i])); }
FG_DEVICE Quad magnitude(const Quad& x) { FG_QUAD_EACH(Quad, magnitude(x.v[i])); }
FG_DEVICE Quad minimum(const Quad& a, const Quad& b) { FG_QUAD_EACH(Quad, fminf(a.v[i], b.v[i])); }
FG_DEVICE Quad maximum(const Quad& a, const Quad& b) { FG_QUAD_EACH(Quad, fmaxf(a.v[i], b.v[i])); }
// Asked of the whole warp, which then takes one way: all lanes call it.
FG_DEVICE bool any_below(const Quad& x, float limit) {
  return __any_sync(0xffffffffu, (x.v[0] < limit) | (x.v[1] < limit) | (x.v[2] < limit) | (x.v[3] < limit));
}

// The 16-bit noises of a lane's four columns: Philox once for eight rows.
struct LaneNoise {
  PhiloxWords<uint32_t> column[kQuad];

  FG_DEVICE QuadWord row(int r) const {
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

FG_DEVICE LaneNoise lane_noise(uint64_t seed, uint64_t stream, int64_t tile, int lane) {
  const PhiloxKeys keys(seed);
  LaneNoise out;
#pragma unroll
  for (int k = 0; k < kQuad; ++k) {
    out.column[k] = column_noise<uint32_t>(keys, stream, tile, static_cast<uint32_t>(kQuad * lane + k));
  }
  return out;
}

FG_DEVICE LaneNoise no_noise() {
  LaneNoise out;
#pragma unroll
  for (int k = 0; k < kQuad; ++k) out.column[k] = {0u, 0u, 0u, 0u};
  return out;
}

FASTGRAD_NUMERICS_END
