// Rounding to a format, on its magnitude, the sign last. See docs/numerics.md, section 4.
#pragma once

#include "formats.h"

FASTGRAD_NUMERICS_BEGIN

// Float and Word are float and uint32_t, or, on the CPU, vectors of as many lanes, for which csrc/cpu/vector.h
// brings these functions, or, on the GPU, the four neighbours of csrc/cuda/quad.h. A comparison gives a bool or a mask.
FG_FN float word_to_float(uint32_t w) { return static_cast<float>(static_cast<int32_t>(w)); }
FG_FN uint32_t float_to_word(float x) { return static_cast<uint32_t>(static_cast<int32_t>(x)); }
FG_FN uint32_t mask_to_word(bool mask) { return mask ? 1u : 0u; }
FG_FN bool any_below(float x, float limit) { return x < limit; }
FG_FN uint32_t sign_mask(float x) { return 0u - (float_bits(x) >> 31); }  // all bits, or none
FG_FN float minimum(float a, float b) { return a < b ? a : b; }  // b where a is NaN
FG_FN float maximum(float a, float b) { return a > b ? a : b; }
FG_FN uint32_t shift_signed(uint32_t w, int n) { return static_cast<uint32_t>(static_cast<int32_t>(w) >> n); }

template <class Mask, class T>
FG_FN T select(Mask mask, T a, T b) {
  return mask ? a : b;
}

template <class Float>
FG_FN Float splat(float x) {
  return x - Float{};  // to the compiler this is x; of x + 0 it has to make +0 where x is -0
}

// What is added to a fixed-point number with 16 fraction bits before those bits are cut off.
template <Rounding R, class Word>
FG_FN Word rounding_addend(Word fixed, Word noise) {
  if constexpr (R == Rounding::stochastic) return noise;  // carries for exactly `fraction` of the 65,536 noises
  if constexpr (R == Rounding::nearest) return ((fixed >> 16) & 1u) + 0x7fffu;  // ties to even
  return fixed ^ fixed;
}

// A non-negative number of gaps, given times 2^16: the whole number it is rounded to stands from bit 16 on.
template <Rounding R, class Float, class Word>
FG_FN Word round_gaps(Float gaps_65536, Word noise) {
  Word fixed = float_to_word(gaps_65536);
  if constexpr (R == Rounding::nearest) fixed |= mask_to_word(word_to_float(fixed) != gaps_65536);  // breaks a tie
  return fixed + rounding_addend<R>(fixed, noise);
}

// The gap between the subnormals of a float format.
template <Format F>
FG_FN constexpr float subnormal_gap() {
  constexpr FormatSpec spec = format_spec(F);
  float gap = 1.0f;
  for (int e = static_cast<int>(spec.exponent0) - 127 - spec.mantissa; e < 0; ++e) gap *= 0.5f;
  return gap;
}

// The float32 bits of a normal number of a float format: its exponent is moved.
template <Format F, class Word>
FG_FN Word normal_bits(Word code) {
  constexpr FormatSpec spec = format_spec(F);
  return (code << (23 - spec.mantissa)) + ((spec.exponent0 - 1u) << 23);
}

template <class Float, class Word>
struct Rounded {
  Word fixed;   // from bit 16 on the code, without a sign: see code_of
  Float value;  // what it stands for
  bool small;   // some lane may have become zero
};

// Whether a sign can stay where it is, above the exponent, while the number is rounded.
template <Format F>
FG_FN constexpr bool sign_rides() {
  return !format_spec(F).integer && format_spec(F).mantissa <= 7;
}

// What separates a format's exponents from float32's is, modulo their range, its highest exponent bit: a code is
// rebased by inverting that. (Of fp16 the bits are rebased before, as there is no room above them; codes of fp4_e2m1
// are counted.)
template <Format F>
FG_FN constexpr uint32_t inverted_bit() {
  constexpr FormatSpec spec = format_spec(F);
  if (!sign_rides<F>() || F == Format::bf16 || F == Format::fp4_e2m1) return 0u;
  return ((spec.exponent0 - 1u) << spec.mantissa) & ((1u << spec.sign_shift) - 1u);
}

template <Format F, class Word>
FG_FN Word code_of(Word fixed) {
  static_assert((inverted_bit<F>() & (inverted_bit<F>() - 1u)) == 0u);
  if constexpr (inverted_bit<F>() == 0u) return fixed >> 16;
  return ((fixed >> 16) & ((1u << format_spec(F).sign_shift) - 1u)) ^ inverted_bit<F>();
}

