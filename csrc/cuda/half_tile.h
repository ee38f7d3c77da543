// Half a tile, four rows: what of every stream a lane of an optimizer loads, changes and stores at a time. The streams are
// numbers or codes of 32, 16, 8 or 4 bits; those of short tiles and odd addresses go element by element.
#pragma once

#include "lane_memory.h"

FASTGRAD_NUMERICS_BEGIN

constexpr int kHalfRows = kRows / 2;

struct HalfTile {
  Quad row[kHalfRows];
};
// Four stored codes lie in the first words of each.
struct HalfCodes {
  QuadWord row[kHalfRows];
};

// Where a lane's quads lie.
struct HalfPlace {
  int64_t first;   // element of the tensor
  int place;       // in the tile
  int begin, end;  // what of the tile exists
  bool whole;      // all of it, and quads can be accessed whole

  FG_DEVICE int64_t at(int r) const { return first + r * kColumns; }
  FG_DEVICE bool exists(int r, int k) const {
    const int p = place + r * kColumns + k;
    return p >= begin && p < end;
  }
};

template <int BITS>
FG_DEVICE QuadWord load_packed(const void* memory, int64_t at) {
  if constexpr (BITS == 32) {
    return float_bits(load_floats(static_cast<const float*>(memory) + at));
  } else if constexpr (BITS == 16) {
    const uint2 pair = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(memory) + at);
    return {pair.x, pair.y, 0u, 0u};
  } else if constexpr (BITS == 8) {
    return {*reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(memory) + at), 0u, 0u, 0u};
  } else {
    return {*reinterpret_cast<const uint16_t*>(static_cast<const uint8_t*>(memory) + at / 2), 0u, 0u, 0u};
  }
}

template <int BITS>
FG_DEVICE void store_packed(void* memory, int64_t at, const QuadWord& w) {
  if constexpr (BITS == 32) {
    store_floats(static_cast<float*>(memory) + at, bits_float(w));
  } else if constexpr (BITS == 16) {
    __stcg(reinterpret_cast<uint2*>(static_cast<uint16_t*>(memory) + at), make_uint2(w.v[0], w.v[1]));
  } else if constexpr (BITS == 8) {
    *reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(memory) + at) = w.v[0];
  } else {
    *reinterpret_cast<uint16_t*>(static_cast<uint8_t*>(memory) + at / 2) = static_cast<uint16_t>(w.v[0]);
  }
}

template <int BITS>
FG_DEVICE uint32_t load_one(const void* memory, int64_t at) {
  if constexpr (BITS == 32) return static_cast<const uint32_t*>(memory)[at];
  if constexpr (BITS == 16) return static_cast<const uint16_t*>(memory)[at];
  if constexpr (BITS == 8) return static_cast<const uint8_t*>(memory)[at];
  return static_cast<const uint8_t*>(memory)[at / 2] >> (4 * (at % 2)) & 0xfu;
}

// Of 4 bits two at a time: they come in blocks, which have an even number of elements.
template <int BITS>
FG_DEVICE void store_one(void* memory, int64_t at, uint32_t code) {
  if constexpr (BITS == 32) static_cast<uint32_t*>(memory)[at] = code;
  if constexpr (BITS == 16) static_cast<uint16_t*>(memory)[at] = static_cast<uint16_t>(code);
  if constexpr (BITS <= 8) static_cast<uint8_t*>(memory)[at * BITS / 8] = static_cast<uint8_t>(code);
}

template <int BITS>
FG_DEVICE HalfCodes load_codes(const void* memory, const HalfPlace& p) {
  HalfCodes out = {};
  if (p.whole) {
#pragma unroll
    for (int r = 0; r < kHalfRows; ++r) out.row[r] = load_packed<BITS>(memory, p.at(r));
    return out;
  }
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      if (p.exists(r, k)) out.row[r].v[k * BITS / 32] |= load_one<BITS>(memory, p.at(r) + k) << (k * BITS % 32);
    }
  }
  return out;
}

