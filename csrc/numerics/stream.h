// The noise stream of one tensor at one step. See docs/numerics.md, section 2.
#pragma once

#include "portable.h"

FASTGRAD_NUMERICS_BEGIN

enum class Purpose : int { gradient, weight, state, activation, communication };

constexpr int kParameterBits = 18, kStepBits = 31, kSlotBits = 12;

// slot: the micro-batch, or the rank for communication. The caller has checked the ranges.
FG_FN uint64_t pack_stream(Purpose purpose, uint64_t parameter, uint64_t step, uint64_t slot) {
  return static_cast<uint64_t>(purpose) << (kParameterBits + kStepBits + kSlotBits) |
         parameter << (kStepBits + kSlotBits) | step << kSlotBits | slot;
}

FASTGRAD_NUMERICS_END