// A magnitude in [0, largest], or, where the sign rides, a number in [-largest, largest]: then `value` has the sign,
// too, and `fixed` has it somewhere above the code. NORMAL: no number is below the smallest normal one of the format.
template <Format F, Rounding R, bool NORMAL = false, class Float, class Word>
FG_FN Rounded<Float, Word> round_number(Float v, Word noise) {
  constexpr FormatSpec spec = format_spec(F);
  if constexpr (spec.integer) {
    const Word fixed = round_gaps<R>(v * 65536.0f, noise);
    return {fixed, word_to_float(fixed >> 16), true};
  } else if constexpr (F == Format::bf16) {
    // bfloat16 has float32's exponents: the bits themselves are the fixed-point number.
    const Word bits = float_bits(v);
    const Word fixed = bits + rounding_addend<R>(bits, noise);
    return {fixed, bits_float(fixed & 0xffff0000u), true};
  } else if constexpr (F == Format::fp4_e2m1) {
    // Most of its numbers are below the smallest normal one, which share its gap: no branch. The exponent of the gap is
    // that of the number, or of the smallest normal one.
    const Word bits = float_bits(v);
    const Word exponent = float_bits(maximum(magnitude(v), splat<Float>(bits_float(spec.exponent0 << 23)))) & kInfinity;
    const Float gaps_65536 = magnitude(v) * bits_float(((254u + 16u + spec.mantissa) << 23) - exponent);  // exact
    const Word units = round_gaps<R>(gaps_65536, noise);
    const Float signless = word_to_float(units >> 16) * bits_float(exponent - (static_cast<uint32_t>(spec.mantissa) << 23));
    // Every doubling of the gap has 2^mantissa codes.
    const Word fixed = units + ((exponent - (spec.exponent0 << 23)) >> (7 - spec.mantissa));
    return {fixed, bits_float(float_bits(signless) | (bits & kSign)), true};
  } else {
    const Word bits = float_bits(v);
    Word fixed;
    Float value;
    if constexpr (sign_rides<F>()) {
      constexpr int kDropped = 7 - spec.mantissa;
      fixed = bits >> kDropped;
      if constexpr (R == Rounding::nearest) fixed |= mask_to_word((bits & ((1u << kDropped) - 1u)) != 0u);  // breaks a tie
      fixed = fixed + rounding_addend<R>(fixed, noise);
      value = bits_float((fixed & 0xffff0000u) << kDropped);
    } else {
      constexpr int kAdded = spec.mantissa - 7;
      constexpr uint32_t kRebase = (spec.exponent0 - 1u) << 23;
      fixed = (bits << kAdded) - (kRebase << kAdded);
      fixed = fixed + rounding_addend<R>(fixed, noise);
      value = bits_float(((fixed & 0xffff0000u) >> kAdded) + kRebase);
    }
    constexpr uint32_t kSmallestNormal = spec.exponent0 << 23;
    const bool small = !NORMAL && any_below(magnitude(v), bits_float(kSmallestNormal));
    if (small) {  // subnormal in the format, or zero: rare where the scale fits
      constexpr float kGap = subnormal_gap<F>();
      const Float m = magnitude(v);
      const auto below = m < bits_float(kSmallestNormal);
      const Word units = round_gaps<R>(select(below, m, splat<Float>(0.0f)) * (65536.0f / kGap), noise);  // exact
      const Float signless = word_to_float(units >> 16) * kGap;
      fixed = select(below, units ^ (inverted_bit<F>() << 16), fixed);
      value = select(below, bits_float(float_bits(signless) | (bits & kSign)), value);
    }
    return {fixed, value, small};
  }
}

enum class Scaling {
  none,     // scale and inverse scale are 1 and not multiplied with
  plain,    // largest * scale is finite
  clamped,  // the value is clamped to the largest float32
};

// The code of a magnitude gets the sign of `v`; that of an integer, in two's complement, has none at zero.
template <Format F, class Float, class Word>
FG_FN Word signed_code(Word code, Float v) {
  constexpr FormatSpec spec = format_spec(F);
  if constexpr (!spec.integer) return code | ((float_bits(v) & kSign) >> (31 - spec.sign_shift));
  const Word minus = sign_mask(v);
  return (code ^ minus) - minus;
}

