// Inputs made of integers alone: no library function, no arithmetic that could differ between machines.
#pragma once

#include <cstdint>
#include <vector>

#include "job.h"

namespace portable_bits {

enum class Kind : int { ordinary, tiny, huge, subnormal, wild, sprinkled, zeros, offset };
constexpr int kKinds = 8;

// A bijection of 64-bit numbers that mixes well (the finalizer of SplitMix64).
inline uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// The bits of one number with `exponent_bits` and `mantissa_bits`, the sign above them.
inline uint32_t pattern(Kind kind, uint64_t seed, int64_t i, int exponent_bits, int mantissa_bits) {
  const uint64_t h = mixed(mixed(seed) + static_cast<uint64_t>(i));
  const uint32_t bias = (1u << (exponent_bits - 1)) - 1, top = (1u << exponent_bits) - 1;
  const uint32_t sign = static_cast<uint32_t>(h & 1u) << (exponent_bits + mantissa_bits);
  const uint32_t mantissa = static_cast<uint32_t>(h >> 8) & ((1u << mantissa_bits) - 1);
  uint32_t below = 0;  // half of the numbers lie within a factor of two, a quarter in the next, ...
  while (below < 20 && ((h >> (40 + below)) & 1u) != 0) ++below;
  const auto number = [&](uint32_t exponent) {
    const uint32_t e = exponent > below ? exponent - below : 0;
    return sign | (e << mantissa_bits) | mantissa;
  };
  switch (kind) {
    case Kind::ordinary: return number(bias - 4);
    case Kind::tiny: return number(bias / 4);
    case Kind::huge: return number(top - 2);
    case Kind::subnormal: return h % 5 == 0 ? number(3) : sign | (mantissa >> (h % mantissa_bits));
    case Kind::wild: return static_cast<uint32_t>(h >> 32) >> (31 - exponent_bits - mantissa_bits);
    case Kind::sprinkled:
      if (i % 37 == 5) return sign | (top << mantissa_bits) | (mantissa | 1u);  // NaN of any payload, quiet or not
      if (i % 41 == 7) return sign | (top << mantissa_bits);
      return number(bias - 4);
    case Kind::zeros: return (h & 6u) != 0 ? sign : number(bias - 4);
    default: return ((bias + 5) << mantissa_bits) | (mantissa >> 3);  // a mean far above the deviation
  }
}

inline uint32_t pattern_of(fastgrad::Type type, Kind kind, uint64_t seed, int64_t i) {
  if (type == fastgrad::Type::fp32) return pattern(kind, seed, i, 8, 23);
  return type == fastgrad::Type::bf16 ? pattern(kind, seed, i, 8, 7) : pattern(kind, seed, i, 5, 10);
}

// Memory of one tensor. What nobody writes stays 0xAB.
struct Bytes {
  std::vector<unsigned char> bytes;

  explicit Bytes(int64_t size = 0) : bytes(static_cast<size_t>(size), 0xAB) {}
  void* data() { return bytes.data(); }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(bytes.data());
  }
};

inline Bytes numbers(fastgrad::Type type, Kind kind, uint64_t seed, int64_t n) {
  const int width = type == fastgrad::Type::fp32 ? 4 : 2;
  Bytes memory(n * width);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = pattern_of(type, kind, seed, i);
    memcpy(memory.bytes.data() + i * width, &bits, static_cast<size_t>(width));  // little-endian
  }
  return memory;
}

// FNV-1a, 64 bits.
struct Digest {
  uint64_t value = 0xcbf29ce484222325ull;

  void add(const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) value = (value ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3ull;
  }
  void add(const Bytes& memory) { add(memory.bytes.data(), memory.bytes.size()); }
  template <class T>
  void number(T x) {
    add(&x, sizeof x);
  }
};

}  // namespace portable_bits
