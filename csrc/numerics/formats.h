// The eight formats and what is special about each. See docs/numerics.md, section 3.
#pragma once

#include "portable.h"

FASTGRAD_NUMERICS_BEGIN

// The order is part of the interface between Python and C++ (fastgrad/library.py).
enum class Format : int { fp32, bf16, fp16, fp8_e4m3, fp8_e5m2, fp4_e2m1, int8, int4 };
enum class Rounding : int { stochastic, nearest, truncate };

struct FormatSpec {
  int mantissa;         // explicit mantissa bits; 0 for the integers
  uint32_t exponent0;   // biased float32 exponent of the smallest normal number
  float largest;        // largest finite magnitude
  uint32_t infinity;    // code of +infinity, or of the largest number where there is none
  uint32_t nan;         // code of the one NaN, or of +0 where there is none
  int sign_shift;       // where the sign bit goes in the code
  int code_bits;        // bits of one stored code
  bool integer;
  bool keeps_infinity;
};

FG_FN constexpr FormatSpec format_spec(Format format) {
  switch (format) {
    case Format::bf16: return {7, 1, 3.3895313892515355e38f, 0x7f80, 0x7fc0, 15, 16, false, true};
    case Format::fp16: return {10, 113, 65504.0f, 0x7c00, 0x7e00, 15, 16, false, true};
    case Format::fp8_e4m3: return {3, 121, 448.0f, 0x7e, 0x7f, 7, 8, false, false};
    case Format::fp8_e5m2: return {2, 113, 57344.0f, 0x7c, 0x7f, 7, 8, false, true};
    case Format::fp4_e2m1: return {1, 127, 6.0f, 0x7, 0x0, 3, 4, false, false};
    case Format::int8: return {0, 0, 127.0f, 127, 0, 0, 8, true, false};
    case Format::int4: return {0, 0, 7.0f, 7, 0, 0, 4, true, false};
    default: return {23, 1, 3.4028234663852886e38f, kInfinity, kNaN, 31, 32, false, true};
  }
}

FASTGRAD_NUMERICS_END
