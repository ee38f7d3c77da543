// Numbers of a tile that are kept as codes in blocks with scales of their own: the states of AdamW and int8 parameters.
// See docs/numerics.md, section 12. Blocks lie wholly inside a tile, and inside what a shard has of it.
#pragma once

#include "block_absmax.h"
#include "tile_quantize.h"

#include "numerics/adamw.h"

FASTGRAD_NUMERICS_BEGIN

// The blocks of one tensor, and scales of those of one tile, at their places in it.
struct TileBlocks {
  float* memory;  // scales of the tensor's blocks
  int block;
  alignas(64) float scales[kTile / 16], inverses[kTile / 16];

  int first(const Span& span) const { return span.begin / block; }
  int count(const Span& span) const { return span.count() / block; }
  // The largest finite magnitudes of the blocks of a tile.
  void measure(const float* x, const Span& span, float* absmax) const {
    block_absmax(x + first(span) * block, span.count(), block, absmax);
  }
  // Gives every block the scale under which its largest magnitude becomes `largest`.
  void fit(const float* x, const Span& span, float largest) {
    alignas(64) float absmax[kTile / 16];
    measure(x, span, absmax);
    for (int b = 0; b < count(span); ++b) scales[first(span) + b] = largest_as(absmax[b], largest);
  }
  float* at(const Span& span) const { return memory + span.offset / block; }

  void load(const Span& span) { memcpy(scales + first(span), at(span), count(span) * sizeof(float)); }
  // Gives the scales to memory, and their inverses to who rounds; those of positions without elements are 1.
  void store(const Span& span) {
    memcpy(at(span), scales + first(span), count(span) * sizeof(float));
    for (int b = 0; b < kTile / block; ++b) {
      if (b < first(span) || b >= first(span) + count(span)) scales[b] = 1.0f;
      inverses[b] = 1.0f / scales[b];
    }
  }
};

// The noise of one tile, made ahead of its use.
struct TileNoise {
  static constexpr int kGroups = kColumns / kFloats;
  alignas(64) ColumnNoise columns[kGroups];

  void make(const PhiloxKeys& keys, uint64_t stream, int64_t tile, int group) {
    columns[group] = ColumnNoise(keys, stream, tile, group * kFloats);
  }
};

// Codes of a padded tile of finite numbers, one to a byte (or half word). Noise is read where rounding is stochastic.
template <Format F, Rounding R>
void round_rows(const float* __restrict x, const Span& span, const TileNoise& noise, const float* __restrict inverses,
                int block_shift, typename StagedCode<F>::type* __restrict codes) {
  constexpr Scaling kScaling = F == Format::bf16 || F == Format::fp16 ? Scaling::none : Scaling::plain;
  const int rows = span.padded() / kColumns;
  for (int c = 0; c < kColumns; c += kFloats) {
    const ColumnNoise columns = R == Rounding::stochastic ? noise.columns[c / kFloats] : ColumnNoise();
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const int at = r * kColumns + c;
      Floats inverse = splat<Floats>(1.0f);
      if constexpr (kScaling != Scaling::none) inverse = splat<Floats>(inverses[at >> block_shift]);
      store_codes(codes + at, quantize_finite<F, R, kScaling>(load_floats(x + at), inverse, inverse, columns.row(r)).code);
    }
  }
}

// Any numbers, element by element.
template <Format F, Rounding R>
void round_odd_rows(const float* __restrict x, const Span& span, const TileNoise& noise,
                    const float* __restrict inverses, int block_shift, typename StagedCode<F>::type* __restrict codes) {
  for (int i = span.begin; i < span.end; ++i) {
    const float inverse = inverses == nullptr ? 1.0f : inverses[i >> block_shift];
    const int column = i % kColumns;
    uint32_t z = 0;
    if constexpr (R == Rounding::stochastic) z = noise.columns[column / kFloats].row(i / kColumns)[column % kFloats];
    codes[i] = static_cast<typename StagedCode<F>::type>(quantize_any<F, R>(x[i], inverse, 1.0f, z).code);
  }
}

inline void put_codes(const Span& span, int bits, uint8_t* staged, void* memory) {
  uint8_t* target = static_cast<uint8_t*>(memory) + span.offset * bits / 8;
  if (bits == 4) {
    alignas(64) uint8_t packed[kTile / 2];
    pack_nibbles(staged + span.begin, span.count(), packed);
    memcpy(target, packed, span.count() / 2);
  } else {
    memcpy(target, staged + span.begin * bits / 8, static_cast<size_t>(span.count()) * bits / 8);
  }
}

inline void get_codes(const Span& span, int bits, const void* memory, uint8_t* __restrict staged) {
  const uint8_t* __restrict source = static_cast<const uint8_t*>(memory) + span.offset * bits / 8;
  uint8_t* __restrict to = staged + span.begin;
  if (bits == 4) {
    for (int i = 0; i < span.count() / 2; ++i) {
      to[2 * i] = source[i] & 0xf;
      to[2 * i + 1] = source[i] >> 4;
    }
  } else {
    memcpy(to, source, span.count());
  }
}

// x = decode(code) * scale of the block.
template <Format F>
void decode_blocks(const Span& span, const uint8_t* __restrict codes, const TileBlocks& blocks, float* __restrict x) {
  for (int b = blocks.first(span); b < blocks.first(span) + blocks.count(span); ++b) {
    const float scale = blocks.scales[b];
    for (int i = b * blocks.block; i < (b + 1) * blocks.block; ++i) x[i] = dequantize_code<F>(codes[i], scale);
  }
}

// Rounds a padded tile to codes in memory, under the scales that `blocks` holds.
template <Format F, Rounding R>
void encode_blocks(const float* x, const Span& span, bool finite, const TileNoise& noise, TileBlocks& blocks,
                   void* memory) {
  constexpr FormatSpec spec = format_spec(F);
  alignas(64) uint8_t codes[kTile];
  blocks.store(span);
  const int shift = __builtin_ctz(static_cast<unsigned>(blocks.block));
  if (finite) {
    round_rows<F, R>(x, span, noise, blocks.inverses, shift, codes);
  } else {
    round_odd_rows<F, R>(x, span, noise, blocks.inverses, shift, codes);
  }
  put_codes(span, spec.code_bits, codes, memory);
}

FASTGRAD_NUMERICS_END
