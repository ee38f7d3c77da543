// What every numerics header needs: one spelling for functions that g++ compiles for the CPU and nvcc
// for the GPU, and bit casts that both accept.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define FG_FN __host__ __device__ inline
#else
#define FG_FN inline
#endif

// The same text is compiled once per instruction set into one module. Inline functions of equal names
// would be merged by the linker, and the baseline could end up calling an AVX-512 body; the
// instruction set is therefore part of every name.
#ifndef FASTGRAD_ISA
#define FASTGRAD_ISA portable
#endif
#define FASTGRAD_NUMERICS_BEGIN \
  namespace fastgrad {          \
  inline namespace FASTGRAD_ISA {
#define FASTGRAD_NUMERICS_END \
  }                           \
  }

FASTGRAD_NUMERICS_BEGIN

FG_FN uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

FG_FN float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

FG_FN double bits_double(uint64_t bits) {
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

FG_FN uint64_t double_bits(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

constexpr uint32_t kSign = 0x80000000u;
constexpr uint32_t kMagnitude = 0x7fffffffu;
constexpr uint32_t kInfinity = 0x7f800000u;
constexpr uint32_t kNaN = 0x7fc00000u;  // the one NaN that is ever stored
constexpr uint32_t kFloatMax = 0x7f7fffffu;

FG_FN float magnitude(float x) {
#ifdef __CUDA_ARCH__
  return ::fabsf(x);  // a modifier of the instruction that uses it
#else
  return bits_float(float_bits(x) & kMagnitude);
#endif
}
FG_FN bool is_finite(float x) { return (float_bits(x) & kMagnitude) < kInfinity; }

// The hardware's own NaN differs between x86, ARM and CUDA; what is stored must not.
FG_FN float canonical(float x) { return x == x ? x : bits_float(kNaN); }

// 2^e as float32 for e in [-126, 127] and as float64 for e in [-1022, 1023], exactly.
FG_FN float power_of_two(int e) { return bits_float(static_cast<uint32_t>(e + 127) << 23); }
FG_FN double power_of_two_double(int e) { return bits_double(static_cast<uint64_t>(e + 1023) << 52); }

FASTGRAD_NUMERICS_END