template <int BITS>
FG_DEVICE void store_codes(void* memory, const HalfPlace& p, const HalfCodes& codes) {
  constexpr int kAtOnce = BITS == 4 ? 2 : 1;
  if (p.whole) {
#pragma unroll
    for (int r = 0; r < kHalfRows; ++r) store_packed<BITS>(memory, p.at(r), codes.row[r]);
    return;
  }
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
#pragma unroll
    for (int k = 0; k < kQuad; k += kAtOnce) {
      if (p.exists(r, k)) store_one<BITS>(memory, p.at(r) + k, codes.row[r].v[k * BITS / 32] >> (k * BITS % 32));
    }
  }
}

FG_DEVICE HalfCodes load_codes(const void* memory, int bits, const HalfPlace& p) {
  switch (bits) {
    case 32: return load_codes<32>(memory, p);
    case 16: return load_codes<16>(memory, p);
    case 8: return load_codes<8>(memory, p);
    default: return load_codes<4>(memory, p);
  }
}

FG_DEVICE void store_codes(void* memory, int bits, const HalfPlace& p, const HalfCodes& codes) {
  switch (bits) {
    case 32: return store_codes<32>(memory, p, codes);
    case 16: return store_codes<16>(memory, p, codes);
    case 8: return store_codes<8>(memory, p, codes);
    default: return store_codes<4>(memory, p, codes);
  }
}

template <int BITS>
FG_DEVICE QuadWord unpack(const QuadWord& w) {
  if constexpr (BITS == 32) return w;
  if constexpr (BITS == 16) return {w.v[0] & 0xffffu, w.v[0] >> 16, w.v[1] & 0xffffu, w.v[1] >> 16};
  constexpr uint32_t kMask = (1u << (BITS % 32)) - 1u;
  return {w.v[0] & kMask, w.v[0] >> BITS % 32 & kMask, w.v[0] >> 2 * BITS % 32 & kMask, w.v[0] >> 3 * BITS % 32 & kMask};
}

// Bits above a code's own are dropped.
template <int BITS>
FG_DEVICE QuadWord pack(const QuadWord& code) {
  if constexpr (BITS == 32) return code;
  if constexpr (BITS == 16) {
    return {__byte_perm(code.v[0], code.v[1], 0x5410), __byte_perm(code.v[2], code.v[3], 0x5410), 0u, 0u};
  }
  const uint32_t bytes = gather_bytes(code, 0x0040);
  if constexpr (BITS == 8) return {bytes, 0u, 0u, 0u};
  const uint32_t nibbles = bytes & 0x0f0f0f0fu;
  return {__byte_perm(nibbles | nibbles >> 4, 0u, 0x0020), 0u, 0u, 0u};
}

// The largest magnitudes of a lane's quads, as bits; `odd` tells that the warp holds what is not finite, which is left out.
struct HalfMaxima {
  uint32_t row[kHalfRows];
  bool odd;
};

FG_DEVICE HalfMaxima maxima_of(const HalfTile& x) {
  HalfMaxima out;
  uint32_t all = 0;
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
    uint32_t largest = 0;
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const uint32_t m = float_bits(x.row[r].v[k]) & kMagnitude;
      largest = m > largest ? m : largest;
    }
    out.row[r] = largest;
    all = largest > all ? largest : all;
  }
  out.odd = __any_sync(kWholeWarp, all >= kInfinity) != 0;
  if (!out.odd) return out;
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
    uint32_t largest = 0;
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const uint32_t m = float_bits(x.row[r].v[k]) & kMagnitude;
      largest = m < kInfinity && m > largest ? m : largest;
    }
    out.row[r] = largest;
  }
  return out;
}

// A function of its own: nvcc keeps a constructor's initializers for the host's compiler, which knows no __ffs.
FG_DEVICE int log2_of_power(int x) { return __ffs(x) - 1; }

// The float32 scales of blocks of 16 to 256 elements.
struct Blocks {
  float* scales;
  int shift;  // log2 of the elements

  FG_DEVICE Blocks(float* memory, int block) : scales(memory), shift(log2_of_power(block)) {}
  FG_DEVICE int lanes() const { return shift >= 7 ? kWarpLanes : 1 << (shift - 2); }  // that a row of a block lies in

