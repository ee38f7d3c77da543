// A lane's quads between memory and float32. Whole tiles at aligned addresses go in one access a quad: 16 bytes of
// float32, 8 of bfloat16 and float16, 4 of one-byte codes, 2 of packed ones, so that a warp fills whole sectors.
#pragma once

#include "job.h"
#include "warp.h"

FASTGRAD_NUMERICS_BEGIN

struct alignas(16) FloatPack {
  float v[kQuad];
};
struct alignas(8) HalfPack {
  uint32_t low, high;  // two elements each
};

FG_DEVICE Quad widen(const HalfPack& h, Type type) {
  if (type == Type::bf16) {
    return {bits_float(h.low << 16), bits_float(h.low & 0xffff0000u), bits_float(h.high << 16),
            bits_float(h.high & 0xffff0000u)};
  }
  return {half_to_float(static_cast<uint16_t>(h.low)), half_to_float(static_cast<uint16_t>(h.low >> 16)),
          half_to_float(static_cast<uint16_t>(h.high)), half_to_float(static_cast<uint16_t>(h.high >> 16))};
}

FG_DEVICE Quad load_quad(const void* source, Type type, int64_t at) {
  if (type == Type::fp32) {
    const FloatPack p = *reinterpret_cast<const FloatPack*>(static_cast<const float*>(source) + at);
    return {p.v[0], p.v[1], p.v[2], p.v[3]};
  }
  return widen(*reinterpret_cast<const HalfPack*>(static_cast<const uint16_t*>(source) + at), type);
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
    *reinterpret_cast<FloatPack*>(static_cast<float*>(target) + at) = {canonical(x.v[0]), canonical(x.v[1]),
                                                                       canonical(x.v[2]), canonical(x.v[3])};
    return;
  }
  uint32_t half[kQuad];
#pragma unroll
  for (int k = 0; k < kQuad; ++k) half[k] = narrow(x.v[k], type, stochastic, noise.v[k]);
  *reinterpret_cast<HalfPack*>(static_cast<uint16_t*>(target) + at) = {half[0] | half[1] << 16, half[2] | half[3] << 16};
}

FG_DEVICE void store_element(void* target, Type type, int64_t at, float x, bool stochastic, uint32_t noise) {
  if (type == Type::fp32) {
    static_cast<float*>(target)[at] = canonical(x);
  } else {
    static_cast<uint16_t*>(target)[at] = static_cast<uint16_t>(narrow(x, type, stochastic, noise));
  }
}

// Codes of one quad, `count` of which exist (the padding of an odd nibble is zero).
template <Format F>
FG_DEVICE void store_codes(void* target, int64_t at, const QuadWord& code) {
  constexpr int kBits = format_spec(F).code_bits;
  if constexpr (kBits == 32) {
    *reinterpret_cast<FloatPack*>(static_cast<float*>(target) + at) = {bits_float(code.v[0]), bits_float(code.v[1]),
                                                                       bits_float(code.v[2]), bits_float(code.v[3])};
  } else if constexpr (kBits == 16) {
    *reinterpret_cast<HalfPack*>(static_cast<uint16_t*>(target) + at) = {
        (code.v[0] & 0xffffu) | code.v[1] << 16, (code.v[2] & 0xffffu) | code.v[3] << 16};
  } else if constexpr (kBits == 8) {
    *reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(target) + at) =
        (code.v[0] & 0xffu) | (code.v[1] & 0xffu) << 8 | (code.v[2] & 0xffu) << 16 | code.v[3] << 24;
  } else {
    *reinterpret_cast<uint16_t*>(static_cast<uint8_t*>(target) + at / 2) = static_cast<uint16_t>(
        (code.v[0] & 0xfu) | (code.v[1] & 0xfu) << 4 | (code.v[2] & 0xfu) << 8 | (code.v[3] & 0xfu) << 12);
  }
}

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
