// Philox4x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), counter based:
// the noise of an element is a function of (seed, stream, element index) and of nothing else.
#pragma once

#include "portable.h"

FASTGRAD_NUMERICS_BEGIN

constexpr int kPhiloxRounds = 7;  // the fewest that pass BigCrush

// A word is a uint32_t, or a vector of lanes of which the low 32 bits count (csrc/cpu/noise.h).
template <class Word>
struct Product {
  Word high, low;
};

template <class Word>
FG_FN Product<Word> multiply_words(Word a, uint32_t b) {
  static_assert(sizeof(Word) == 4, "a vector of lanes brings a specialization");
  const uint64_t product = static_cast<uint64_t>(a) * b;
  return {static_cast<Word>(product >> 32), static_cast<Word>(product)};
}

template <class Word>
struct PhiloxWords {
  Word w0, w1, w2, w3;
};

template <class Word>
FG_FN PhiloxWords<Word> philox4x32(PhiloxWords<Word> c, uint32_t k0, uint32_t k1,
                                   int rounds = kPhiloxRounds) {
  constexpr uint32_t kM0 = 0xD2511F53u, kM1 = 0xCD9E8D57u;  // multipliers
  constexpr uint32_t kW0 = 0x9E3779B9u, kW1 = 0xBB67AE85u;  // Weyl increments of the key
  for (int round = 0; round < rounds; ++round) {
    const Product<Word> p0 = multiply_words(c.w0, kM0);
    const Product<Word> p1 = multiply_words(c.w2, kM1);
    c = {p1.high ^ c.w1 ^ k0, p1.low, p0.high ^ c.w3 ^ k1, p0.low};
    k0 += kW0;
    k1 += kW1;
  }
  return c;
}

FASTGRAD_NUMERICS_END
