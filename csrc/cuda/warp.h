// A warp and its tile: lane l holds columns 4l, ..., 4l + 3 of the 128, so that a row of float32 is one 16-byte access
// of every lane.
#pragma once

#include "device.h"
#include "quad.h"

FASTGRAD_NUMERICS_BEGIN

constexpr int kWarpLanes = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

FG_DEVICE int lane_number() { return static_cast<int>(threadIdx.x) % kWarpLanes; }
FG_DEVICE int warp_number() { return static_cast<int>(threadIdx.x) / kWarpLanes; }

FG_DEVICE uint32_t warp_max(uint32_t v) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  return __reduce_max_sync(kWholeWarp, v);
#else
  for (int s = kWarpLanes / 2; s > 0; s /= 2) {
    const uint32_t other = __shfl_xor_sync(kWholeWarp, v, s);
    v = other > v ? other : v;
  }
  return v;
#endif
}

FG_DEVICE uint32_t warp_sum(uint32_t v) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  return __reduce_add_sync(kWholeWarp, v);
#else
  for (int s = kWarpLanes / 2; s > 0; s /= 2) v += __shfl_xor_sync(kWholeWarp, v, s);
  return v;
#endif
}

FG_DEVICE float warp_min(float v) {
  for (int s = kWarpLanes / 2; s > 0; s /= 2) v = fminf(v, __shfl_xor_sync(kWholeWarp, v, s));
  return v;
}

FG_DEVICE float warp_max(float v) {
  for (int s = kWarpLanes / 2; s > 0; s /= 2) v = fmaxf(v, __shfl_xor_sync(kWholeWarp, v, s));
  return v;
}

// The halving of the 128 columns, 64, 32, ..., 1 (docs/numerics.md, section 1); every lane gets the sum. Columns 64
// and 32 apart are in lanes 16 and 8 apart: as each step leaves half of the columns, a lane hands over the half it
// does not go on with, and holds one column after two steps.
FG_DEVICE float halve_columns(const Quad& c) {
  const bool upper = (lane_number() & 16) != 0, odd = (lane_number() & 8) != 0;
  const float first = (upper ? c.v[2] : c.v[0]) + __shfl_xor_sync(kWholeWarp, upper ? c.v[0] : c.v[2], 16);
  const float second = (upper ? c.v[3] : c.v[1]) + __shfl_xor_sync(kWholeWarp, upper ? c.v[1] : c.v[3], 16);
  float sum = (odd ? second : first) + __shfl_xor_sync(kWholeWarp, odd ? first : second, 8);
  for (int s = 4; s > 0; s /= 2) sum = sum + __shfl_xor_sync(kWholeWarp, sum, s);
  sum = sum + __shfl_xor_sync(kWholeWarp, sum, 16);  // columns 2 apart within a lane's four
  return sum + __shfl_xor_sync(kWholeWarp, sum, 8);  // and 1 apart
}

// The halving tree over leaves in memory that all `threads` see; `sync` is their barrier. Leaf 0 is the result.
template <class Leaf, class Merge, class Sync>
FG_DEVICE void tree_of(Leaf* leaves, int64_t k, int thread, int threads, Merge merge, Sync sync) {
  int64_t s = 1;
  while (s < k) s *= 2;
  for (s /= 2; s > 0; s /= 2) {
    for (int64_t j = thread; j < s && j + s < k; j += threads) leaves[j] = merge(leaves[j], leaves[j + s]);
    sync();
  }
}

FASTGRAD_NUMERICS_END
