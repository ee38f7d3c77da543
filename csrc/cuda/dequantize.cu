// values = decode(codes) * scale, for a list of tensors in one launch.
#include "host.h"
#include "chunk_tasks.h"
#include "runtime.h"

FASTGRAD_NUMERICS_BEGIN

template <Format F>
FG_DEVICE QuadWord load_codes(const void* source, int64_t at) {
  constexpr int kBits = format_spec(F).code_bits;
  if constexpr (kBits == 32) {
    return float_bits(load_floats(static_cast<const float*>(source) + at));
  } else if constexpr (kBits == 16) {
    const uint2 h = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(source) + at);
    return {h.x & 0xffffu, h.x >> 16, h.y & 0xffffu, h.y >> 16};
  } else if constexpr (kBits == 8) {
    const uint32_t w = *reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(source) + at);
    return {w & 0xffu, w >> 8 & 0xffu, w >> 16 & 0xffu, w >> 24};
  } else {
    const uint32_t w = *reinterpret_cast<const uint16_t*>(static_cast<const uint8_t*>(source) + at / 2);
    return {w & 0xfu, w >> 4 & 0xfu, w >> 8 & 0xfu, w >> 12};
  }
}

FG_DEVICE float scale_of(const DequantizeJob& job, int block, int64_t at) {
  return job.scales == nullptr ? 1.0f : job.scales[block > 0 ? at / block : 0];
}

template <Format F>
FG_DEVICE void dequantize_whole(const DequantizeJob& job, int block, Type type, int64_t offset) {
  const int64_t first = offset + kQuad * lane_number();
  QuadWord code[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) code[r] = load_codes<F>(job.codes, first + r * kColumns);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t at = first + r * kColumns;
    const float scale = scale_of(job, block, at);  // blocks are multiples of a quad
    Quad x;
#pragma unroll
    for (int k = 0; k < kQuad; ++k) x.v[k] = dequantize_code<F>(code[r].v[k], scale);
    store_quad(job.values, type, at, x, false, QuadWord{});
  }
}

template <Format F>
FG_DEVICE void dequantize_any(const DequantizeJob& job, int block, Type type, int64_t offset, int count) {
#pragma unroll 1
  for (int i = lane_number(); i < count; i += kWarpLanes) {
    const int64_t at = offset + i;
    const float x = dequantize_code<F>(load_code<F>(job.codes, at), scale_of(job, block, at));
    store_element(job.values, type, at, x, false, 0u);
  }
}

template <Format F>
__global__ void __launch_bounds__(kBlockThreads)
    dequantize_kernel(const DequantizeJob* jobs, int count, int64_t chunks, int block, Type type) {
  for (int64_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    int low = 0, high = count;  // the last tensor that does not begin after the chunk
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (jobs[middle].first_chunk <= chunk) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const DequantizeJob job = jobs[low];
    const int64_t start = (chunk - job.first_chunk) * kChunk;
    const int tiles = tiles_in(job.n - start);
    const bool whole = aligned(job.values, quad_bytes(type)) && aligned(job.codes, format_spec(F).code_bits * kQuad / 8);
#pragma unroll 1
    for (int tile = warp_number(); tile < tiles; tile += kBlockWarps) {
      const int64_t offset = start + int64_t{tile} * kTile;
      const int elements = tile_count(job.n, offset);
      if (whole && elements == kTile) {
        dequantize_whole<F>(job, block, type, offset);
      } else {
        dequantize_any<F>(job, block, type, offset, elements);
      }
    }
  }
}

using DequantizeKernel = void (*)(const DequantizeJob*, int, int64_t, int, Type);

inline DequantizeKernel dequantize_kernel_of(Format format) {
  switch (format) {
    case Format::bf16: return dequantize_kernel<Format::bf16>;
    case Format::fp16: return dequantize_kernel<Format::fp16>;
    case Format::fp8_e4m3: return dequantize_kernel<Format::fp8_e4m3>;
    case Format::fp8_e5m2: return dequantize_kernel<Format::fp8_e5m2>;
    case Format::fp4_e2m1: return dequantize_kernel<Format::fp4_e2m1>;
    case Format::int8: return dequantize_kernel<Format::int8>;
    case Format::int4: return dequantize_kernel<Format::int4>;
    default: return dequantize_kernel<Format::fp32>;
  }
}

FASTGRAD_NUMERICS_END

namespace fastgrad {

void cuda_dequantize(const DequantizeJob* jobs, int count, int64_t chunks, int format, int block, Type type, int device,
                     void* stream) {
  constexpr int64_t kLargestGrid = 65535;  // blocks go on with the chunk a grid further
  if (chunks == 0) return;
  const OnDevice guard(device);
  const auto blocks = static_cast<unsigned>(chunks < kLargestGrid ? chunks : kLargestGrid);
  ::launch(dequantize_kernel_of(static_cast<Format>(format)), dim3(blocks), dim3(kBlockThreads),
                  static_cast<cudaStream_t>(stream), jobs, count, chunks, block, type);
  check(cudaGetLastError(), "launch of dequantize");
}

}  // namespace fastgrad
