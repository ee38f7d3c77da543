// Scalar formulas by themselves, and the noise and rounding of one instruction set.
#include <string>

#include "groups.h"
#include "numerics/adamw.h"
#include "numerics/factored.h"
#include "numerics/normalizers.h"
#include "numerics/rounding.h"
#include "numerics/sgd.h"
#include "numerics/stream.h"
#include "numerics/tile.h"

namespace portable_bits {
namespace {

using namespace fastgrad;

float wild_float(uint64_t seed, int64_t i) {
  return bits_float(pattern(static_cast<Kind>(i % kKinds), seed, i, 8, 23));
}

double positive_double(uint64_t seed, int64_t i) {
  const uint64_t h = mixed(seed + static_cast<uint64_t>(i));
  return bits_double((h >> 12) | ((1ull + (h & 0x7ff) % 2045) << 52));
}

void philox() {
  Digest digest;
  for (uint64_t i = 0; i < 500; ++i) {
    const uint64_t a = mixed(i), b = mixed(i + 1000), seed = mixed(i + 2000);
    const PhiloxWords<uint32_t> c = {static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32), static_cast<uint32_t>(b),
                                     static_cast<uint32_t>(b >> 32)};
    const auto seven = philox4x32<uint32_t>(c, PhiloxKeySchedule<7>(seed));
    const auto ten = philox4x32<uint32_t>(c, PhiloxKeySchedule<10>(seed));
    digest.number(seven);
    digest.number(ten);
    digest.number(pack_stream(static_cast<Purpose>(i % 5), i, i * 7, i * 3));
  }
  report("formula philox", digest);
}

void scalars() {
  Digest logs, alphas, powers, scales, moments, squares;
  for (int64_t i = 0; i < 4000; ++i) {
    logs.number(log64(positive_double(1, i)));
    double state[2] = {i % 3 == 0 ? 0.0 : positive_double(2, i), positive_double(3, i)};
    for (int rule = 0; rule < 8; ++rule) {
      alphas.number(alpha_factor(static_cast<Alpha>(rule), positive_double(4, i), state));
    }
    alphas.add(state, sizeof state);
    powers.number(power(1.0 - 1.0 / static_cast<double>(2 + i % 5000), 1 + i * 17 % 100000));
    const float absmax = magnitude(wild_float(5, i));
    if (is_finite(absmax)) {
      for (float largest : {448.0f, 57344.0f, 6.0f, 127.0f, 7.0f, 65504.0f}) {
        scales.number(scale_for(absmax, largest, false));
        scales.number(scale_for(absmax, largest, true));
      }
      scales.number(parameter_scale(absmax, magnitude(wild_float(6, i % 50))));
      const double rounder = square_rounder(absmax, 1 + i % 3000);
      squares.number(rounder);
      squares.number(square_gap(rounder));
      for (int64_t j = 0; j < 4; ++j) {
        const float x = magnitude(wild_float(7, i + j));
        squares.number(rounded_square(x < absmax ? x : absmax, rounder));
      }
    }
    const double n = static_cast<double>(1 + i % 1024);
    const Moments a = {n, positive_double(8, i), positive_double(9, i), -1.0, 2.0, 0.0};
    const Moments b = tile_moments(7, 0.5f, 1e-3f, 0.25f, -40);
    const Moments m = merge_moments(a, b);
    if (m.m2 < 1e300) {
      moments.add(&m, sizeof m);
      moments.number(standard_deviation(m));
      moments.number(clip_factor(m, 1.0));
      const Affine f = affine_for(Method::znorm, m, 1e-8, 1.0);
      moments.number(f);
      moments.number(absmax_after(b, f));
    }
  }
  report("formula log64", logs);
  report("formula alpha", alphas);
  report("formula power", powers);
  report("formula scales", scales);
  report("formula moments", moments);
  report("formula squares", squares);
}

void half_precision() {
  Digest digest;
  for (uint32_t h = 0; h < 65536; ++h) digest.number(float_bits(half_to_float(static_cast<uint16_t>(h))));
  report("formula half_to_float", digest);
}

}  // namespace

void formulas() {
  philox();
  scalars();
  half_precision();
}

void kernels(const ChunkKernels& set) {
  Digest noise;
  uint16_t tile[kTile];
  for (uint64_t i = 0; i < 40; ++i) {
    set.noise(mixed(i), mixed(i + 100), static_cast<int64_t>(mixed(i + 200) >> 30), tile);
    noise.add(tile, sizeof tile);
  }
  report("kernel noise", noise);
  constexpr int64_t kCount = 6000;
  std::vector<float> y(kCount), values(kCount);
  std::vector<int32_t> z(kCount), codes(kCount);
  for (int64_t i = 0; i < kCount; ++i) {
    y[i] = wild_float(11, i);
    z[i] = static_cast<int32_t>(mixed(static_cast<uint64_t>(i) + 77) & 0xffff);
  }
  for (int format = 1; format < 8; ++format) {
    for (int rounding = 0; rounding < 3; ++rounding) {
      Digest digest;
      for (float scale : {1.0f, 0.00123f, 3.0e37f, 1.1754944e-38f}) {
        set.round(y.data(), z.data(), kCount, 1.0f / scale, scale, format, rounding, codes.data(), values.data());
        digest.add(codes.data(), codes.size() * 4);
        digest.add(values.data(), values.size() * 4);
      }
      report((std::string("kernel round ") + kFormats[format] + " " + kRoundings[rounding]).c_str(), digest);
    }
  }
}

}  // namespace portable_bits
