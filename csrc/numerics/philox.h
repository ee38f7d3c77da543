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

FG_FN uint32_t key_word(uint32_t, uint64_t key) { return static_cast<uint32_t>(key); }
template <class Lanes>
FG_FN uint64_t key_word(Lanes, uint64_t key) {
  return key;
}

template <class Word>
struct PhiloxWords {
  Word w0, w1, w2, w3;
};

// The keys of the rounds: they depend on the seed alone and are made once.
template <int ROUNDS>
struct PhiloxKeySchedule {
  uint64_t k0[ROUNDS], k1[ROUNDS];  // 32 bits each

  FG_FN explicit PhiloxKeySchedule(uint64_t seed) {
    constexpr uint32_t kW0 = 0x9E3779B9u, kW1 = 0xBB67AE85u;  // Weyl increments
    uint32_t w0 = static_cast<uint32_t>(seed), w1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < ROUNDS; ++round, w0 += kW0, w1 += kW1) {
      k0[round] = w0;
      k1[round] = w1;
    }
  }
};
using PhiloxKeys = PhiloxKeySchedule<kPhiloxRounds>;

template <class Word>
FG_FN PhiloxWords<Word> philox_round(PhiloxWords<Word> c, uint64_t k0, uint64_t k1) {
  const Product<Word> p0 = multiply_words(c.w0, 0xD2511F53u);
  const Product<Word> p1 = multiply_words(c.w2, 0xCD9E8D57u);
  using Key = decltype(key_word(c.w0, k0));
  return {p1.high ^ c.w1 ^ static_cast<Key>(k0), p1.low, p0.high ^ c.w3 ^ static_cast<Key>(k1), p0.low};
}

template <class Word, int ROUNDS>
FG_FN PhiloxWords<Word> philox4x32(PhiloxWords<Word> c, const PhiloxKeySchedule<ROUNDS>& keys) {
  for (int round = 0; round < ROUNDS; ++round) c = philox_round(c, keys.k0[round], keys.k1[round]);
  return c;
}

FASTGRAD_NUMERICS_END
