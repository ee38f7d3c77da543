// The tile: 1,024 consecutive elements seen as 8 rows of 128 columns. See docs/numerics.md, section 1.
#pragma once

#include "philox.h"

FASTGRAD_NUMERICS_BEGIN

constexpr int kRows = 8;
constexpr int kColumns = 128;
constexpr int kTile = kRows * kColumns;
constexpr int kTilesPerChunk = 64;
constexpr int64_t kChunk = int64_t{kTile} * kTilesPerChunk;

// The Philox counter of a column of a tile. `column` is a lane-wise column number below 128, which never
// carries into the high word. Row r of the column takes 16 bits of word r & 3: the low half for r < 4,
// the high half for r >= 4.
template <class Word>
FG_FN PhiloxWords<Word> column_noise(const PhiloxKeys& keys, uint64_t stream, int64_t tile, Word column) {
  const uint64_t first = static_cast<uint64_t>(tile) * kColumns;
  const Word zero = column ^ column;
  return philox4x32<Word>({column + static_cast<uint32_t>(first), zero + static_cast<uint32_t>(first >> 32),
                           zero + static_cast<uint32_t>(stream), zero + static_cast<uint32_t>(stream >> 32)},
                          keys);
}

FASTGRAD_NUMERICS_END
