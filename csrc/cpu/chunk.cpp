// The kernels of one chunk. This file is compiled once per instruction set, FASTGRAD_ISA naming it; nothing
// in it may be an inline function of another namespace than that one (tests/test_symbols.py reads the symbols).
#include "kernels.h"
#include "numerics/normalizers.h"
#include "row_squares.h"
#include "tile_adamw.h"
#include "tile_moments.h"
#include "tile_quantize.h"
#include "tile_sgd.h"

FASTGRAD_NUMERICS_BEGIN

namespace {

constexpr int kMaxBlocks = kTile / 16;

int tile_count(int64_t n, int64_t start) { return static_cast<int>(n - start < kTile ? n - start : kTile); }

// Moments of the elements [start, start + n) of the gradient, n at most a chunk.
Moments moments_of_span(const TensorJob& job, const Sweep& sweep, int64_t start, int64_t n) {
  alignas(64) float buffer[kTile];
  const auto tile_at = [&](int64_t at) {
    const int count = tile_count(n, at);
    return moments_of_tile(
        load_tile(job.grad, job.grad_type, {0, start + at, 0, count}, sweep.inverse_loss_scale, buffer), count);
  };
  if (n <= kTile) return tile_at(0);  // as short rows are
  Moments leaves[kTilesPerChunk];
  int tiles = 0;
  for (int64_t at = 0; at < n; at += kTile) leaves[tiles++] = tile_at(at);
  halving_tree(leaves, tiles, merge_moments);
  return leaves[0];
}

void chunk_moments(const TensorJob& job, const Sweep& sweep, int64_t chunk, double* out) {
  const int64_t start = chunk * kChunk, n = job.n - start < kChunk ? job.n - start : kChunk;
  const Moments m = moments_of_span(job, sweep, start, n);
  memcpy(out, &m, sizeof m);
}

// A row is a tensor of its own: its chunks are merged by a halving tree. `leaves` has room for one per chunk; a row of
// one chunk needs none.
Moments moments_of_row(const TensorJob& job, const Sweep& sweep, int64_t start, int64_t n, Moments* leaves) {
  if (n <= kChunk) return moments_of_span(job, sweep, start, n);
  int64_t chunks = 0;
  for (int64_t at = 0; at < n; at += kChunk) {
    leaves[chunks++] = moments_of_span(job, sweep, start + at, n - at < kChunk ? n - at : kChunk);
  }
  halving_tree(leaves, chunks, merge_moments);
  return leaves[0];
}

float row_moments(const TensorJob& job, const Sweep& sweep, int64_t first, int64_t last, double* out) {
  const int64_t length = job.n / job.rows;
  float absmax = 0;
  Moments* leaves = length <= kChunk ? nullptr : new Moments[(length + kChunk - 1) / kChunk];
  for (int64_t row = first; row < last; ++row) {
    const Moments m = moments_of_row(job, sweep, row * length, length, leaves);
    memcpy(out + 6 * (row - first), &m, sizeof m);
    if (m.n == 0.0) {
      job.row_means[row] = 0.0f;
      continue;
    }
    const float c = static_cast<float>(m.mean);
    job.row_means[row] = c;
    const float largest = absmax_after(m, {1.0f, c});
    absmax = largest > absmax ? largest : absmax;
  }
  delete[] leaves;
  return absmax;
}

// y = (x - c) * a. LAST: y is where the elements belong, which may be where they were.
template <bool LAST>
void map_run(const float* x, int count, Affine f, float* y) {
  int i = 0;
  for (; i + kFloats <= count; i += kFloats) {
    const Floats v = apply_affine(load_floats(x + i), f);
    store_floats(y + i, LAST ? canonical(v) : v);
  }
  for (; i < count; ++i) {
    const float v = apply_affine(x[i], f);
    y[i] = LAST ? canonical(v) : v;
  }
}

template <bool LAST>
void map_tile(const TensorJob& job, const float* x, const Span& span, float* y) {
  if (job.row_means == nullptr) return map_run<LAST>(x + span.begin, span.count(), {job.a, job.c}, y + span.begin);
  const int64_t length = job.n / job.rows, from = span.offset - span.begin;
  for (int i = span.begin; i < span.end;) {
    const int64_t row = (from + i) / length, left = (row + 1) * length - (from + i);
    const int count = left < span.end - i ? static_cast<int>(left) : span.end - i;
    map_run<LAST>(x + i, count, {1.0f, job.row_means[row]}, y + i);
    i += count;
  }
}

// In a buffer, whose padding stays +0.
void normalize_tile(const TensorJob& job, const float* __restrict x, const Span& span, float* __restrict y) {
  map_tile<false>(job, x, span, y);
  pad(span, y);
}

bool normalizes(const TensorJob& job) { return job.row_means != nullptr || !changes_nothing({job.a, job.c}); }

// Sums of the squares of the dim-0 rows [first, last); those of the columns are added up over the rows.
void row_squares(const TensorJob& job, const Sweep& sweep, int64_t first, int64_t last, double* rows, double* columns) {
  const int64_t length = job.n / job.rows;
  const float bound = job.adamw.bound;
  const double rounder = square_rounder(bound, length > job.whole_rows ? length : job.whole_rows);
  alignas(64) float x_buffer[kTile], y_buffer[kTile];
  for (int64_t row = first; row < last; ++row) {
    double sum = 0.0;
    for (int64_t at = 0; at < length; at += kTile) {
      const Span span = {0, row * length + at, 0, tile_count(length, at)};
      const float* y = load_tile(job.grad, job.grad_type, span, sweep.inverse_loss_scale, x_buffer);
      if (normalizes(job)) {
        normalize_tile(job, y, span, y_buffer);
        y = y_buffer;
      }
      sum = sum + add_squares(y, span.end, bound, rounder, columns + at);
    }
    rows[row] = sum;
  }
}

// The scales of the tile's blocks, kept for the tile and written to memory, and what they say about it.
void block_scales(const TensorJob& job, const Sweep& sweep, const float* __restrict y, const Span& span,
                  float* __restrict scales, float* __restrict inverses, float* __restrict largest_of_block,
                  TileQuantizer& quantizer) {
  const int blocks = (span.end + sweep.block - 1) / sweep.block;
  const int64_t first = (span.offset - span.begin) / sweep.block;
  const float largest = format_spec(static_cast<Format>(sweep.format)).largest;
  alignas(64) float absmax[kMaxBlocks];
  quantizer.range = block_absmax(y, span.end, sweep.block, absmax);
  if (job.given_scales != nullptr) {
    memcpy(scales, job.given_scales + first, blocks * sizeof(float));
  } else {
    for (int b = 0; b < blocks; b += kFloats) store_floats(scales + b, scale_for(load_floats(absmax + b), largest, sweep.pow2));
  }
  for (int b = blocks; b % kFloats != 0; ++b) scales[b] = 1.0f;  // of the blocks that only fill the last vector
  Floats largest_v = {};
  for (int b = 0; b < blocks; b += kFloats) {
    const Floats inverse = 1.0f / load_floats(scales + b);
    store_floats(inverses + b, inverse);
    const Floats v = load_floats(absmax + b) * inverse;
    store_floats(largest_of_block + b, v);
    largest_v = maximum(v, largest_v);
  }
  quantizer.largest_v = largest_lane(largest_v);
  if (job.scales != nullptr) memcpy(job.scales + first, scales, blocks * sizeof(float));
}

void copy_codes(const TensorJob& job, Format format, int64_t offset, int count, uint8_t* staged, bool stream) {
  const int bits = format_spec(format).code_bits;
  uint8_t* target = static_cast<uint8_t*>(job.codes) + offset * bits / 8;
  if (bits == 4) {
    alignas(64) uint8_t packed[kTile / 2];
    pack_nibbles(staged, count, packed);
    copy_out(target, packed, (count + 1) / 2, stream);
  } else {
    copy_out(target, staged, static_cast<int64_t>(count) * bits / 8, stream);
  }
}

// fp32 is not rounded; only its NaN is made canonical.
void copy_fp32_codes(const float* __restrict y, int count, uint32_t* __restrict codes) {
  for (int i = 0; i < count; ++i) codes[i] = float_bits(canonical(y[i]));
}

// What is read next: of the gradients, for which the moments ask themselves, and of the streams of SGD. AdamW has its own.
void ask_while_rounding(const TensorJob& job, const Sweep& sweep, int64_t offset, TileQuantizer& quantizer) {
  const auto at = [](const void* memory, Type type, int64_t element) {
    return static_cast<const char*>(memory) + element * type_size(type);
  };
  if (!sweep.moments_in_pass) quantizer.ahead[0] = at(job.grad, job.grad_type, offset + kTile);
  if (job.parameter == nullptr || sweep.update != Update::sgd) return;
  quantizer.ahead[1] = at(job.parameter, job.parameter_type, offset);
  if (job.momentum != nullptr && !job.first()) quantizer.ahead[2] = at(job.momentum, job.momentum_type, offset);
}

void process_chunk(const TensorJob& job, const Sweep& sweep, int64_t chunk, ChunkResult* result) {
  const Format format = static_cast<Format>(sweep.format);
  const Rounding rounding = static_cast<Rounding>(sweep.rounding);
  const bool quantize = job.quantized() && format != Format::fp32;
  const bool affine = normalizes(job);
  // Nothing else happens to the elements, which are written to where they belong at once.
  const bool only_affine = affine && !quantize && job.codes == nullptr && job.parameter == nullptr &&
                           job.out != nullptr && job.out_type == Type::fp32;
  const int64_t start = chunk * kChunk, n = job.grid() - start < kChunk ? job.grid() - start : kChunk;

  Moments moments[kTilesPerChunk];
  TileSums sums[kTilesPerChunk];
  alignas(64) float x_buffer[kTile], y_buffer[kTile], q_buffer[kTile], scales[kMaxBlocks], inverses[kMaxBlocks],
      largest_of_block[kMaxBlocks];
  alignas(64) uint8_t codes[kTile * sizeof(uint32_t)];
  TileQuantizer quantizer = {.keys = PhiloxKeys(sweep.seed), .stream = job.stream, .scale = job.scale,
                             .inverse = job.inverse_scale};
  if (sweep.scale_kind == ScaleKind::block) {
    quantizer.scales = scales;
    quantizer.inverses = inverses;
    quantizer.largest_of_block = largest_of_block;
    quantizer.block_shift = __builtin_ctz(static_cast<unsigned>(sweep.block));
    quantizer.given = job.given_scales != nullptr;
  }
  AdamwStep adamw;
  if (job.parameter != nullptr && sweep.update == Update::adamw) adamw = adamw_step(job.hyper, job.factor, job.adamw.age);
  // AdamW and nothing else, in memory: all rows at once, as what a tile begins and ends with takes 7 % of its time.
  const bool only_adamw = job.parameter != nullptr && sweep.update == Update::adamw && !affine && !quantize &&
                          job.codes == nullptr && job.out == nullptr && !sweep.moments_in_pass;
  if (only_adamw && all_in_memory(job, adamw) && sweep.inverse_loss_scale == 1.0f && job.lead() == 0 && n % kColumns == 0) {
    const Span rows = {start / kTile + job.first_tile(), start, 0, static_cast<int>(n)};
    return adamw_tile(job, sweep, adamw, static_cast<const float*>(job.grad) + start, rows);
  }
  uint32_t absmax = 0;
  int tiles = 0;
  for (int64_t at = 0; at < n; at += kTile, ++tiles) {
    const int begin = start + at == 0 ? job.lead() : 0, count = tile_count(n, at);
    const int64_t offset = start + at + begin - job.lead(), tile = (start + at) / kTile + job.first_tile();
    const Span span = {tile, offset, begin, count};
    const float* x = load_tile(job.grad, job.grad_type, span, sweep.inverse_loss_scale, x_buffer);
    if (sweep.moments_in_pass) moments[tiles] = moments_of_tile(x, count);
    if (only_affine) {
      map_tile<true>(job, x, span, static_cast<float*>(job.out) + span.offset - span.begin);
      continue;
    }
    const float* y = x;
    if (affine) {
      normalize_tile(job, x, span, y_buffer);
      y = y_buffer;
    }
    const float* q = y;
    if (quantize) {
      if (sweep.scale_kind == ScaleKind::block) block_scales(job, sweep, y, span, scales, inverses, largest_of_block, quantizer);
      ask_while_rounding(job, sweep, offset, quantizer);
      const TileResult one = quantize_tile(format, rounding, quantizer, y, tile, count, q_buffer, codes);
      q = q_buffer;
      quantizer.clamp = one.clamped;
      sums[tiles] = one.sums;
      absmax = one.absmax > absmax ? one.absmax : absmax;
      result->zeroed += one.zeroed;
      result->saturated += one.saturated;
    } else if (job.codes != nullptr && job.quantized()) {
      copy_fp32_codes(y, count, reinterpret_cast<uint32_t*>(codes));
    }
    if (job.codes != nullptr && job.quantized()) copy_codes(job, format, offset, count, codes, sweep.stream_stores);
    if (job.out != nullptr) {
      store_tile(q + span.begin, span.count(), job.out, job.out_type, span.offset, Rounding::nearest, nullptr);
    }
    if (job.parameter == nullptr) continue;
    sweep.update == Update::adamw ? adamw_tile(job, sweep, adamw, q, span) : sgd_tile(job, sweep, q, span);
  }
  if (sweep.moments_in_pass) {
    halving_tree(moments, tiles, merge_moments);
    memcpy(result->moments, &moments[0], sizeof moments[0]);
  }
  if (quantize) {
    halving_tree(sums, tiles, [](const TileSums& a, const TileSums& b) {
      return TileSums{a.yy + b.yy, a.yq + b.yq, a.qq + b.qq};
    });
    result->yy = sums[0].yy;
    result->yq = sums[0].yq;
    result->qq = sums[0].qq;
    result->absmax = bits_float(absmax);
  }
  if (sweep.stream_stores) finish_streams();
}

// Codes under one scale. `start` is even where two codes share a byte.
template <Format F>
void decode_run(const void* codes, float scale, int64_t start, int64_t n, float* __restrict values) {
  if constexpr (format_spec(F).code_bits == 4) {
    const uint8_t* pairs = static_cast<const uint8_t*>(codes) + start / 2;
    for (int64_t i = 0; i < n / 2; ++i) {
      values[2 * i] = dequantize_code<F>(pairs[i], scale);
      values[2 * i + 1] = dequantize_code<F>(static_cast<uint32_t>(pairs[i] >> 4), scale);
    }
    if (n % 2 != 0) values[n - 1] = dequantize_code<F>(pairs[n / 2], scale);
  } else {
    const auto* one = static_cast<const typename StagedCode<F>::type*>(codes) + start;
    for (int64_t i = 0; i < n; ++i) values[i] = dequantize_code<F>(one[i], scale);
  }
}

template <Format F>
void decode_chunk(const void* codes, const float* scales, int block, int64_t start, int64_t n, float* __restrict values) {
  if (block == 0) return decode_run<F>(codes, scales == nullptr ? 1.0f : scales[0], start, n, values);
  // A block at a time: finding the scale of every element would cost more than decoding it.
  for (int64_t at = 0; at < n;) {
    const int64_t b = (start + at) / block, end = (b + 1) * block - start;
    const int64_t count = (end < n ? end : n) - at;
    decode_run<F>(codes, scales[b], start + at, count, values + at);
    at += count;
  }
}

void dequantize_chunk(const void* codes, int format, const float* scales, int block, int64_t n, int64_t chunk,
                      void* values, Type type, bool stream) {
  const int64_t start = chunk * kChunk, end = n - start < kChunk ? n : start + kChunk;
  alignas(64) float buffer[kTile];
  alignas(64) uint8_t stored[kTile * sizeof(float)];
  for (int64_t at = start; at < end; at += kTile) {
    const int count = tile_count(end, at);
    switch (static_cast<Format>(format)) {
      case Format::bf16: decode_chunk<Format::bf16>(codes, scales, block, at, count, buffer); break;
      case Format::fp16: decode_chunk<Format::fp16>(codes, scales, block, at, count, buffer); break;
      case Format::fp8_e4m3: decode_chunk<Format::fp8_e4m3>(codes, scales, block, at, count, buffer); break;
      case Format::fp8_e5m2: decode_chunk<Format::fp8_e5m2>(codes, scales, block, at, count, buffer); break;
      case Format::fp4_e2m1: decode_chunk<Format::fp4_e2m1>(codes, scales, block, at, count, buffer); break;
      case Format::int8: decode_chunk<Format::int8>(codes, scales, block, at, count, buffer); break;
      case Format::int4: decode_chunk<Format::int4>(codes, scales, block, at, count, buffer); break;
      default: decode_chunk<Format::fp32>(codes, scales, block, at, count, buffer); break;
    }
    if (stream) {
      store_tile(buffer, count, stored, type, 0, Rounding::nearest, nullptr);
      copy_out(static_cast<char*>(values) + at * type_size(type), stored, count * type_size(type), true);
    } else {
      store_tile(buffer, count, values, type, at, Rounding::nearest, nullptr);
    }
  }
  if (stream) finish_streams();
}

void probe_noise(uint64_t seed, uint64_t stream, int64_t tile, uint16_t* noise) {
  noise_tile(PhiloxKeys(seed), stream, tile, noise);
}

template <Format F, Rounding R>
void probe_round(const float* y, const int32_t* noise, int64_t n, float inverse, float scale, int32_t* codes,
                 float* values) {
  for (int64_t i = 0; i < n; ++i) {
    const auto one = quantize_any<F, R>(y[i], inverse, scale, static_cast<uint32_t>(noise[i]));
    codes[i] = static_cast<int32_t>(one.code);
    values[i] = one.value;
  }
}

template <Format F>
void probe_round(const float* y, const int32_t* noise, int64_t n, float inverse, float scale, int rounding,
                 int32_t* codes, float* values) {
  switch (static_cast<Rounding>(rounding)) {
    case Rounding::stochastic: return probe_round<F, Rounding::stochastic>(y, noise, n, inverse, scale, codes, values);
    case Rounding::nearest: return probe_round<F, Rounding::nearest>(y, noise, n, inverse, scale, codes, values);
    default: return probe_round<F, Rounding::truncate>(y, noise, n, inverse, scale, codes, values);
  }
}

void probe_round(const float* y, const int32_t* noise, int64_t n, float inverse, float scale, int format, int rounding,
                 int32_t* codes, float* values) {
  switch (static_cast<Format>(format)) {
    case Format::bf16: return probe_round<Format::bf16>(y, noise, n, inverse, scale, rounding, codes, values);
    case Format::fp16: return probe_round<Format::fp16>(y, noise, n, inverse, scale, rounding, codes, values);
    case Format::fp8_e4m3: return probe_round<Format::fp8_e4m3>(y, noise, n, inverse, scale, rounding, codes, values);
    case Format::fp8_e5m2: return probe_round<Format::fp8_e5m2>(y, noise, n, inverse, scale, rounding, codes, values);
    case Format::fp4_e2m1: return probe_round<Format::fp4_e2m1>(y, noise, n, inverse, scale, rounding, codes, values);
    case Format::int8: return probe_round<Format::int8>(y, noise, n, inverse, scale, rounding, codes, values);
    default: return probe_round<Format::int4>(y, noise, n, inverse, scale, rounding, codes, values);
  }
}

}  // namespace

FASTGRAD_NUMERICS_END

#define FASTGRAD_PASTE2(a, b) a##b
#define FASTGRAD_PASTE(a, b) FASTGRAD_PASTE2(a, b)
#define FASTGRAD_TEXT2(a) #a
#define FASTGRAD_TEXT(a) FASTGRAD_TEXT2(a)

const fastgrad::ChunkKernels& fastgrad::FASTGRAD_PASTE(chunk_kernels_, FASTGRAD_ISA)() {
  static const ChunkKernels kernels = {FASTGRAD_TEXT(FASTGRAD_ISA), chunk_moments, row_moments,      row_squares,
                                       process_chunk,               dequantize_chunk, probe_noise, probe_round};
  return kernels;
}