  FG_DEVICE void load(const HalfPlace& p, float (&scale)[kHalfRows]) const {
#pragma unroll
    for (int r = 0; r < kHalfRows; ++r) scale[r] = p.whole || p.exists(r, 0) ? scales[p.at(r) >> shift] : 1.0f;
  }
  FG_DEVICE void store(const HalfPlace& p, const float (&scale)[kHalfRows]) const {
    if (lane_number() % lanes() != 0) return;
#pragma unroll
    for (int r = 0; r < kHalfRows; ++r) {
      if ((shift > 7 && r % 2 != 0) || !(p.whole || p.exists(r, 0))) continue;
      scales[p.at(r) >> shift] = scale[r];
    }
  }
  // From those of a lane's quads to those of the blocks that they lie in.
  FG_DEVICE void spread(uint32_t (&largest)[kHalfRows]) const {
    if (shift > 7) {
#pragma unroll
      for (int r = 0; r < kHalfRows; r += 2) {
        largest[r] = largest[r + 1] = largest[r] > largest[r + 1] ? largest[r] : largest[r + 1];
      }
    }
    if (shift >= 7) {
#pragma unroll
      for (int r = 0; r < kHalfRows; ++r) largest[r] = warp_max(largest[r]);
      return;
    }
    for (int s = 1; s < lanes(); s *= 2) {
#pragma unroll
      for (int r = 0; r < kHalfRows; ++r) {
        const uint32_t other = __shfl_xor_sync(kWholeWarp, largest[r], s);
        largest[r] = other > largest[r] ? other : largest[r];
      }
    }
  }
};

// The noises of four of a tile's rows.
struct HalfNoise {
  const LaneNoise& noise;
  uint32_t bytes;  // which bytes of a word: the lower ones for the first half

  FG_DEVICE HalfNoise(const LaneNoise& all, int half) : noise(all), bytes(half == 0 ? 0x4410u : 0x4432u) {}
  FG_DEVICE QuadWord row(int r) const {
    QuadWord out;
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const PhiloxWords<uint32_t>& w = noise.column[k];
      out.v[k] = __byte_perm(r == 0 ? w.w0 : r == 1 ? w.w1 : r == 2 ? w.w2 : w.w3, 0u, bytes);
    }
    return out;
  }
};

// Numbers to codes of a format, in blocks of the given inverse scales (16 bits: without scales).
template <Format F, Rounding R>
FG_DEVICE HalfCodes encode_half(const HalfTile& x, const float (&inverse)[kHalfRows], const HalfNoise& noise, bool odd) {
  constexpr FormatSpec spec = format_spec(F);
  constexpr Scaling kScaling = spec.code_bits == 16 ? Scaling::none : Scaling::plain;
  HalfCodes out;
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
    const Quad scale = splat<Quad>(inverse[r]);
    QuadWord code = quantize_finite<F, R, kScaling>(x.row[r], scale, scale, noise.row(r)).code;
    if (odd) {
#pragma unroll
      for (int k = 0; k < kQuad; ++k) {
        const uint32_t m = float_bits(x.row[r].v[k]) & kMagnitude;
        if (m == kInfinity) code.v[k] = signed_code<F, float, uint32_t>(spec.infinity, x.row[r].v[k]);
        if (m > kInfinity) code.v[k] = spec.nan;
      }
    }
    out.row[r] = pack<spec.code_bits>(code);
  }
  return out;
}

template <Format F>
FG_DEVICE HalfTile decode_half(const HalfCodes& codes, const float (&scale)[kHalfRows]) {
  constexpr int kBits = format_spec(F).code_bits;
  HalfTile out;
#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
    const QuadWord code = unpack<kBits>(codes.row[r]);
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      if constexpr (kBits == 32) out.row[r].v[k] = bits_float(code.v[k]);
      if constexpr (F == Format::bf16) out.row[r].v[k] = bits_float(code.v[k] << 16);
      if constexpr (F == Format::fp16) out.row[r].v[k] = half_to_float(static_cast<uint16_t>(code.v[k]));
      if constexpr (kBits < 16) out.row[r].v[k] = dequantize_code<F>(code.v[k], scale[r]);
    }
  }
  return out;
}

FASTGRAD_NUMERICS_END
