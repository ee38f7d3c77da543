// A lane's quads between memory and float32. Whole tiles at aligned addresses go in one access a quad: 16 bytes of
// float32, 8 of bfloat16 and float16, 4 of one-byte codes, 2 of packed ones, so that a warp fills whole sectors.
#pragma once

#include "job.h"
#include "warp.h"

FASTGRAD_NUMERICS_BEGIN

// Two elements of a narrow type to a word.
FG_DEVICE Quad widen(const uint2& h, Type type) {
  if (type == Type::bf16) {
    return {bits_float(h.x << 16), bits_float(h.x & 0xffff0000u), bits_float(h.y << 16), bits_float(h.y & 0xffff0000u)};
  }
  return {half_to_float(static_cast<uint16_t>(h.x)), half_to_float(static_cast<uint16_t>(h.x >> 16)),
          half_to_float(static_cast<uint16_t>(h.y)), half_to_float(static_cast<uint16_t>(h.y >> 16))};
}

FG_DEVICE Quad load_floats(const float* p) {
  const float4 f = *reinterpret_cast<const float4*>(p);
  return {f.x, f.y, f.z, f.w};
}
// Stores by these functions, because the compiler takes assignments of whole quads apart. L1 writes through anyway.
FG_DEVICE void store_floats(float* p, const Quad& x) {
  __stcg(reinterpret_cast<float4*>(p), make_float4(x.v[0], x.v[1], x.v[2], x.v[3]));
}

FG_DEVICE Quad load_quad(const void* source, Type type, int64_t at) {
  if (type == Type::fp32) return load_floats(static_cast<const float*>(source) + at);
  return widen(*reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(source) + at), type);
}

FG_DEVICE float load_element(const void* source, Type type, int64_t at) {
  if (type == Type::fp32) return static_cast<const float*>(source)[at];
  const uint16_t half = static_cast<const uint16_t*>(source)[at];
  return type == Type::bf16 ? bits_float(static_cast<uint32_t>(half) << 16) : half_to_float(half);
}

// A float32 value as bfloat16 or float16, saturating as in section 4.
template <Rounding R>
FG_DEVICE uint32_t narrow(float x, Type type, uint32_t noise) {
  return type == Type::bf16 ? quantize_any<Format::bf16, R>(x, 1.0f, 1.0f, noise).code
                            : quantize_any<Format::fp16, R>(x, 1.0f, 1.0f, noise).code;
}

FG_DEVICE uint32_t narrow(float x, Type type, bool stochastic, uint32_t noise) {
  return stochastic ? narrow<Rounding::stochastic>(x, type, noise) : narrow<Rounding::nearest>(x, type, noise);
}

FG_DEVICE void store_quad(void* target, Type type, int64_t at, const Quad& x, bool stochastic, const QuadWord& noise) {
  if (type == Type::fp32) {
    store_floats(static_cast<float*>(target) + at,
                 {canonical(x.v[0]), canonical(x.v[1]), canonical(x.v[2]), canonical(x.v[3])});
    return;
  }
  uint32_t half[kQuad];
#pragma unroll
  for (int k = 0; k < kQuad; ++k) half[k] = narrow(x.v[k], type, stochastic, noise.v[k]);
  const uint2 pair = make_uint2(half[0] | half[1] << 16, half[2] | half[3] << 16);
  __stcg(reinterpret_cast<uint2*>(static_cast<uint16_t*>(target) + at), pair);
}

FG_DEVICE void store_element(void* target, Type type, int64_t at, float x, bool stochastic, uint32_t noise) {
  if (type == Type::fp32) {
    static_cast<float*>(target)[at] = canonical(x);
  } else {
    static_cast<uint16_t*>(target)[at] = static_cast<uint16_t>(narrow(x, type, stochastic, noise));
  }
}

// The same byte of each of a quad's four words: `pair` picks it from two of them.
FG_DEVICE uint32_t gather_bytes(const QuadWord& w, uint32_t pair) {
  return __byte_perm(__byte_perm(w.v[0], w.v[1], pair), __byte_perm(w.v[2], w.v[3], pair), 0x5410);
}