template <Format F, class Float, class Word>
FG_FN Float signed_value(Float magnitude, Word code, Float v) {
  const Word sign = float_bits(v) & kSign;
  if constexpr (!format_spec(F).integer) return bits_float(float_bits(magnitude) | sign);
  return bits_float(float_bits(magnitude) | select(code == 0u, Word{}, sign));
}

template <class Float, class Word>
struct Quantized {
  Word code;    // with its sign; integers in two's complement (the stored bits are the lowest ones)
  Float value;  // what is stored, dequantized
};

// Finite y.
template <Format F, Rounding R, Scaling S, class Float, class Word>
FG_FN Quantized<Float, Word> quantize_finite(Float y, Float inverse_scale, Float scale, Word noise) {
  constexpr FormatSpec spec = format_spec(F);
  Float v = y;
  if constexpr (S != Scaling::none) v = y * inverse_scale;
  const Rounded<Float, Word> r = round_number<F, R>(minimum(magnitude(v), splat<Float>(spec.largest)), noise);
  const Word code = signed_code<F>(code_of<F>(r.fixed), v);
  Float value = r.value;
  if constexpr (spec.integer) value = word_to_float(code);  // with its sign; +0 for zero
  if constexpr (S != Scaling::none) value = value * scale;
  if constexpr (S == Scaling::clamped) {
    const Word sign = float_bits(value) & kSign;
    value = bits_float(float_bits(minimum(magnitude(value), splat<Float>(bits_float(kFloatMax)))) | sign);
  }
  if constexpr (!spec.integer) value = bits_float(float_bits(value) | (float_bits(v) & kSign));
  return {code, value};
}

// The same where y times the inverse scale is not beyond the largest of the format, and largest * scale is finite: the
// sign rides along. Where y is beyond it, so are the codes (is_beyond), of all but fp4_e2m1. NORMAL: as round_number says,
// of y times the inverse scale.
template <Format F, Rounding R, Scaling S, bool NORMAL = false, class Float, class Word>
FG_FN Quantized<Float, Word> quantize_fitting(Float y, Float inverse_scale, Float scale, Word noise) {
  constexpr FormatSpec spec = format_spec(F);
  static_assert(S != Scaling::clamped && F != Format::fp4_e2m1);
  Float v = y;
  if constexpr (S != Scaling::none) v = y * inverse_scale;
  Quantized<Float, Word> q;
  if constexpr (spec.integer && R == Rounding::stochastic) {
    // Of a negative number -(f + z) >> 16 is wanted, rounded towards zero: towards minus infinity, as the shift
    // rounds, that is (-f - z + 65535) >> 16.
    q.code = shift_signed(float_to_word(v * 65536.0f) + ((noise ^ sign_mask(v)) & 0xffffu), 16);
    q.value = word_to_float(q.code);
  } else {
    const Rounded<Float, Word> r = round_number<F, R, NORMAL>(sign_rides<F>() ? v : magnitude(v), noise);
    q.code = F == Format::bf16 ? code_of<F>(r.fixed) : signed_code<F>(code_of<F>(r.fixed), v);
    q.value = r.value;
    if constexpr (spec.integer) q.value = word_to_float(q.code);
    if constexpr (!spec.integer && !sign_rides<F>()) q.value = bits_float(float_bits(r.value) | (float_bits(v) & kSign));
  }
  if constexpr (S != Scaling::none) q.value = q.value * scale;
  return q;
}

// Whether a code of quantize_fitting is that of no number of the format. Code is an integer or a vector of them.
template <Format F, class Code>
FG_FN auto is_beyond(Code code) {
  constexpr FormatSpec spec = format_spec(F);
  constexpr int kLast = spec.keeps_infinity ? spec.infinity - 1 : spec.infinity;  // the code of the largest number
  if constexpr (spec.integer) return (code & ((1 << spec.code_bits) - 1)) == 1 << (spec.code_bits - 1);
  if constexpr (!spec.integer) return (code & ((1 << spec.sign_shift) - 1)) > kLast;
}

// Whether a finite y is larger than the format holds.
template <Format F>
FG_FN bool saturates(float y, float inverse_scale) {
  return magnitude(y * inverse_scale) > format_spec(F).largest;
}

