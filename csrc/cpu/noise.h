// The noise of a whole tile, a vector of columns at a time.
#pragma once

#include "numerics/tile.h"

#if defined(__AVX2__) || defined(__AVX512F__) || defined(__SSE2__)
#include <immintrin.h>
#endif

FASTGRAD_NUMERICS_BEGIN

// 64-bit lanes of which Philox uses the low 32 bits: the widening multiply of x86 reads exactly those and
// leaves the low half of the product in place, so a round needs no shuffle.
#if defined(__AVX512F__)
typedef uint64_t Lanes __attribute__((vector_size(64)));
template <>
inline Product<Lanes> multiply_words<Lanes>(Lanes a, uint32_t b) {
  const __m512i p = _mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
  return {(Lanes)_mm512_shuffle_epi32(p, _MM_PERM_DDBB), (Lanes)p};
}
#elif defined(__AVX2__)
typedef uint64_t Lanes __attribute__((vector_size(32)));
template <>
inline Product<Lanes> multiply_words<Lanes>(Lanes a, uint32_t b) {
  const Lanes p = (Lanes)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
  return {p >> 32, p};
}
#else
typedef uint64_t Lanes __attribute__((vector_size(16)));
template <>
inline Product<Lanes> multiply_words<Lanes>(Lanes a, uint32_t b) {
#if defined(__SSE2__)
  const Lanes p = (Lanes)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
  const Lanes p = (a & 0xffffffffu) * static_cast<uint64_t>(b);
#endif
  return {p >> 32, p};
}
#endif

constexpr int kLanes = sizeof(Lanes) / sizeof(uint64_t);

// The 16-bit noises of kFloats consecutive columns, as 32-bit lanes: row r of column `first + l` is lane l of
// row(r). Two vectors hold the even and the odd columns, so that they interleave by a shift.
struct ColumnNoise {
  typedef uint32_t Words __attribute__((vector_size(sizeof(Lanes))));
  Words words[4];

  ColumnNoise() : words{} {}
  ColumnNoise(const PhiloxKeys& keys, uint64_t stream, int64_t tile, int first) {
    const Lanes column = even_lanes() + static_cast<uint64_t>(first);
    const PhiloxWords<Lanes> even = column_noise<Lanes>(keys, stream, tile, column);
    const PhiloxWords<Lanes> odd = column_noise<Lanes>(keys, stream, tile, column + 1);
    words[0] = interleave(even.w0, odd.w0);
    words[1] = interleave(even.w1, odd.w1);
    words[2] = interleave(even.w2, odd.w2);
    words[3] = interleave(even.w3, odd.w3);
  }
  Words row(int r) const { return r < 4 ? words[r] & 0xffffu : words[r - 4] >> 16; }

 private:
  static Lanes even_lanes() {  // a constant: built lane by lane, it costs as much as two rounds
    constexpr uint64_t kEven[8] = {0, 2, 4, 6, 8, 10, 12, 14};
    Lanes lanes;
    memcpy(&lanes, kEven, sizeof lanes);
    return lanes;
  }
  // The low words of `odd` between those of `even`.
  static Words interleave(Lanes even, Lanes odd) {
#if defined(__AVX512F__)
    return (Words)_mm512_mask_shuffle_epi32((__m512i)even, 0xaaaa, (__m512i)odd, _MM_PERM_CCAA);
#elif defined(__AVX2__)
    return (Words)_mm256_blend_epi32((__m256i)even, (__m256i)(odd << 32), 0xaa);
#else
    return (Words)((even & 0xffffffffu) | (odd << 32));
#endif
  }
};

// noise[row * 128 + column] of a whole tile.
inline void noise_tile(const PhiloxKeys& keys, uint64_t stream, int64_t tile, uint16_t* __restrict noise) {
  typedef uint16_t Halves __attribute__((vector_size(sizeof(Lanes) / 2)));
  constexpr int kStep = sizeof(Lanes) / sizeof(uint32_t);
  for (int first = 0; first < kColumns; first += kStep) {
    const ColumnNoise columns(keys, stream, tile, first);
    for (int r = 0; r < kRows; ++r) {
      const Halves h = __builtin_convertvector(columns.row(r), Halves);
      memcpy(noise + r * kColumns + first, &h, sizeof h);
    }
  }
}

FASTGRAD_NUMERICS_END
