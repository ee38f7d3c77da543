// Explicit vectors, for the loops in which sums, noise and rounding have to stay in registers. GCC's vector
// extension gives them the operators of scalars, so that the formulas of csrc/numerics serve both. Loops over a
// tile without such needs are left plain; the compiler vectorizes them.
#pragma once

#include "noise.h"

FASTGRAD_NUMERICS_BEGIN

constexpr int kFloats = sizeof(Lanes) / sizeof(float);
constexpr int kLine = 64 / sizeof(float);  // floats that memory gives at a time
typedef float Floats __attribute__((vector_size(sizeof(Lanes))));
typedef uint32_t Words __attribute__((vector_size(sizeof(Lanes))));
typedef int32_t Mask __attribute__((vector_size(sizeof(Lanes))));  // lanes of 0 or -1

inline Floats load_floats(const float* p) {
  Floats v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void store_floats(float* p, Floats v) { memcpy(p, &v, sizeof v); }

// As many floats as doubles fill a vector: GCC, left to make these of wider ones, shuffles more than it computes.
constexpr int kDoubles = kLanes;
typedef double Doubles __attribute__((vector_size(sizeof(Lanes))));
typedef float FewFloats __attribute__((vector_size(sizeof(Lanes) / 2)));

inline FewFloats load_few(const float* p) {
  FewFloats v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void store_few(float* p, FewFloats v) { memcpy(p, &v, sizeof v); }
#if defined(__AVX512F__)
inline Doubles to_double(FewFloats x) { return (Doubles)_mm512_cvtps_pd((__m256)x); }
inline FewFloats to_float(Doubles x) { return (FewFloats)_mm512_cvtpd_ps((__m512d)x); }
#elif defined(__AVX2__)
inline Doubles to_double(FewFloats x) { return (Doubles)_mm256_cvtps_pd((__m128)x); }
inline FewFloats to_float(Doubles x) { return (FewFloats)_mm256_cvtpd_ps((__m256d)x); }
#else
inline Doubles to_double(FewFloats x) { return __builtin_convertvector(x, Doubles); }
inline FewFloats to_float(Doubles x) { return __builtin_convertvector(x, FewFloats); }
#endif
inline bool has_nan(FewFloats x) {
  float sum = 0.0f;  // also NaN of opposite infinities
  for (int l = 0; l < kDoubles; ++l) sum = sum + x[l];
  return sum != sum;
}
inline FewFloats canonical(FewFloats x) { return x == x ? x : FewFloats{} + bits_float(kNaN); }
inline Floats canonical(Floats x) { return x == x ? x : Floats{} + bits_float(kNaN); }

inline Words float_bits(Floats x) { return (Words)x; }
inline Floats bits_float(Words w) { return (Floats)w; }
inline Floats magnitude(Floats x) { return (Floats)((Words)x & kMagnitude); }
inline Floats word_to_float(Words w) { return __builtin_convertvector((Mask)w, Floats); }
inline Words float_to_word(Floats x) { return (Words)__builtin_convertvector(x, Mask); }
inline Words mask_to_word(Mask mask) { return (Words)mask & 1u; }
inline Words shift_signed(Words w, int n) { return (Words)((Mask)w >> n); }
inline Words sign_mask(Floats x) { return (Words)((Mask)x >> 31); }

// Where GCC does not find the one instruction by itself.
#if defined(__AVX512F__)
inline Floats square_root(Floats x) { return (Floats)_mm512_sqrt_ps((__m512)x); }
inline Floats minimum(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
inline Floats maximum(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
inline Words maximum(Words a, Words b) { return (Words)_mm512_max_epu32((__m512i)a, (__m512i)b); }
inline Words minimum(Words a, Words b) { return (Words)_mm512_min_epu32((__m512i)a, (__m512i)b); }
inline bool any_below(Floats x, float limit) {
  return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(limit), _CMP_LT_OQ) != 0;
}
inline void store_codes(uint8_t* p, Words w) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)w));
}
inline void store_codes(uint16_t* p, Words w) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)w));
}
#else
#if defined(__AVX2__)
inline Floats square_root(Floats x) { return (Floats)_mm256_sqrt_ps((__m256)x); }
inline Floats minimum(Floats a, Floats b) { return (Floats)_mm256_min_ps((__m256)a, (__m256)b); }
inline Floats maximum(Floats a, Floats b) { return (Floats)_mm256_max_ps((__m256)a, (__m256)b); }
inline Words maximum(Words a, Words b) { return (Words)_mm256_max_epu32((__m256i)a, (__m256i)b); }
inline Words minimum(Words a, Words b) { return (Words)_mm256_min_epu32((__m256i)a, (__m256i)b); }
inline bool any_below(Floats x, float limit) { return _mm256_movemask_ps((__m256)(x < limit)) != 0; }
#else
inline Floats square_root(Floats x) {
#if defined(__SSE2__)
  return (Floats)_mm_sqrt_ps((__m128)x);
#else
  for (int l = 0; l < kFloats; ++l) x[l] = __builtin_sqrtf(x[l]);
  return x;
#endif
}
inline Floats minimum(Floats a, Floats b) { return a < b ? a : b; }
inline Floats maximum(Floats a, Floats b) { return a > b ? a : b; }
inline Words maximum(Words a, Words b) { return a > b ? a : b; }
inline Words minimum(Words a, Words b) { return a < b ? a : b; }
inline bool any_below(Floats x, float limit) {
  const Mask mask = x < limit;
#if defined(__SSE2__)
  return _mm_movemask_ps((__m128)mask) != 0;
#else
  return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}
#endif
inline void store_codes(uint8_t* p, Words w) {
  typedef uint8_t Bytes __attribute__((vector_size(kFloats)));
  const Bytes b = __builtin_convertvector(w, Bytes);
  memcpy(p, &b, sizeof b);
}
inline void store_codes(uint16_t* p, Words w) {
  typedef uint16_t Halves __attribute__((vector_size(2 * kFloats)));
  const Halves h = __builtin_convertvector(w, Halves);
  memcpy(p, &h, sizeof h);
}
#endif

inline Mask lane_numbers() {
  constexpr int32_t kNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Mask numbers;
  memcpy(&numbers, kNumbers, sizeof numbers);
  return numbers;
}

// Lane l takes that of lane l + s.
template <class Vector>
inline Vector rotate_lanes(Vector v, int s) {
  return __builtin_shuffle(v, (lane_numbers() + s) & (kFloats - 1));
}

template <class Vector>
inline auto smallest_lane(Vector v) {
  for (int s = kFloats / 2; s >= 1; s /= 2) v = minimum(v, rotate_lanes(v, s));
  return v[0];
}
template <class Vector>
inline auto largest_lane(Vector v) {
  for (int s = kFloats / 2; s >= 1; s /= 2) v = maximum(v, rotate_lanes(v, s));
  return v[0];
}

// The halving of 128 columns: 64, 32, ..., 1. `columns` is overwritten.
inline float halve(float* __restrict columns) {
  for (int s = kColumns / 2; s >= kFloats; s /= 2) {
    for (int j = 0; j < s; j += kFloats) store_floats(columns + j, load_floats(columns + j) + load_floats(columns + j + s));
  }
  Floats v = load_floats(columns);
  for (int s = kFloats / 2; s >= 1; s /= 2) {  // lane l += lane l + s
    v = v + rotate_lanes(v, s);
  }
  return v[0];
}

FASTGRAD_NUMERICS_END