// Any y, non-finite ones included, any scale.
template <Format F, Rounding R>
FG_FN Quantized<float, uint32_t> quantize_any(float y, float inverse_scale, float scale, uint32_t noise) {
  constexpr FormatSpec spec = format_spec(F);
  const uint32_t m = float_bits(y) & kMagnitude, sign = float_bits(y) & kSign;
  if (m < kInfinity) return quantize_finite<F, R, Scaling::clamped>(y, inverse_scale, scale, noise);
  if (m > kInfinity) {
    const bool has_nan = !(spec.integer || F == Format::fp4_e2m1);
    return {spec.nan, has_nan ? bits_float(kNaN) : 0.0f};
  }
  if (spec.keeps_infinity) {
    return {spec.infinity | (sign >> (31 - spec.sign_shift)), bits_float(kInfinity | sign)};
  }
  return quantize_finite<F, R, Scaling::clamped>(bits_float(float_bits(spec.largest) | sign), 1.0f, scale, noise);
}

// IEEE half precision to float32, exactly, without a branch: the exponent is moved by a multiplication, which
// also normalizes subnormals.
FG_FN float half_to_float(uint16_t h) {
  const uint32_t m = h & 0x7fffu, sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const float scaled = bits_float(m << 13) * power_of_two(112);
  const uint32_t bits = m >= 0x7c00u ? (m << 13) | kInfinity : float_bits(scaled);
  return bits_float(bits | sign);
}

// The magnitude a code without a sign stands for, for codes of finite numbers.
template <Format F>
FG_FN float decode_finite(uint32_t code) {
  constexpr FormatSpec spec = format_spec(F);
  if constexpr (F == Format::fp32) return bits_float(code);
  if constexpr (F == Format::bf16) return bits_float(code << 16);
  if constexpr (spec.integer || F == Format::fp32 || F == Format::bf16) {
    return word_to_float(code);
  } else {
    const float subnormal = word_to_float(code) * subnormal_gap<F>();
    return code < (1u << spec.mantissa) ? subnormal : bits_float(normal_bits<F>(code));
  }
}

// The value of a stored code (with its sign, upper bits ignored), infinities and NaN included.
template <Format F>
FG_FN float dequantize_code(uint32_t code, float scale) {
  constexpr FormatSpec spec = format_spec(F);
  uint32_t sign;
  float value;
  if constexpr (spec.integer) {
    const int shift = 32 - spec.code_bits;
    const int32_t number = static_cast<int32_t>(code << shift) >> shift;
    sign = number < 0 ? kSign : 0u;
    value = static_cast<float>(number < 0 ? -number : number);
  } else {
    sign = (code << (31 - spec.sign_shift)) & kSign;
    const uint32_t m = code & ((1u << spec.sign_shift) - 1u);
    if (spec.keeps_infinity && m >= spec.infinity) return m == spec.infinity ? bits_float(kInfinity | sign) : bits_float(kNaN);
    if (F == Format::fp8_e4m3 && m == spec.nan) return bits_float(kNaN);
    value = decode_finite<F>(m);
  }
  value = value * scale;
  value = value < bits_float(kFloatMax) ? value : bits_float(kFloatMax);
  return bits_float(float_bits(value) | sign);
}

// The scale under which `absmax` becomes `largest`.
template <class Float>
FG_FN Float largest_as(Float absmax, float largest) {
  const Float ratio = absmax / largest, smallest = splat<Float>(power_of_two(-126));
  return select(absmax == 0.0f, splat<Float>(1.0f), select(ratio > smallest, ratio, smallest));
}

// The smallest power of two, 2^-126 at least, times which `largest` is not below `absmax`: the bits of a float count on
// from power to power, so that what remains of their difference rounds the exponent up.
template <class Float>
FG_FN Float power_of_two_as(Float absmax, float largest) {
  const Float raised = maximum(absmax, splat<Float>(largest * power_of_two(-126)));
  const auto bits = (float_bits(raised) - (float_bits(largest) - float_bits(1.0f)) + 0x7fffffu) & kInfinity;
  return select(absmax == 0.0f, splat<Float>(1.0f), bits_float(bits));
}

// The scale of a tensor or block whose largest finite magnitude is `absmax` (section 5).
template <class Float>
FG_FN Float scale_for(Float absmax, float largest, bool pow2) {
  return pow2 ? power_of_two_as(absmax, largest) : largest_as(absmax, largest);
}

FASTGRAD_NUMERICS_END