// Rounded numbers as codes of one byte each, from bit 16 on in `fixed`, with the signs of v.
template <Format F>
FG_DEVICE uint32_t pack_bytes(const QuadWord& fixed, const Quad& v) {
  constexpr FormatSpec spec = format_spec(F);
  const uint32_t code = gather_bytes(fixed, 0x0062);
  if constexpr (spec.integer) {
    const uint32_t minus = gather_bytes(float_bits(v), 0x00fb);  // 0xff where v has a sign
    const uint32_t flipped = (code ^ minus) & 0x7f7f7f7fu;       // and one is added: two's complement
    return (flipped + (minus & 0x01010101u)) ^ (minus & 0x80808080u);
  } else {
    constexpr int kToPlace = 7 - spec.sign_shift;
    const uint32_t sign = gather_bytes(float_bits(v), 0x0073);
    constexpr uint32_t kCode = ((1u << spec.sign_shift) - 1u) * 0x01010101u;
    return ((code & kCode) ^ inverted_bit<F>() * 0x01010101u) | (sign & 0x80808080u) >> kToPlace;
  }
}

// Stores a whole quad of rounded numbers.
template <Format F>
FG_DEVICE void store_rounded(void* target, int64_t at, const QuadWord& fixed, const Quad& v) {
  constexpr FormatSpec spec = format_spec(F);
  static_assert(F != Format::fp32);
  if constexpr (spec.code_bits == 16) {
    uint2 pair = {__byte_perm(fixed.v[0], fixed.v[1], 0x7632), __byte_perm(fixed.v[2], fixed.v[3], 0x7632)};
    if constexpr (!sign_rides<F>()) {
      const QuadWord w = float_bits(v);
      pair.x |= __byte_perm(w.v[0], w.v[1], 0x7632) & 0x80008000u;
      pair.y |= __byte_perm(w.v[2], w.v[3], 0x7632) & 0x80008000u;
    }
    __stcg(reinterpret_cast<uint2*>(static_cast<uint16_t*>(target) + at), pair);
  } else if constexpr (spec.code_bits == 8) {
    *reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(target) + at) = pack_bytes<F>(fixed, v);
  } else {
    const uint32_t bytes = pack_bytes<F>(fixed, v) & 0x0f0f0f0fu;
    *reinterpret_cast<uint16_t*>(static_cast<uint8_t*>(target) + at / 2) =
        static_cast<uint16_t>(__byte_perm(bytes | bytes >> 4, 0u, 0x0020));
  }
}

// Codes of which some of a quad exist; the padding of an odd nibble is zero.
template <Format F>
FG_DEVICE void store_some_codes(void* target, int64_t at, const QuadWord& code, int count) {
  constexpr int kBits = format_spec(F).code_bits;
#pragma unroll
  for (int k = 0; k < kQuad; ++k) {
    if (k >= count) break;
    if constexpr (kBits == 32) static_cast<uint32_t*>(target)[at + k] = code.v[k];
    if constexpr (kBits == 16) static_cast<uint16_t*>(target)[at + k] = static_cast<uint16_t>(code.v[k]);
    if constexpr (kBits == 8) static_cast<uint8_t*>(target)[at + k] = static_cast<uint8_t>(code.v[k]);
    if constexpr (kBits == 4) {
      if (k % 2 != 0) continue;
      const uint32_t second = k + 1 < count ? code.v[(k + 1) % kQuad] & 0xfu : 0u;
      static_cast<uint8_t*>(target)[(at + k) / 2] = static_cast<uint8_t>((code.v[k] & 0xfu) | second << 4);
    }
  }
}

template <Format F>
FG_DEVICE uint32_t load_code(const void* source, int64_t at) {
  constexpr int kBits = format_spec(F).code_bits;
  if constexpr (kBits == 32) return static_cast<const uint32_t*>(source)[at];
  if constexpr (kBits == 16) return static_cast<const uint16_t*>(source)[at];
  if constexpr (kBits == 8) return static_cast<const uint8_t*>(source)[at];
  if constexpr (kBits == 4) return static_cast<const uint8_t*>(source)[at / 2] >> (4 * (at % 2));
}

// Whether quads at multiples of four elements can be accessed whole.
FG_DEVICE bool aligned(const void* p, int quad_bytes) { return reinterpret_cast<uintptr_t>(p) % quad_bytes == 0; }
FG_DEVICE int quad_bytes(Type type) { return type == Type::fp32 ? 16 : 8; }

FASTGRAD_NUMERICS_END
